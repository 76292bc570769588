"""Ops that look up by index."""

from __future__ import annotations

from typing import Any

from edgekd_converters.graph import Op
from edgekd_converters.ops.forward.common import (
    fold,
    known_one,
    rank_of,
    right_of_samples,
    spread,
    unfold,
    unfold_all,
)
from edgekd_converters.ops.lazy import tf


def gather(op: Op, values: list[Any], batch: int) -> list[Any]:
    """Indices into an axis of slot 0; with ``batchDims`` each leading slice has its own indices."""
    table, indices = unfold_all(op, values, batch)
    axis, shared = right_of_samples(op.options.axis, rank_of(op)), op.options.batchDims
    shared += rank_of(op, 1) if shared < 0 else 0
    if shared == 0 and axis == 1 and table.shape[0] == 1:  # an embedding: only the rows looked up get a gradient
        return [fold(tf.gather(values[0], indices), batch)]
    table, indices = spread(table, batch), spread(indices, batch)
    return [fold(tf.gather(table, indices, axis=axis, batch_dims=shared + 1), batch)]


def embedding_lookup(op: Op, values: list[Any], batch: int) -> list[Any]:
    """Indices in slot 0, rows of slot 1."""
    return [tf.gather(values[1], values[0])]


def gather_nd(op: Op, values: list[Any], batch: int) -> list[Any]:
    table, indices = unfold_all(op, values, batch)
    return [fold(tf.gather_nd(spread(table, batch), spread(indices, batch), batch_dims=1), batch)]


def one_hot(op: Op, values: list[Any], batch: int) -> list[Any]:
    """Slots: indices, depth, the value that marks, the value elsewhere."""
    indices = unfold(values[0], op.slots[0], batch)
    axis = right_of_samples(op.options.axis, rank_of(op) + 1)
    marks = (tf.reshape(value, ()) for value in values[2:4])
    return [fold(tf.one_hot(indices, known_one(op, values[1]), *marks, axis=axis), batch)]
