"""What int8 kernels cannot take as the quantiser would write it: dead channels, dead tensors, some matrix products."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.converters.one_op import Case, Given, Operand, build, options
from tests.converters.op_cases_windows import CASES
from tests.converters.reals import in_int8, one_op_feeds, real_outputs, relative_error

from edgekd_converters.errors import QuantizeError
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.observe import Feed

RUNTIMES: list[Any] = [Interpreter]
if sys.version_info < (3, 12):  # tflite-runtime has no wheels for later ones
    RUNTIMES.append(importlib.import_module("tflite_runtime.interpreter").Interpreter)

# Op → slot of its weights and of its bias, axis of its channels.
LAYERS = {
    "CONV_2D": (1, 2, 0),
    "DEPTHWISE_CONV_2D": (1, 2, 3),
    "FULLY_CONNECTED": (1, 2, 0),
    "TRANSPOSE_CONV": (1, 3, 0),
}

generated = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])


@pytest.mark.parametrize("name", LAYERS)
@generated
@given(data=st.data())
def test_channels_next_to_nothing_with_any_bias(name: str, data: Any) -> None:
    case = _faded(name, CASES[name](data.draw), data.draw)
    original, fed = build(name, case), one_op_feeds(case)
    int8 = in_int8(original, fed)
    wanted, got = real_outputs(original, fed)["y0"], real_outputs(int8, fed)["y0"]
    step = float(_details(int8, int8.outputs[0].name)["quantization"][0])
    assert np.sqrt(np.square(got - wanted).mean()) < 0.1 * np.sqrt(np.square(wanted).mean()) + 3 * step + 1e-9
    for runtime in RUNTIMES:
        assert np.isfinite(real_outputs(int8, fed, runtime)["y0"]).all()


def _faded(name: str, case: Case, draw: Callable[..., Any]) -> Case:
    """Each channel's weights times 1 or next to nothing; the bias large or small."""
    weights_at, bias_at, axis = LAYERS[name]
    operands = list(case.operands)
    weights = np.asarray(operands[weights_at])
    count = weights.shape[axis]
    factors = draw(st.lists(st.sampled_from([1, 1e-4, 1e-8, 1e-12, 0]), min_size=count, max_size=count))
    shape = [-1 if k == axis else 1 for k in range(weights.ndim)]
    operands[weights_at] = (weights * np.reshape(factors, shape)).astype(np.float32)
    if bias_at < len(operands) and operands[bias_at] is not None:
        operands[bias_at] = (np.asarray(operands[bias_at]) * draw(st.sampled_from([0, 1, 100]))).astype(np.float32)
    return replace(case, operands=tuple(operands))


def _details(graph: Graph, tensor: str) -> Any:
    interpreter = Interpreter(model_content=graph.content)
    return next(detail for detail in interpreter.get_tensor_details() if detail["name"] == tensor)


X = np.random.default_rng(0).uniform(-3, 3, (8, 1, 2, 2, 4)).astype(np.float32)
PAIR: tuple[Operand, ...] = (Given((1, 2, 2, 4)), Given((1, 2, 2, 4)))
CONV = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
CANCELS = np.tile(np.array([1, -1, 1, -1], np.float32), (3, 1))
DEAD = {
    "ADD": (Case(options("Add"), PAIR), (X, -X)),
    "SUB": (Case(options("Sub"), PAIR), (X, X)),
    "SQUARED_DIFFERENCE": (Case(options("SquaredDifference"), PAIR), (X, X)),
    "HARD_SWISH": (Case(options("HardSwish"), PAIR[:1]), (X - 7,)),
    "FULLY_CONNECTED": (
        Case(options("FullyConnected", keepNumDims=True), (PAIR[0], CANCELS, None)),
        (abs(X[..., :1]) + 0 * X,),
    ),
    "CONV_2D": (
        Case(
            options("Conv2D", fusedActivationFunction=3, **CONV),
            (PAIR[0], np.ones((3, 1, 1, 4), np.float32), np.full(3, -50, np.float32)),
        ),
        (X,),
    ),
}


