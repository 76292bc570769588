"""Float graph and ranges → int8: close to float on real rows, and an honest refusal otherwise."""

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from tests.converters.reals import real_outputs, relative_error

from edgekd_converters.calibrate import Ranges, calibrate_minmax
from edgekd_converters.ends import with_float_ends
from edgekd_converters.errors import NotIntegerError, QuantizeError
from edgekd_converters.graph import Graph, read_graph, write_model
from edgekd_converters.integer import integer_fraction, require_integer
from edgekd_converters.load.keras_source import convert_keras
from edgekd_converters.quantize import quantize_int8

Rows = list[npt.NDArray[Any]]


class Stock:
    """The stock interpreter on a graph with one input and one output, speaking in real numbers."""

    def __init__(self, graph: Graph) -> None:
        self.interpreter = Interpreter(model_content=graph.content)
        self.interpreter.allocate_tensors()
        (self.input,) = self.interpreter.get_input_details()
        (self.output,) = self.interpreter.get_output_details()

    @property
    def step(self) -> float:
        return float(self.output["quantization"][0])

    def __call__(self, row: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        scale, zero_point = self.input["quantization"]
        if scale:
            row = np.clip(np.rint(row / scale) + zero_point, -128, 127).astype(np.int8)
        self.interpreter.set_tensor(self.input["index"], row)
        self.interpreter.invoke()
        values: npt.NDArray[np.float32] = self.interpreter.get_tensor(self.output["index"]).astype(np.float32)
        scale, zero_point = self.output["quantization"]
        return (values - zero_point) * scale if scale else values


def worst_steps(float_graph: Graph, int8_graph: Graph, rows: Rows) -> float:
    """Greatest difference of int8 from float, in steps of the int8 output."""
    wanted, got = Stock(float_graph), Stock(int8_graph)
    return max(float(np.abs(got(row) - wanted(row)).max()) for row in rows) / got.step


def test_an_int8_student_stays_within_a_few_steps(
    student_graph: Graph, student_ranges: Ranges, student_rows: Rows
) -> None:
    graph = quantize_int8(student_graph, student_ranges)
    require_integer(graph)
    assert integer_fraction(graph) == 1
    assert graph.signature.inputs.keys() == student_graph.signature.inputs.keys()
    assert graph.signature.outputs.keys() == student_graph.signature.outputs.keys()
    by_name = {tensor.name: tensor for tensor in graph.tensors}
    assert by_name[graph.signature.inputs["ids"]].dtype == "INT32"
    assert by_name[graph.signature.outputs["logits"]].dtype == "INT8"
    steps = worst_steps(student_graph, graph, student_rows)
    assert 0 < steps <= 6


def test_an_int8_conv_net_stays_within_a_few_steps(conv_graph: Graph, images: Rows) -> None:
    ranges = calibrate_minmax(conv_graph, ({"image": image} for image in images))
    graph = quantize_int8(conv_graph, ranges)
    require_integer(graph)
    assert {tensor.dtype for tensor in graph.tensors} <= {"INT8", "INT32"}
    assert 0 < worst_steps(conv_graph, graph, images) <= 12


def test_the_ranges_are_the_ones_given(conv_graph: Graph, images: Rows) -> None:
    """Twice the range, twice the step: ranges of our own reach the model."""
    ranges = calibrate_minmax(conv_graph, ({"image": image} for image in images))
    output = conv_graph.signature.outputs["scores"]
    low, high = ranges[output]
    wide = quantize_int8(conv_graph, {**ranges, output: (2 * low, 2 * high)})
    assert Stock(wide).step == pytest.approx(2 * Stock(quantize_int8(conv_graph, ranges)).step, rel=1e-3)


def test_terrible_ranges_give_a_terrible_model(
    student_graph: Graph, student_ranges: Ranges, student_rows: Rows
) -> None:
    """The measure of the tests above can fail."""
    output = student_graph.signature.outputs["logits"]
    graph = quantize_int8(student_graph, {**student_ranges, output: (0.0, 1e-3)})
    assert worst_steps(student_graph, graph, student_rows) > 100


def test_the_same_input_gives_the_same_bytes(student_graph: Graph, student_ranges: Ranges) -> None:
    assert quantize_int8(student_graph, student_ranges).content == quantize_int8(student_graph, student_ranges).content


@pytest.fixture(scope="module")
def sine_graph(keras: Any) -> Graph:
    inputs = keras.Input((6,), name="x")
    return convert_keras(keras.Model(inputs, keras.layers.Dense(3)(keras.ops.sin(inputs))))


def quantized(graph: Graph) -> Graph:
    rows = np.random.default_rng(0).normal(size=(8, 1, 6)).astype(np.float32)
    return quantize_int8(graph, calibrate_minmax(graph, ({"x": row} for row in rows)))


def test_an_op_without_an_integer_form_is_refused_and_named(sine_graph: Graph) -> None:
    with pytest.raises(NotIntegerError) as caught:
        quantized(sine_graph)
    assert any(" SIN " in reason for reason in caught.value.reasons)


def test_the_message_names_the_op_at_fault_first(sine_graph: Graph) -> None:
    with pytest.raises(QuantizeError, match=r"called int8: op \d SIN "):
        quantized(sine_graph)


def test_a_float_activation_without_a_range_is_an_error(conv_graph: Graph, images: Rows) -> None:
    ranges = calibrate_minmax(conv_graph, [{"image": images[0]}])
    missing = conv_graph.ops[1].outputs[0].name
    del ranges[missing]
    with pytest.raises(QuantizeError, match=rf"no range for tensor {re.escape(repr(missing))}"):
        quantize_int8(conv_graph, ranges)


def test_the_signature_stays_on_the_outputs(keras: Any) -> None:
    """Behind a lookup in a table the quantiser puts an op of its own, which then makes the output."""
    keras.utils.set_random_seed(5)
    ids = keras.Input((4,), dtype="int32", name="ids")
    rows = keras.layers.Embedding(9, 3, name="rows")(ids)
    graph = convert_keras(keras.Model(ids, [keras.layers.Dense(2, name="scores")(rows), rows]))
    feeds = [{"ids": np.random.default_rng(i).integers(0, 9, (1, 4)).astype(np.int32)} for i in range(8)]
    int8 = quantize_int8(graph, calibrate_minmax(graph, feeds))
    assert list(int8.signature.outputs) == ["scores", "rows"]
    assert set(int8.results) == set(int8.outputs)
    assert relative_error(real_outputs(graph, feeds), real_outputs(int8, feeds)) < 0.05


def test_float_ends_keep_the_public_names_of_a_file_without_a_signature(conv_graph: Graph, images: Rows) -> None:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(conv_graph.content, 0))
    model.signatureDefs = []
    graph = read_graph(write_model(model))
    (public,) = graph.signature.inputs
    int8 = quantize_int8(graph, calibrate_minmax(graph, ({public: image} for image in images)))
    made = with_float_ends(int8)
    assert [*made.signature.inputs, *made.signature.outputs] == [*graph.signature.inputs, *graph.signature.outputs]
    np.testing.assert_array_equal(Stock(made)(images[0]), Stock(int8)(images[0]))
