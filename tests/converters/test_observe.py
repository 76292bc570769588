"""Every tensor of a graph after a run, and one error for whatever does not fit."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.converters.zoo import graph, samples

from edgekd_converters.calibrate import calibrate_minmax
from edgekd_converters.divergence import run_columns
from edgekd_converters.errors import RunError
from edgekd_converters.graph import Graph, Tensor, read_graph
from edgekd_converters.load.keras_source import convert_keras
from edgekd_converters.observe import Observer, feeds
from edgekd_converters.quantize import quantize_int8
from edgekd_runtime.backend import open_model


@pytest.fixture(scope="module")
def float_graph(keras: Any) -> Graph:
    """``hidden = relu(x · [[1, -10, 0], [2, 10, 1]] + [0, 3, 1])``, ``y = hidden · [[1], [1], [-1]]``."""
    x = keras.Input((2,), name="x")
    hidden = keras.layers.Dense(3, activation="relu", name="hidden")
    y = keras.layers.Dense(1, use_bias=False, name="y")
    model = keras.Model(x, y(hidden(x)))
    hidden.set_weights([np.array([[1, -10, 0], [2, 10, 1]], np.float32), np.array([0, 3, 1], np.float32)])
    y.set_weights([np.array([[1], [1], [-1]], np.float32)])
    return convert_keras(model)


@pytest.fixture(scope="module")
def int8_graph(float_graph: Graph) -> Graph:
    rows = np.random.default_rng(0).uniform(-1, 1, size=(50, 1, 2)).astype(np.float32)
    return quantize_int8(float_graph, calibrate_minmax(float_graph, ({"x": row} for row in rows)))


def named(graph: Graph, name: str) -> Tensor:
    (found,) = (tensor for tensor in graph.tensors if tensor.name == name)
    return found


def test_tensors_in_between_are_kept(float_graph: Graph) -> None:
    observer = Observer(float_graph)
    first, last = (op.outputs[0].index for op in float_graph.ops)
    for x, hidden, y in (([1, 2], [5, 13, 3], 15), ([-1, 0], [0, 13, 1], 12)):
        observer.run({"x": np.array([x], np.float32)})
        np.testing.assert_allclose(observer.read(first), [hidden])
        np.testing.assert_allclose(observer.read(last), [[y]])
        np.testing.assert_array_equal(observer.read_real(first), observer.read(first))
        assert (observer.read(first).dtype, observer.read_real(first).dtype) == (np.float32, np.float64)


def test_a_quantised_tensor_is_read_as_stored_and_as_real(float_graph: Graph, int8_graph: Graph) -> None:
    observer = Observer(int8_graph)
    details = {
        detail["index"]: detail["quantization_parameters"] for detail in observer._interpreter.get_tensor_details()
    }
    given = named(int8_graph, int8_graph.signature.inputs["x"])
    scale, zero_point = (float(details[given.index][key][0]) for key in ("scales", "zero_points"))
    stored = np.array([[100, -40]], np.int8)
    observer.run({"x": stored})
    assert observer.read(given.index).dtype == np.int8
    np.testing.assert_array_equal(observer.read(given.index), stored)
    real = observer.read_real(given.index)
    np.testing.assert_allclose(real, (stored.astype(float) - zero_point) * scale, rtol=1e-6)
    wanted = Observer(float_graph)
    wanted.run({"x": real.astype(np.float32)})
    for op in float_graph.ops:
        (tensor,) = op.outputs
        got = observer.read_real(named(int8_graph, tensor.name).index)
        np.testing.assert_allclose(got, wanted.read(tensor.index), atol=0.5)


def test_integers_that_mean_themselves_are_left_alone(student_graph: Graph, student_rows: list[Any]) -> None:
    observer = Observer(student_graph)
    observer.run({"ids": student_rows[0]})
    ids = named(student_graph, student_graph.signature.inputs["ids"]).index
    np.testing.assert_array_equal(observer.read_real(ids), student_rows[0])


def test_weights_with_a_scale_per_channel_are_read_as_real(int8_graph: Graph) -> None:
    observer = Observer(int8_graph)
    (weights,) = (tensor for tensor in int8_graph.tensors if tensor.shape == (3, 2) and tensor.is_constant)
    np.testing.assert_allclose(observer.read_real(weights.index), [[1, 2], [-10, 10], [0, 1]], atol=0.05)


@pytest.mark.parametrize(
    ("feed", "words"),
    [
        ({}, "differ by 'x'"),
        ({"z": np.zeros((1, 2), np.float32)}, "differ by 'x'"),
        ({"x": np.zeros((1, 2), np.float32), "z": np.zeros(1)}, "differ by 'z'"),
        ({"x": np.zeros((1, 3), np.float32)}, "cannot run on a sample: .*[Dd]imension"),
        ({"x": np.zeros((2, 2), np.float32)}, "cannot run on a sample: .*[Dd]imension"),
        ({"x": np.zeros((2,), np.float32)}, "cannot run on a sample: .*[Dd]imension"),
        ({"x": np.zeros((1, 2), np.float64)}, "cannot run on a sample: .*type"),
    ],
    ids=["nothing", "another-name", "one-too-many", "width", "batch", "no-batch", "dtype"],
)
def test_a_sample_that_does_not_fit_is_one_error(float_graph: Graph, feed: Mapping[str, Any], words: str) -> None:
    observer = Observer(float_graph)
    with pytest.raises(RunError, match=words) as caught:
        observer.run(feed)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 1
    observer.run({"x": np.zeros((1, 2), np.float32)})
    np.testing.assert_allclose(observer.read(float_graph.ops[0].outputs[0].index), [[0, 3, 1]], atol=1e-6)


def test_a_model_that_the_interpreter_refuses_is_one_error(tf: Any, to_tflite: Callable[..., bytes]) -> None:
    content = to_tflite(lambda x: tf.raw_ops.Erf(x=x), ((1, 4), tf.float32), ops=["TFLITE_BUILTINS", "SELECT_TF_OPS"])
    graph = read_graph(content.replace(b"FlexErf", b"Strange"))
    with pytest.raises(RunError, match=r"the interpreter refuses the model: .*Strange") as caught:
        Observer(graph)
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=r"the interpreter refuses the model: "):
        Observer(replace(graph, content=b""))


def test_a_recurrent_model_forgets_the_sample_before() -> None:
    lstm = graph("lstm")
    columns = samples(lstm, 6, 3)
    backwards = {name: column[::-1] for name, column in columns.items()}
    for name, value in run_columns(lstm, columns).items():
        np.testing.assert_array_equal(run_columns(lstm, backwards)[name][::-1], value)
    observer, end = Observer(lstm), lstm.outputs[0].index
    seen = []
    for feed in [*feeds(columns), *feeds(backwards)]:
        observer.run(feed)
        seen.append(observer.read(end).copy())
    for first, again in zip(seen[:6], seen[:5:-1], strict=True):
        np.testing.assert_array_equal(first, again)
    backend = open_model(lstm.content, lstm.signature.inputs, lstm.signature.outputs, backend="litert")
    got = [backend.invoke(list(feed.values()))[0].copy() for feed in [*feeds(columns), *feeds(backwards)]]
    for first, again in zip(got[:6], got[:5:-1], strict=True):
        np.testing.assert_array_equal(first, again)
