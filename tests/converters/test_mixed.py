"""Graphs that are int8 but for a few tensors: which op computes in what, and that the interpreter runs them well."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgekd_converters.calibrate import Ranges, calibrate_minmax
from edgekd_converters.divergence import run_columns
from edgekd_converters.errors import QuantizeError
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.mixed import Wide, ops_around, quantize_dynamic, quantize_mixed
from edgekd_converters.observe import Observer
from edgekd_converters.simulate import grids_of

Rows = list[npt.NDArray[Any]]


@pytest.fixture(scope="module")
def ranges(conv_graph: Graph, images: Rows) -> Ranges:
    return calibrate_minmax(conv_graph, ({"image": image} for image in images))


def error(graph: Graph, made: Graph, images: Rows) -> float:
    """Relative RMSE of the first output."""
    wanted, observer = run_columns(graph, {"image": np.concatenate(images)})["scores"], Observer(made)
    got = []
    for image in images:
        observer.run({"image": stored(made, image)})
        got.append(observer.read_real(made.outputs[0].index))
    return float(np.linalg.norm(np.concatenate(got) - wanted) / np.linalg.norm(wanted))


def stored(graph: Graph, image: npt.NDArray[Any]) -> npt.NDArray[Any]:
    grid = grids_of(graph).get(graph.inputs[0].name)
    if grid is None:
        return image
    steps = np.rint(image / grid.scale) + grid.zero_point
    limit = 1 << grid.bits - 1
    return np.clip(steps, -limit, limit - 1).astype(f"int{grid.bits}")


def of_op(graph: Graph, name: str) -> str:
    return next(op.outputs[0].name for op in graph.main if op.name == name)


@pytest.mark.parametrize("wide", ["INT16", "FLOAT32"])
@pytest.mark.parametrize("op", ["DEPTHWISE_CONV_2D", "CONV_2D", "FULLY_CONNECTED"])
def test_a_tensor_is_wide_and_all_others_are_not(
    conv_graph: Graph, ranges: Ranges, images: Rows, op: str, wide: Wide
) -> None:
    tensor = of_op(conv_graph, op)
    made = quantize_mixed(conv_graph, ranges, [tensor], wide)
    around = {one.outputs[0].name for one in ops_around(conv_graph, [tensor])}
    types = {one.outputs[0].name: one.outputs[0].dtype for one in made.main}
    assert {types[name] for name in around} == {wide}
    others = {one.outputs[0].name for one in conv_graph.main} - around
    assert {types[name] for name in others} == {"INT8"}
    assert error(conv_graph, made, images) < 0.1


@pytest.mark.parametrize("wide", ["INT16", "FLOAT32"])
def test_all_wide_is_next_to_exact(conv_graph: Graph, ranges: Ranges, images: Rows, wide: Wide) -> None:
    names = [op.outputs[0].name for op in conv_graph.main]
    made = quantize_mixed(conv_graph, ranges, names, wide)
    assert {op.outputs[0].dtype for op in made.main if op.name in ("CONV_2D", "ADD")} == {wide}
    assert made.outputs[0].dtype == wide
    assert error(conv_graph, made, images) < 0.03


def test_an_input_can_be_wide(conv_graph: Graph, ranges: Ranges, images: Rows) -> None:
    made = quantize_mixed(conv_graph, ranges, [conv_graph.inputs[0].name], "FLOAT32")
    assert (made.inputs[0].dtype, made.outputs[0].dtype) == ("FLOAT32", "INT8")
    assert error(conv_graph, made, images) < 0.1


def test_int8_becomes_int16_by_way_of_float(conv_graph: Graph, ranges: Ranges) -> None:
    """LiteRT refuses to do it in one op."""
    made = quantize_mixed(conv_graph, ranges, [of_op(conv_graph, "DEPTHWISE_CONV_2D")], "INT16")
    turned = [op for op in made.main if op.name == "QUANTIZE" and op.outputs[0].dtype == "INT16"]
    assert turned
    assert {op.inputs[0].dtype for op in turned} == {"FLOAT32"}


def test_what_cannot_be_written_with_16_bits_is_said(to_tflite: Callable[..., bytes], tf: Any) -> None:
    graph = read_graph(to_tflite(lambda x: x * tf.nn.relu6(x + 3) / 6, ((1, 8), np.float32)))
    name = next(iter(graph.signature.inputs))
    ranges = calibrate_minmax(graph, [{name: np.linspace(-4, 4, 8, dtype=np.float32)[None]}])
    tensor = of_op(graph, "HARD_SWISH")
    with pytest.raises(QuantizeError, match=r"cannot write HARD_SWISH .* with a 16-bit output"):
        quantize_mixed(graph, ranges, [tensor], "INT16")
    assert {op.outputs[0].dtype for op in quantize_mixed(graph, ranges, [tensor], "FLOAT32").main} == {"FLOAT32"}


def test_dynamic_has_int8_weights_and_float_activations(conv_graph: Graph, images: Rows) -> None:
    made = quantize_dynamic(conv_graph)
    assert {op.outputs[0].dtype for op in made.main} == {"FLOAT32"}
    weights = {op.inputs[1].dtype for op in made.main if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")}
    assert weights == {"INT8"}
    assert error(conv_graph, made, images) < 0.1


def test_dynamic_needs_a_matrix_product(to_tflite: Callable[..., bytes], tf: Any) -> None:
    graph = read_graph(to_tflite(lambda x: tf.nn.relu(x) + 1, ((1, 8), np.float32)))
    with pytest.raises(QuantizeError, match="no matrix product"):
        quantize_dynamic(graph)
