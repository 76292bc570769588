"""Whole graphs in TensorFlow: equal to the interpreter, many samples at once, differentiable."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.converters.one_op import Case, Given, State, build, options

from edgekd_converters.errors import ConverterError, RunError, UnsupportedOpError
from edgekd_converters.graph import Graph, Op, read_graph
from edgekd_converters.ops.table import TABLE
from edgekd_converters.program import Program, verify_program

RESNET8 = Path(__file__).parents[3] / "shared/data/mlperf_tiny_resnet8/pretrainedResnet.tflite"


@pytest.fixture(scope="module")
def conv_columns(images: list[Any]) -> dict[str, Any]:
    return {"image": np.concatenate(images[:5])}


@pytest.fixture(scope="module")
def conv_program(conv_graph: Graph) -> Program:
    return Program(conv_graph)


def test_a_conv_net_equals_the_interpreter(conv_graph: Graph, conv_columns: dict[str, Any]) -> None:
    assert verify_program(conv_graph, conv_columns) < 1e-5


def test_a_text_student_equals_the_interpreter(student_graph: Graph, student_rows: list[Any]) -> None:
    assert verify_program(student_graph, {"ids": np.concatenate(student_rows[:3])}) < 1e-5


@pytest.mark.skipif(not RESNET8.is_file(), reason="MLPerf Tiny's ResNet8 is not in ../shared/data")
def test_resnet8_equals_the_interpreter() -> None:
    images = np.random.default_rng(4).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    assert verify_program(read_graph(RESNET8.read_bytes()), {"input_1": images}) < 1e-5


def test_a_wrong_op_is_noticed(
    conv_graph: Graph, conv_columns: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    row = TABLE["MEAN"]
    wrong = replace(row, forward=lambda op, values, batch: [one * 1.01 for one in row.forward(op, values, batch)])
    monkeypatch.setitem(TABLE, "MEAN", wrong)
    with pytest.raises(ConverterError, match=r"output 'scores' is off by .* when 3 samples run together"):
        verify_program(conv_graph, conv_columns)


def test_traced_it_trains(tf: Any, conv_program: Program, conv_columns: dict[str, Any]) -> None:
    """Replaced constants get gradients: the last weights' of the sum of scores is the sum of the features."""
    features, weights = conv_program.graph.main[-1].inputs[:2]
    variable = tf.Variable(conv_program.graph.constant(weights))

    @tf.function
    def gradients(images: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = conv_program.outputs(conv_program.run({"image": images}, {weights.index: variable}))
            total = tf.reduce_sum(outputs["scores"])
        return tape.gradient(total, [variable, images])

    of_weights, of_images = gradients(tf.constant(conv_columns["image"]))
    summed = np.sum(conv_program.run(conv_columns)[features.index], 0)
    np.testing.assert_allclose(of_weights, np.tile(summed, (4, 1)), rtol=1e-4)
    assert np.isfinite(of_images).all() and np.abs(of_images).max() > 0


def test_hooks_stand_on_both_sides_of_the_linear_part(
    tf: Any, conv_program: Program, conv_columns: dict[str, Any]
) -> None:
    fused = next(op for op in conv_program.graph.main if op.name == "CONV_2D")
    assert fused.options.fusedActivationFunction == 1  # RELU
    seen: dict[str, Any] = {}

    def before(op: Op, values: list[Any]) -> list[Any]:
        assert [slot is None for slot in op.slots] == [value is None for value in values]
        return [-values[0], *values[1:]] if op == fused else values

    def after(op: Op, values: list[Any]) -> list[Any]:
        if op != fused:
            return values
        seen["linear"] = values[0]
        return [values[0] + 100]

    values = conv_program.run(conv_columns, before=before, after=after)
    image, weights, bias = (values[tensor.index] for tensor in fused.inputs)
    linear = tf.nn.conv2d(-image, tf.transpose(weights, (1, 2, 3, 0)), 1, "SAME") + bias
    np.testing.assert_allclose(seen["linear"], linear, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(values[fused.outputs[0].index], tf.nn.relu(linear + 100), rtol=1e-5)


def test_sizes_that_the_graph_computes_are_those_of_one_sample(tf: Any, to_tflite: Callable[..., bytes]) -> None:
    """An unknown batch: its size goes from SHAPE through arithmetic to RESHAPE."""

    def flat(x: Any) -> Any:
        return tf.reshape(x, tf.stack([tf.shape(x)[0] * 2, -1])) + 1

    graph = read_graph(to_tflite(flat, ((None, 2, 3), tf.float32)))
    assert {"SHAPE", "RESHAPE"} <= {op.name for op in graph.main}
    program, (name,) = Program(graph), graph.signature.inputs
    x = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    (value,) = tf.function(lambda x: program.outputs(program.run({name: x})))(tf.constant(x)).values()
    np.testing.assert_array_equal(value, x.reshape(8, 3) + 1)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "differ by 'image'"),
        ({"image": np.zeros((2, 12, 12, 1), np.float32)}, r"samples of shape \[2, 12, 12, 1\] do not fit"),
        ({"image": np.zeros((12, 12, 3), np.float32)}, r"samples of shape \[12, 12, 3\] do not fit"),
        ({"image": "x"}, "is not what the model takes"),
    ],
)
def test_samples_that_do_not_fit_are_refused(conv_program: Program, feeds: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError, match=message):
        conv_program.run(feeds)


def test_inputs_must_agree_on_the_number_of_samples() -> None:
    program = Program(build("ADD", Case(options("Add"), (Given((1, 2)), Given((1, 2))))))
    with pytest.raises(RunError, match=r"number of samples: \[2, 3\]"):
        program.run({"x0": np.zeros((2, 2), np.float32), "x1": np.zeros((3, 2), np.float32)})


def test_an_op_that_fails_is_named() -> None:
    table = np.zeros((4, 2), np.float32)
    program = Program(build("GATHER", Case(options("Gather"), (table, Given((1,), "int32")))))
    with pytest.raises(RunError, match=r"op 0 GATHER \(makes 'y0'\) cannot run: .*not in \[0, 4\)"):
        program.run({"x1": np.array([7], np.int32)})


def test_an_op_without_a_row_is_refused_by_name() -> None:
    graph = build("WHERE", Case(options("Where"), (Given((3,), "bool"),), ("int64",)))
    with pytest.raises(UnsupportedOpError, match="WHERE"):
        Program(graph)


def test_a_quantised_graph_is_refused() -> None:
    graph = build(
        "TRANSPOSE", Case(options("Transpose"), (Given((2, 3), "int8"), np.array([1, 0], np.int32)), ("int8",))
    )
    with pytest.raises(UnsupportedOpError, match="'x0' is quantised"):
        Program(graph)


def test_an_lstm_with_peepholes_is_refused() -> None:
    weights, bias, state = np.ones((2, 2), np.float32), np.ones(2, np.float32), State((1, 2))
    operands = (Given((1, 3, 2)), *[weights] * 8, *[bias] * 3, *[bias] * 4, None, None, state, state, *[None] * 4)
    stated = options("UnidirectionalSequenceLSTM", fusedActivationFunction=4)
    program = Program(build("UNIDIRECTIONAL_SEQUENCE_LSTM", Case(stated, operands)))
    with pytest.raises(UnsupportedOpError, match="an LSTM with peephole is not supported"):
        program.run({"x0": np.zeros((1, 3, 2), np.float32)})


def test_reading_the_table_does_not_load_tensorflow() -> None:
    code = "import sys, edgekd_converters.program; print([m for m in ('tensorflow', 'keras') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[]", done.stderr
