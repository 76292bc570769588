"""Ops that work value by value, and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgekd_converters.graph import Op
from edgekd_converters.ops.nodes.common import FIRST, Nodes, Writer, axis_of, clip, value_by_value

_Write = Callable[..., str]
"""(nodes, op, *input names) → output name"""


def _broadcasting(write: _Write) -> Writer:
    return lambda nodes, op, inputs: [value_by_value(nodes, inputs, lambda *names: write(nodes, op, *names))]


def _plain(kind: str) -> Writer:
    return _broadcasting(lambda nodes, op, *names: nodes.add(kind, *names))


relu, tanh, logistic, hard_swish, elu = (_plain(kind) for kind in ("Relu", "Tanh", "Sigmoid", "HardSwish", "Elu"))
exp, log, sqrt, absolute, neg = (_plain(kind) for kind in ("Exp", "Log", "Sqrt", "Abs", "Neg"))
sin, cos, floor, ceil, sign = (_plain(kind) for kind in ("Sin", "Cos", "Floor", "Ceil", "Sign"))
round_half_even, logical_not, add_n, prelu = (_plain(kind) for kind in ("Round", "Not", "Sum", "PRelu"))
add, sub, mul, div, power = (_plain(kind) for kind in ("Add", "Sub", "Mul", "Div", "Pow"))
maximum, minimum, equal, logical_and, logical_or = (_plain(kind) for kind in ("Max", "Min", "Equal", "And", "Or"))
less, less_equal, greater = (_plain(kind) for kind in ("Less", "LessOrEqual", "Greater"))
greater_equal, select_v2 = (_plain(kind) for kind in ("GreaterOrEqual", "Where"))

relu6 = _broadcasting(lambda nodes, op, x: clip(nodes, x, 0, 6))
relu_n1_to_1 = _broadcasting(lambda nodes, op, x: clip(nodes, x, -1, 1))
relu_0_to_1 = _broadcasting(lambda nodes, op, x: clip(nodes, x, 0, 1))
leaky_relu = _broadcasting(lambda nodes, op, x: nodes.add("LeakyRelu", x, alpha=op.options.alpha))
rsqrt = _broadcasting(lambda nodes, op, x: nodes.add("Reciprocal", nodes.add("Sqrt", x)))
square = _broadcasting(lambda nodes, op, x: nodes.add("Mul", x, x))
not_equal = _broadcasting(lambda nodes, op, x, y: nodes.add("Not", nodes.add("Equal", x, y)))
cast = _broadcasting(lambda nodes, op, x: nodes.cast(x, op.outputs[0].dtype.lower()))
dequantize = cast


@_broadcasting
def squared_difference(nodes: Nodes, op: Op, x: str, y: str) -> str:
    difference = nodes.add("Sub", x, y)
    return nodes.add("Mul", difference, difference)


@_broadcasting
def zeros_like(nodes: Nodes, op: Op, x: str) -> str:
    zero = np.zeros(1, op.outputs[0].dtype.lower())
    return nodes.add("ConstantOfShape", nodes.add("Shape", x), value=zero)


@_broadcasting
def gelu(nodes: Nodes, op: Op, x: str) -> str:
    """x · Φ(x), or the approximation by tanh."""

    def number(value: float) -> str:
        return nodes.constant(value, np.float32)

    if op.options and op.options.approximate:
        cube = nodes.add("Mul", nodes.add("Mul", x, nodes.add("Mul", x, x)), number(0.044715))
        bent = nodes.add("Tanh", nodes.add("Mul", nodes.add("Add", x, cube), number(math.sqrt(2 / math.pi))))
    else:
        bent = nodes.add("Erf", nodes.add("Mul", x, number(math.sqrt(0.5))))
    return nodes.add("Mul", nodes.add("Mul", x, number(0.5)), nodes.add("Add", bent, number(1)))


@_broadcasting
def floor_div(nodes: Nodes, op: Op, x: str, y: str) -> str:
    """Integers are divided towards zero by ONNX; one less where that was up."""
    quotient = nodes.add("Div", x, y)
    if op.outputs[0].dtype == "FLOAT32":
        return nodes.add("Floor", quotient)
    rest = nodes.add("Sub", x, nodes.add("Mul", quotient, y))
    one = nodes.constant(1, op.outputs[0].dtype.lower())
    return nodes.add("Where", _disagrees(nodes, op, rest, y), nodes.add("Sub", quotient, one), quotient)


@_broadcasting
def floor_mod(nodes: Nodes, op: Op, x: str, y: str) -> str:
    """The rest has the divisor's sign."""
    rest = nodes.add("Mod", x, y, fmod=1)
    return nodes.add("Where", _disagrees(nodes, op, rest, y), nodes.add("Add", rest, y), rest)


