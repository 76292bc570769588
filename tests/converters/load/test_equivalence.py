"""The comparison of a model with its float graph, on models whose graph has been spoilt on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekd_converters.errors import LoadError
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.load.culprit import find_culprit
from edgekd_converters.load.equivalence import check, compare, to_graph, to_source
from edgekd_converters.load.keras_source import convert_keras
from edgekd_converters.load.source import Layer
from edgekd_converters.observe import Columns, Feed

Array = npt.NDArray[Any]
Runner = Callable[[Columns], dict[str, Array]]
NCHW = {"image": (0, 2, 3, 1)}


@pytest.fixture(scope="module")
def block(keras: Any) -> Any:
    """Two branches with batch norms to be fused away, a flattening, two outputs."""
    keras.utils.set_random_seed(5)
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", name="stem")(image)
    x = layers.ReLU(name="stem_relu")(layers.BatchNormalization(name="stem_norm")(x))
    left = layers.Conv2D(6, 1, name="left")(x)
    left = layers.ReLU(name="left_relu")(layers.BatchNormalization(name="left_norm")(left))
    right = layers.Conv2D(6, 3, padding="same", activation="relu", name="right")(x)
    right = layers.AveragePooling2D(3, 1, padding="same", name="right_pool")(right)
    x = layers.Concatenate(name="join")([left, right])
    deep = layers.Conv2D(4, 3, strides=2, name="deep")(x)
    scores = layers.Dense(5, name="scores")(layers.Flatten(name="flat")(deep))
    return keras.Model(image, {"scores": scores, "size": layers.GlobalAveragePooling2D(name="size")(x)})


@pytest.fixture(scope="module")
def block_graph(block: Any) -> Graph:
    return convert_keras(block)


@pytest.fixture(scope="module")
def rows() -> Array:
    return np.random.default_rng(6).normal(size=(40, 8, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def run(block: Any) -> Runner:
    """The Keras model as if its image were NCHW."""

    def go(columns: Columns) -> dict[str, Array]:
        made = block(np.transpose(columns["image"], (0, 2, 3, 1)))
        return {name: np.array(value) for name, value in made.items()}

    return go


@pytest.fixture(scope="module")
def layers_of(keras: Any, block: Any) -> Callable[[Feed], Iterator[Layer]]:
    """Its inner results, images as NCHW."""
    shown = [layer for layer in block.layers if layer.name != "image"]
    inner = keras.Model(block.inputs, [layer.output for layer in shown])

    def go(feed: Feed) -> Iterator[Layer]:
        for layer, made in zip(shown, inner(np.transpose(feed["image"], (0, 2, 3, 1))), strict=True):
            value = np.array(made)
            value = value.transpose(0, 3, 1, 2) if value.ndim == 4 else value
            yield Layer(layer.name, type(layer).__name__, value)

    return go


def nchw(rows: Array) -> dict[str, Array]:
    return {"image": np.ascontiguousarray(rows.transpose(0, 3, 1, 2))}


KERNELS = {
    **{"stem": (6, 3, 3, 3), "left": (6, 1, 1, 6), "right": (6, 3, 3, 6), "deep": (4, 3, 3, 12)},
    "scores": (5, 36),
}


def spoilt(graph: Graph, name: str, change: Callable[[Array], Array]) -> Graph:
    """With the weights changed of one layer of the block."""
    op = next(op for op in graph.main if len(op.inputs) > 1 and op.inputs[1].shape == KERNELS[name])
    return graph.edited({}, {}, {(op.index, 1): change(graph.constant(op.inputs[1]))})


def test_a_model_and_its_graph_are_equal(block_graph: Graph, run: Runner, rows: Array) -> None:
    result = check(block_graph, NCHW, nchw(rows), run)
    assert result.equal
    assert (result.rows, {output.name for output in result.outputs}) == (40, {"scores", "size"})
    assert 0 < result.max_difference < 1e-4
    assert 0 < result.mean_difference <= result.max_difference
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["outputs"][0]["name"]


def test_the_numbers_are_those_of_both_runs(block_graph: Graph, run: Runner, rows: Array) -> None:
    def shifted(columns: Columns) -> dict[str, Array]:
        made = run(columns)
        made["scores"][..., 0] += 0.5
        return made

    result = compare(block_graph, NCHW, nchw(rows), shifted)
    scores = next(output for output in result.outputs if output.name == "scores")
    assert scores.max_difference == pytest.approx(0.5, abs=1e-4)
    assert scores.mean_difference == pytest.approx(0.1, abs=1e-4)  # one of five numbers
    values = run(nchw(rows))["scores"]
    assert scores.allowed == pytest.approx(1e-3 * (np.ptp(values) + 0.5), rel=0.5)
    assert not result.equal
    assert compare(block_graph, NCHW, nchw(rows), shifted, tolerance=1).equal


def test_the_worst_row_is_found_across_parts(block_graph: Graph, run: Runner, rows: Array) -> None:
    seen = []

    def late(columns: Columns) -> dict[str, Array]:
        made = run(columns)
        seen.append(len(columns["image"]))
        if sum(seen) == 40:
            made["size"][-3] += 1
        return made

    result = compare(block_graph, NCHW, nchw(rows), late)
    assert (result.worst.name, result.worst.worst_row, len(seen)) == ("size", 37, 2)


def test_layouts_are_followed_both_ways(rows: Array) -> None:
    there = to_graph(nchw(rows), NCHW)
    np.testing.assert_array_equal(there["image"], rows)
    np.testing.assert_array_equal(to_source(there, NCHW)["image"], nchw(rows)["image"])
    odd = {"image": (0, 3, 1, 2)}
    np.testing.assert_array_equal(to_source(to_graph({"image": rows}, odd), odd)["image"], rows)


@pytest.fixture(scope="module")
def edge_graph(tf: Any, to_tflite: Callable[..., bytes]) -> Graph:
    """``(1, 4)`` → the logarithm, and the place of the greatest."""

    def function(x: Any) -> Mapping[str, Any]:
        return {"log": tf.math.log(x), "best": tf.argmax(x, axis=1, output_type=tf.int32)}

    return read_graph(to_tflite(function, ((1, 4), tf.float32)))


def edge_run(graph: Graph, change: Callable[[dict[str, Array]], object] = lambda made: None) -> Runner:
    def go(columns: Columns) -> dict[str, Array]:
        x = next(iter(columns.values()))
        with np.errstate(all="ignore"):
            made = {"log": np.log(x), "best": x.argmax(1).astype(np.int32)}
        change(made)
        kinds = {tensor.name: "best" if tensor.dtype == "INT32" else "log" for tensor in graph.outputs}
        return {public: made[kinds[inner]] for public, inner in graph.signature.outputs.items()}

    return go


def edge_rows(graph: Graph, count: int = 200) -> dict[str, Array]:
    rows = np.random.default_rng(7).uniform(0.5, 2, size=(count, 4)).astype(np.float32)
    rows[3, 0], rows[4, 1] = -1, 0  # NaN and minus infinity
    return {next(iter(graph.signature.inputs)): rows}


def test_nan_is_nan_and_infinity_infinity(edge_graph: Graph) -> None:
    result = check(edge_graph, {}, edge_rows(edge_graph), edge_run(edge_graph))
    assert all(np.isfinite(output.max_difference) for output in result.outputs)
    assert result.max_difference < 1e-6


@pytest.mark.parametrize(("row", "column"), [(3, 0), (4, 1), (9, 2)])
def test_nan_on_one_side_is_a_difference(edge_graph: Graph, row: int, column: int) -> None:
    def spoil(made: dict[str, Array]) -> None:
        made["log"][row, column] = 1.0 if row < 9 else np.nan

    run = edge_run(edge_graph, spoil)
    result = compare(edge_graph, {}, edge_rows(edge_graph, 30), run)
    assert (result.equal, result.worst.unmatched, result.worst.worst_row) == (False, 1, row)
    json.dumps(result.to_dict(), allow_nan=False)
    with pytest.raises(LoadError, match="NaN or infinite on one side only, in 1 numbers"):
        check(edge_graph, {}, edge_rows(edge_graph, 30), run)


@pytest.mark.parametrize(("wrong", "equal"), [(0, True), (2, True), (3, False)])
def test_integers_may_differ_at_a_near_tie_only(edge_graph: Graph, wrong: int, equal: bool) -> None:
    columns = edge_rows(edge_graph)
    limit = np.sort(next(iter(columns.values()))[:, 3])[-wrong - 1]

    def run(part: Columns) -> dict[str, Array]:
        tie = next(iter(part.values()))[:, 3] > limit
        return edge_run(edge_graph, lambda made: made.update(best=np.where(tie, 3 - made["best"], made["best"])))(part)

    result = compare(edge_graph, {}, columns, run)
    assert result.equal is equal


def test_an_untrained_networks_probabilities_are_not_all_alike(keras: Any) -> None:
    """They lie within 1e-3 of each other, and a network with other weights must still be told from it."""
    keras.utils.set_random_seed(8)
    x = keras.Input((16,), name="x")
    model = keras.Model(x, keras.layers.Dense(500, activation="softmax", name="p")(x))
    other = keras.models.clone_model(model)
    columns = {"x": np.random.default_rng(8).normal(size=(8, 16)).astype(np.float32) * 0.1}
    graph = convert_keras(model)
    assert compare(graph, {}, columns, lambda part: {"p": np.array(model(part["x"]))}).equal
    result = compare(graph, {}, columns, lambda part: {"p": np.array(other(part["x"]))})
    assert result.max_difference < 1e-3
    assert not result.equal


def test_another_shape_or_name_is_told(block_graph: Graph, run: Runner, rows: Array) -> None:
    with pytest.raises(LoadError, match=r"'scores' has shape \[4, 5, 1\] in the model and \[4, 5\] in the float graph"):
        check(block_graph, NCHW, nchw(rows[:4]), lambda part: {**run(part), "scores": run(part)["scores"][..., None]})
    with pytest.raises(LoadError, match="does not give the output 'size'"):
        check(block_graph, NCHW, nchw(rows[:4]), lambda part: {"scores": run(part)["scores"]})
    with pytest.raises(LoadError, match="the float graph does not run on the samples"):
        check(block_graph, NCHW, nchw(rows[:4, :, :4]), lambda part: run(nchw(rows[:4])))


@pytest.mark.parametrize(
    ("spoil", "culprit", "after"),
    [
        ("stem", "stem", None),
        ("left", "left", "stem_relu"),  # the branch that runs later agrees
        ("right", "right", "stem_relu"),
        ("deep", "deep", "join"),
        ("scores", "scores", "deep"),
    ],
)
def test_the_first_layer_that_differs_is_named(
    block_graph: Graph,
    run: Runner,
    layers_of: Callable[[Feed], Iterator[Layer]],
    rows: Array,
    spoil: str,
    culprit: str,
    after: str | None,
) -> None:
    graph = spoilt(block_graph, spoil, lambda weights: weights[..., ::-1] * 1.3)
    wrong = [output.name for output in compare(graph, NCHW, nchw(rows[:2]), run).outputs if output.excess > 1]
    found = find_culprit(graph, {"image": rows[:1]}, layers_of(nchw(rows[:1])), wrong, 1e-3)
    assert found is not None
    assert (found.layer, found.after) == (culprit, after)
    with pytest.raises(LoadError) as error:
        check(graph, NCHW, nchw(rows[:2]), run, layers_of)
    assert f"the first layer that differs is {culprit!r}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_flattening_in_another_order_is_named(keras: Any, tf: Any, to_tflite: Callable[..., bytes]) -> None:
    """The classic fault of a converter: the source flattens NCHW, the graph NHWC."""
    rng = np.random.default_rng(9)
    kernel, dense = rng.normal(size=(3, 3, 3, 4)), rng.normal(size=(6 * 6 * 4, 5))

    def function(image: Any) -> Any:
        x = tf.nn.conv2d(image, tf.constant(kernel, tf.float32), 1, "VALID")
        return {"scores": tf.reshape(x, (1, -1)) @ tf.constant(dense, tf.float32)}

    def layers(feed: Feed) -> list[Layer]:
        image = feed["image"].transpose(0, 2, 3, 1)
        conv = np.array(tf.nn.conv2d(image, kernel.astype(np.float32), 1, "VALID")).transpose(0, 3, 1, 2)
        flat = conv.reshape(1, -1)
        scores = flat @ dense.astype(np.float32)
        return [Layer("conv", "Conv", conv), Layer("flat", "Flatten", flat), Layer("gemm", "Gemm", scores)]

    graph = read_graph(to_tflite(function, ((1, 8, 8, 3), tf.float32)))
    columns = {"image": rng.normal(size=(2, 3, 8, 8)).astype(np.float32)}

    def run(part: Columns) -> dict[str, Array]:
        rows = [layers({"image": row[None]})[-1].value for row in part["image"]]
        return {next(iter(graph.signature.outputs)): np.concatenate(rows)}

    with pytest.raises(LoadError, match=r"first layer that differs is 'flat' \(Flatten\), after 'conv', which agrees"):
        check(graph, NCHW, columns, run, layers)


def test_a_framework_that_shows_no_layers_or_fails_at_it_does_not_hide_the_difference(
    block_graph: Graph, run: Runner, rows: Array
) -> None:
    graph = spoilt(block_graph, "deep", lambda weights: weights * 2)

    def fails(feed: Feed) -> None:
        raise LoadError("the child has died")

    for layers in (None, lambda feed: None, fails):
        with pytest.raises(
            LoadError, match=r"output 'scores' differs by [\d.]+, [\d.]+ is allowed \(0.001 of its range\)$"
        ):
            check(graph, NCHW, nchw(rows[:2]), run, layers)


def test_nothing_is_named_when_every_layer_agrees(
    block_graph: Graph, layers_of: Callable[[Feed], Iterator[Layer]], rows: Array
) -> None:
    assert find_culprit(block_graph, {"image": rows[:1]}, layers_of(nchw(rows[:1])), ["scores"], 1e-3) is None