@pytest.mark.parametrize("name", DEAD)
def test_an_output_that_is_always_0(name: str) -> None:
    """Without limits the interpreters refuse these models, or abort the process."""
    case, columns = DEAD[name]
    original = build(name, case)
    fed = [{f"x{k}": column[i] for k, column in enumerate(columns)} for i in range(len(X))]
    assert np.abs(real_outputs(original, fed)["y0"]).max() < 1e-5
    int8 = in_int8(original, fed)
    for runtime in RUNTIMES:
        assert np.abs(real_outputs(int8, fed, runtime)["y0"]).max() < 1e-2


def test_a_table_that_is_also_weights(to_tflite: Callable[..., bytes], tf: Any) -> None:
    """Tied embeddings with an empty row: one scale for all rows instead of one next to nothing."""
    rows = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    rows[0] = 0
    table, bias = tf.constant(rows), np.arange(1, 13).astype(np.float32)

    def network(ids: Any) -> Any:
        return tf.nn.bias_add(tf.matmul(tf.gather(table, ids), table, transpose_b=True), bias)

    original = read_graph(to_tflite(network, ((4,), tf.int32)))
    gather, dense = original.main
    assert gather.inputs[0] == dense.inputs[1]
    name = next(iter(original.signature.inputs))
    fed = [{name: np.array([i, (i + 5) % 12, (i + 2) % 12, 0], np.int32)} for i in range(12)]
    _agree(original, fed)


def _agree(original: Graph, fed: Sequence[Feed], limit: float = 0.05) -> None:
    wanted, int8 = real_outputs(original, fed), in_int8(original, fed)
    for runtime in RUNTIMES:
        assert relative_error(wanted, real_outputs(int8, fed, runtime)) < limit


@generated
@given(data=st.data())
def test_a_matrix_product_of_anything(data: Any) -> None:
    """Ranges all around 0, to one side of it, or beyond; either side constant or not."""
    case = CASES["BATCH_MATMUL"](data.draw)
    shifts = [data.draw(st.sampled_from([0, 1, 3])) for _ in case.operands]
    operands = tuple(_shifted(operand, by) for operand, by in zip(case.operands, shifts, strict=True))
    case = replace(case, operands=operands)
    _agree(build("BATCH_MATMUL", case), one_op_feeds(case))


def _shifted(operand: Operand, by: int) -> Operand:
    if isinstance(operand, Given):
        return replace(operand, low=operand.low + by, high=operand.high + by)
    assert isinstance(operand, np.ndarray)
    return operand + np.float32(by)


def _product(to_tflite: Callable[..., bytes], function: Callable[[Any, Any], Any], tf: Any) -> tuple[Graph, list[Feed]]:
    shape = ((1, 6, 4), tf.float32)
    original = read_graph(to_tflite(function, shape, shape))
    rng = np.random.default_rng(0)
    fed = [{name: rng.uniform(-1, 4, (1, 6, 4)).astype("f4") for name in original.signature.inputs} for _ in range(12)]
    assert "BATCH_MATMUL" in [op.name for op in original.main]
    return original, fed


def test_a_matrix_product_of_what_was_moved_and_cut(to_tflite: Callable[..., bytes], tf: Any) -> None:
    def network(left: Any, right: Any) -> Any:
        right = tf.reshape(tf.transpose(tf.nn.leaky_relu(right, 0.2), (0, 2, 1)), (2, 2, 6))
        return tf.matmul(tf.nn.softmax(tf.reshape(left, (2, 2, 6))), right, transpose_b=True)

    _agree(*_product(to_tflite, network, tf))


def test_a_matrix_product_with_probabilities_is_right_on_the_left_and_refused_on_the_right(
    to_tflite: Callable[..., bytes], tf: Any
) -> None:
    _agree(*_product(to_tflite, lambda a, b: tf.matmul(tf.nn.softmax(a), b, transpose_b=True), tf))
    original, fed = _product(to_tflite, lambda a, b: tf.matmul(a, tf.nn.softmax(b), transpose_b=True), tf)
    with pytest.raises(QuantizeError, match=r"op \d BATCH_MATMUL .* cannot take what SOFTMAX makes as its second"):
        in_int8(original, fed)