def _disagrees(nodes: Nodes, op: Op, rest: str, divisor: str) -> str:
    """Where a rest that is not zero has not the divisor's sign."""
    zero = nodes.constant(0, op.outputs[0].dtype.lower())
    signs = (nodes.add("Less", value, zero) for value in (rest, divisor))
    return nodes.add("And", nodes.add("Xor", *signs), nodes.add("Not", nodes.add("Equal", rest, zero)))


@_broadcasting
def atan2(nodes: Nodes, op: Op, y: str, x: str) -> str:
    """Half a turn is added or taken where x is negative; 0 where both are."""
    zero, half = nodes.constant(0, np.float32), nodes.constant(math.pi, np.float32)
    angle = nodes.add("Atan", nodes.add("Div", y, x))
    turn = nodes.add("Where", nodes.add("Less", y, zero), nodes.add("Neg", half), half)
    angle = nodes.add("Where", nodes.add("Less", x, zero), nodes.add("Add", angle, turn), angle)
    nowhere = nodes.add("And", nodes.add("Equal", x, zero), nodes.add("Equal", y, zero))
    return nodes.add("Where", nowhere, zero, angle)


def select(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """A condition ``(a,)`` chooses whole rows of ``(a, …)``."""
    condition, missing = inputs[0], len(op.inputs[1].shape) - len(op.inputs[0].shape)
    if missing:
        condition = nodes.add("Unsqueeze", condition, nodes.ints(range(1, missing + 1)))
    return [nodes.add("Where", condition, *inputs[1:])]


def _reducing(kind: str) -> Writer:
    def write(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
        x, rank, keep = inputs[0], len(op.inputs[0].shape), bool(op.options.keepDims)
        axes = sorted({axis_of(axis, rank) for axis in nodes.known(op, inputs[1])})
        if nodes.is_channels_last(x) and (keep or axes == [1, 2]):
            first = sorted(FIRST.index(axis) for axis in axes)
            y = nodes.add(kind, nodes.channels_first(x), nodes.ints(first), keepdims=keep, noop_with_empty_axes=1)
            return [nodes.channels_last(y) if keep else y]
        return [nodes.add(kind, x, nodes.ints(axes), keepdims=keep, noop_with_empty_axes=1)]

    return write


mean, total, reduce_prod = _reducing("ReduceMean"), _reducing("ReduceSum"), _reducing("ReduceProd")
reduce_max, reduce_min = _reducing("ReduceMax"), _reducing("ReduceMin")


def _of_truths(write: Writer) -> Writer:
    return lambda nodes, op, inputs: [
        nodes.cast(write(nodes, op, [nodes.cast(inputs[0], "int32"), inputs[1]])[0], "bool")
    ]


reduce_any, reduce_all = _of_truths(reduce_max), _of_truths(reduce_min)


def _extreme(kind: str) -> Writer:
    def write(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
        axis = nodes.known(op, inputs[1])[0]
        return [nodes.cast(nodes.add(kind, inputs[0], axis=axis, keepdims=0), op.outputs[0].dtype.lower())]

    return write


arg_max, arg_min = _extreme("ArgMax"), _extreme("ArgMin")


def cumsum(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    how = {"exclusive": int(op.options.exclusive), "reverse": int(op.options.reverse)}
    return [nodes.add("CumSum", inputs[0], nodes.constant(nodes.known(op, inputs[1])[0], np.int64), **how)]


def topk_v2(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    found, places = nodes.add_many("TopK", [inputs[0], nodes.ints(nodes.known(op, inputs[1]))], 2, axis=-1)
    return [found, nodes.cast(places, op.outputs[1].dtype.lower())]


def softmax(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    x, beta = inputs[0], op.options.beta
    return [nodes.add("Softmax", x if beta == 1 else nodes.add("Mul", x, nodes.constant(beta, np.float32)), axis=-1)]


def log_softmax(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    return [nodes.add("LogSoftmax", inputs[0], axis=-1)]


def l2_normalization(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    squares = nodes.add("ReduceSum", nodes.add("Mul", inputs[0], inputs[0]), nodes.ints([-1]), keepdims=1)
    length = nodes.add("Sqrt", nodes.add("Max", squares, nodes.constant(1e-12, np.float32)))
    return [nodes.add("Div", inputs[0], length)]
