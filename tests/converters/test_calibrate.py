"""Ranges: right by hand, streamed, and never silently wrong."""

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekd_converters.calibrate import Ranges, calibrate_minmax
from edgekd_converters.errors import QuantizeError, RunError
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.load.keras_source import convert_keras
from edgekd_converters.observe import Feed

Rows = npt.NDArray[Any]


@pytest.fixture(scope="module")
def dense_graph(keras: Any) -> Graph:
    """``hidden = relu(x · [[1, -1], [2, 1]] + [0, 3])``, ``y = hidden · [[1], [-2]] - 1``."""
    x = keras.Input((2,), name="x")
    hidden = keras.layers.Dense(2, activation="relu", name="hidden")
    y = keras.layers.Dense(1, name="y")
    model = keras.Model(x, y(hidden(x)))
    hidden.set_weights([np.array([[1, -1], [2, 1]], np.float32), np.array([0, 3], np.float32)])
    y.set_weights([np.array([[1], [-2]], np.float32), np.array([-1], np.float32)])
    return convert_keras(model)


def feeds(*rows: list[float]) -> Iterator[Feed]:
    return ({"x": np.array([row], np.float32)} for row in rows)


def named(graph: Graph, ranges: Ranges) -> dict[str, tuple[float, float]]:
    """Range of the input, of the hidden layer and of the output."""
    hidden = graph.ops[0].outputs[0].name
    return {
        "x": ranges[graph.signature.inputs["x"]],
        "hidden": ranges[hidden],
        "y": ranges[graph.signature.outputs["y"]],
    }


def test_least_and_greatest_by_hand(dense_graph: Graph) -> None:
    # x = (1, 2): hidden (5, 4), y -4.   x = (-4, 1): hidden (0, 8), y -17.   x = (3, -1): hidden (1, 0), y 0.
    ranges = calibrate_minmax(dense_graph, feeds([1, 2], [-4, 1], [3, -1]))
    assert named(dense_graph, ranges) == {"x": (-4, 3), "hidden": (0, 8), "y": (-17, 0)}


def test_constants_have_no_range(dense_graph: Graph) -> None:
    ranges = calibrate_minmax(dense_graph, feeds([1, 2]))
    assert set(ranges) == {tensor.name for tensor in dense_graph.tensors if not tensor.is_constant}


def test_order_does_not_matter(dense_graph: Graph) -> None:
    rows = np.random.default_rng(0).normal(size=(20, 2)).tolist()
    assert calibrate_minmax(dense_graph, feeds(*rows)) == calibrate_minmax(dense_graph, feeds(*rows[::-1]))


def test_no_samples_are_an_error(dense_graph: Graph) -> None:
    with pytest.raises(QuantizeError, match="at least one sample"):
        calibrate_minmax(dense_graph, iter(()))


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        pytest.param([[float("nan"), 1]], "x", id="nan-alone"),
        pytest.param([[float("nan"), 1], [1, 2]], "x", id="nan-first"),
        pytest.param([[1, 2], [float("nan"), 1]], "x", id="nan-last"),
        pytest.param([[1, 2], [float("inf"), 1]], "x", id="inf"),
        pytest.param([[1, 2], [float("-inf"), 1]], "x", id="minus-inf"),
    ],
)
def test_nan_and_infinity_are_named(dense_graph: Graph, rows: list[list[float]], names: str) -> None:
    with pytest.raises(QuantizeError, match="holds NaN or infinity") as caught:
        calibrate_minmax(dense_graph, feeds(*rows))
    assert dense_graph.signature.inputs[names] in str(caught.value)


def test_a_gather_takes_the_range_of_its_whole_table(
    student: Any, student_graph: Graph, student_rows: list[Rows]
) -> None:
    ranges = calibrate_minmax(student_graph, [{"ids": student_rows[0]}])  # one text hits few of the 128 rows
    table = student.get_layer("table").get_weights()[0]
    gain = student.get_layer("gain").get_weights()[0]
    gathers = [op for op in student_graph.ops if op.name == "GATHER" and op.inputs[0].is_constant]
    found = {op.inputs[0].shape: ranges[op.outputs[0].name] for op in gathers}
    assert found == {table.shape: (table.min(), table.max()), gain.shape: (gain.min(), gain.max())}
    hit = table[student_rows[0][0, 1:]]
    assert (hit.min(), hit.max()) != (table.min(), table.max())


def test_nan_in_a_row_that_no_sample_hits_is_found(keras: Any) -> None:
    ids = keras.Input((1,), dtype="int32", name="ids")
    table = keras.layers.Embedding(3, 2)
    model = keras.Model(ids, keras.layers.Dense(2)(keras.layers.Flatten()(table(ids))))
    table.set_weights([np.array([[1, 2], [3, 4], [5, np.nan]], np.float32)])
    graph = convert_keras(model)
    assert "GATHER" in {op.name for op in graph.ops}
    with pytest.raises(QuantizeError, match="NaN"):
        calibrate_minmax(graph, [{"ids": np.array([[0]], np.int32)}])


def test_a_model_without_a_signature_is_calibrated_by_tensor_names(to_tflite: Callable[..., bytes], tf: Any) -> None:
    graph = read_graph(to_tflite(lambda x: tf.nn.relu(x), ((1, 2), tf.float32)))
    assert graph.signature.key == ""
    (name,) = graph.signature.inputs
    ranges = calibrate_minmax(graph, [{name: np.array([[-2, 3]], np.float32)}])
    assert sorted(ranges.values()) == [(-2, 3), (0, 3)]


def test_a_sample_that_the_model_cannot_run_is_an_error_of_ours(student_graph: Graph) -> None:
    ids = np.zeros((1, 48), np.int32)
    ids[0, :2] = 1, 5000  # the table has 128 rows
    with pytest.raises(RunError, match="cannot run on a sample") as caught:
        calibrate_minmax(student_graph, [{"ids": ids}])
    assert "\n" not in str(caught.value)


def test_samples_are_read_once_and_one_at_a_time(dense_graph: Graph) -> None:
    class Sample(dict[str, Any]):
        """A dict that can be referred to weakly."""

    alive: list[weakref.ref[Sample]] = []
    most = 0

    def stream() -> Iterator[Feed]:
        nonlocal most
        for i in range(50):
            sample = Sample(x=np.array([[i, -i]], np.float32))
            alive.append(weakref.ref(sample))
            most = max(most, sum(ref() is not None for ref in alive))
            yield sample

    source = stream()
    ranges = calibrate_minmax(dense_graph, source)
    assert named(dense_graph, ranges)["x"] == (-49, 49)
    assert len(alive) == 50
    assert next(source, None) is None
    assert most <= 2
