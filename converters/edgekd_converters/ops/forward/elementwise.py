"""Ops that work value by value, with one operand or with several that broadcast."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

from edgekd_converters.errors import UnsupportedOpError
from edgekd_converters.graph import Op
from edgekd_converters.ops.forward.common import Forward, fold, is_stacked, of_rank, unfold_all
from edgekd_converters.ops.lazy import tf


def _unary(function: Callable[[Any], Any]) -> Forward:
    return lambda op, values, batch: [function(values[0])]


def _broadcasting(function: Callable[..., Any]) -> Forward:
    return lambda op, values, batch: [_broadcast(function, op, values, batch)]


def _broadcast(function: Callable[..., Any], op: Op, values: list[Any], batch: int) -> Any:
    """``function`` of operands that broadcast against each other within each sample."""
    if batch == 1 or _broadcasts_as_it_is(op, values, batch):
        return function(*values)
    rank = max(len(slot.shape) for slot in op.inputs)
    return fold(function(*(of_rank(value, rank) for value in unfold_all(op, values, batch))), batch)


def _broadcasts_as_it_is(op: Op, values: list[Any], batch: int) -> bool:
    """Whether along axis 0 every operand is either stacked as high as the output, or one for all, or absent."""
    shape = op.outputs[0].shape
    return bool(shape) and all(
        value.shape[0] in (1, batch * shape[0])
        if len(value.shape) == len(shape)
        else len(value.shape) < len(shape) and not is_stacked(value, slot)
        for value, slot in zip(values, op.inputs, strict=True)
    )


relu = _unary(lambda x: tf.nn.relu(x))
relu6 = _unary(lambda x: tf.nn.relu6(x))
relu_n1_to_1 = _unary(lambda x: tf.clip_by_value(x, -1, 1))
relu_0_to_1 = _unary(lambda x: tf.clip_by_value(x, 0, 1))
elu = _unary(lambda x: tf.nn.elu(x))
tanh = _unary(lambda x: tf.tanh(x))
logistic = _unary(lambda x: tf.sigmoid(x))
hard_swish = _unary(lambda x: x * tf.nn.relu6(x + 3) / 6)
exp = _unary(lambda x: tf.exp(x))
log = _unary(lambda x: tf.math.log(x))
sqrt = _unary(lambda x: tf.sqrt(x))
rsqrt = _unary(lambda x: tf.math.rsqrt(x))
square = _unary(lambda x: tf.square(x))
absolute = _unary(lambda x: tf.abs(x))
neg = _unary(lambda x: tf.negative(x))
sin = _unary(lambda x: tf.sin(x))
cos = _unary(lambda x: tf.cos(x))
floor = _unary(lambda x: tf.floor(x))
ceil = _unary(lambda x: tf.math.ceil(x))
round_half_even = _unary(lambda x: tf.round(x))
sign = _unary(lambda x: tf.sign(x))
logical_not = _unary(lambda x: tf.logical_not(x))
zeros_like = _unary(lambda x: tf.zeros_like(x))

add = _broadcasting(lambda x, y: x + y)
sub = _broadcasting(lambda x, y: x - y)
mul = _broadcasting(lambda x, y: x * y)
div = _broadcasting(lambda x, y: x / y if x.dtype.is_floating else tf.truncatediv(x, y))
maximum = _broadcasting(lambda x, y: tf.maximum(x, y))
minimum = _broadcasting(lambda x, y: tf.minimum(x, y))
squared_difference = _broadcasting(lambda x, y: tf.math.squared_difference(x, y))
power = _broadcasting(lambda x, y: tf.pow(x, y))
floor_div = _broadcasting(lambda x, y: tf.math.floordiv(x, y))
floor_mod = _broadcasting(lambda x, y: tf.math.floormod(x, y))
atan2 = _broadcasting(lambda y, x: tf.math.atan2(y, x))
prelu = _broadcasting(lambda x, alpha: tf.where(x >= 0, x, alpha * x))
equal = _broadcasting(lambda x, y: tf.equal(x, y))
not_equal = _broadcasting(lambda x, y: tf.not_equal(x, y))
less = _broadcasting(lambda x, y: tf.less(x, y))
less_equal = _broadcasting(lambda x, y: tf.less_equal(x, y))
greater = _broadcasting(lambda x, y: tf.greater(x, y))
greater_equal = _broadcasting(lambda x, y: tf.greater_equal(x, y))
logical_and = _broadcasting(lambda x, y: tf.logical_and(x, y))
logical_or = _broadcasting(lambda x, y: tf.logical_or(x, y))
select_v2 = _broadcasting(lambda condition, x, y: tf.where(condition, x, y))
add_n = _broadcasting(lambda *terms: functools.reduce(operator.add, terms))


def select(op: Op, values: list[Any], batch: int) -> list[Any]:
    """Does not broadcast, but a condition ``(a,)`` chooses whole rows of ``(a, …)``."""
    condition, x, y = unfold_all(op, values, batch)
    missing = len(x.shape) - len(condition.shape)
    condition = tf.reshape(condition, (*condition.shape, *[1] * missing))
    return [fold(tf.where(condition, x, y), batch)]


def gelu(op: Op, values: list[Any], batch: int) -> list[Any]:
    return [tf.nn.gelu(values[0], approximate=bool(op.options and op.options.approximate))]


def leaky_relu(op: Op, values: list[Any], batch: int) -> list[Any]:
    return [tf.where(values[0] >= 0, values[0], op.options.alpha * values[0])]


def cast(op: Op, values: list[Any], batch: int) -> list[Any]:
    return [tf.cast(values[0], op.outputs[0].dtype.lower())]


def dequantize(op: Op, values: list[Any], batch: int) -> list[Any]:
    """Weights stored in float16, as the converter writes them on request."""
    if op.inputs[0].dtype != "FLOAT16":
        raise UnsupportedOpError(f"{op}: {op.inputs[0].dtype} values are quantised; a float32 model is needed")
    return cast(op, values, batch)


_FUSED: dict[int, Callable[[Any], Any]] = {
    0: lambda x: x,
    1: lambda x: tf.nn.relu(x),
    2: lambda x: tf.clip_by_value(x, -1, 1),
    3: lambda x: tf.nn.relu6(x),
    4: lambda x: tf.tanh(x),
}
"""The schema's ActivationFunctionType → what it does."""


def activate(op: Op, value: Any) -> Any:
    """The op's fused activation. An LSTM's is a part of its cell, so it has been applied there."""
    number = 0 if op.name.endswith("LSTM") else getattr(op.options, "fusedActivationFunction", 0)
    if number not in _FUSED:
        raise UnsupportedOpError(f"{op}: there is no fused activation of number {number}")
    return _FUSED[number](value)
