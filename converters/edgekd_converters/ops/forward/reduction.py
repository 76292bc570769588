"""Reductions along axes, softmax and its kin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgekd_converters.graph import Op
from edgekd_converters.ops.forward.common import (
    Forward,
    fold,
    known,
    known_one,
    rank_of,
    right_of_samples,
    unfold,
)
from edgekd_converters.ops.lazy import tf


def _reducing(function: Callable[..., Any]) -> Forward:
    def forward(op: Op, values: list[Any], batch: int) -> list[Any]:
        rank = rank_of(op)
        axes = sorted({right_of_samples(axis, rank) for axis in known(op, values[1])})
        x = unfold(values[0], op.slots[0], batch)
        return [fold(function(x, axes, keepdims=bool(op.options.keepDims)), batch)]

    return forward


mean = _reducing(lambda x, axes, keepdims: tf.reduce_mean(x, axes, keepdims))
total = _reducing(lambda x, axes, keepdims: tf.reduce_sum(x, axes, keepdims))
reduce_max = _reducing(lambda x, axes, keepdims: tf.reduce_max(x, axes, keepdims))
reduce_min = _reducing(lambda x, axes, keepdims: tf.reduce_min(x, axes, keepdims))
reduce_prod = _reducing(lambda x, axes, keepdims: tf.reduce_prod(x, axes, keepdims))
reduce_any = _reducing(lambda x, axes, keepdims: tf.reduce_any(x, axes, keepdims))
reduce_all = _reducing(lambda x, axes, keepdims: tf.reduce_all(x, axes, keepdims))


def _along_one(function: Callable[[Any, int, Op], Any]) -> Forward:
    """``function(unfolded value, axis, op)``, the axis being slot 1."""

    def forward(op: Op, values: list[Any], batch: int) -> list[Any]:
        axis = right_of_samples(known_one(op, values[1]), rank_of(op))
        return [fold(function(unfold(values[0], op.slots[0], batch), axis, op), batch)]

    return forward


arg_max = _along_one(lambda x, axis, op: tf.argmax(x, axis, op.outputs[0].dtype.lower()))
arg_min = _along_one(lambda x, axis, op: tf.argmin(x, axis, op.outputs[0].dtype.lower()))
cumsum = _along_one(lambda x, axis, op: tf.cumsum(x, axis, op.options.exclusive, op.options.reverse))


def _along_last(function: Callable[[Any, Op], Any]) -> Forward:
    return lambda op, values, batch: [fold(function(unfold(values[0], op.slots[0], batch), op), batch)]


softmax = _along_last(lambda x, op: tf.nn.softmax(x * op.options.beta))
log_softmax = _along_last(lambda x, op: tf.nn.log_softmax(x))
l2_normalization = _along_last(lambda x, op: tf.nn.l2_normalize(x, -1, epsilon=1e-12))


def topk_v2(op: Op, values: list[Any], batch: int) -> list[Any]:
    """The k greatest along the last axis, and where they stood."""
    found, places = tf.math.top_k(unfold(values[0], op.slots[0], batch), known_one(op, values[1]))
    return [fold(found, batch), fold(places, batch)]
