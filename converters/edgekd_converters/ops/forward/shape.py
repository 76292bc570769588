"""Ops that only move, copy or cut."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekd_converters.errors import UnsupportedOpError
from edgekd_converters.graph import Op
from edgekd_converters.ops.forward.common import (
    fold,
    known,
    known_one,
    of_rank,
    rank_of,
    right_of_samples,
    spread,
    unfold,
    unfold_all,
)
from edgekd_converters.ops.lazy import tf


def reshape(op: Op, values: list[Any], batch: int) -> list[Any]:
    """To the output's shape in the graph; the operand speaks only where that is unknown before a run."""
    sizes = op.outputs[0].shape
    if op.outputs[0].is_dynamic:
        sizes = known(op, values[1]) if len(values) > 1 else tuple(op.options.newShape)
        sizes = (sizes[0] if sizes[0] < 0 else sizes[0] * batch, *sizes[1:])
    elif sizes:
        sizes = (sizes[0] * batch, *sizes[1:])
    else:
        sizes = (batch,) if batch > 1 else ()
    return [tf.reshape(values[0], sizes)]


def squeeze(op: Op, values: list[Any], batch: int) -> list[Any]:
    rank, dims = rank_of(op), op.options.squeezeDims
    axes = [axis for axis, size in enumerate(op.inputs[0].shape) if size == 1]
    if dims is not None and len(dims):
        axes = [int(axis) for axis in dims]
    x = unfold(values[0], op.slots[0], batch)
    return [fold(tf.squeeze(x, [right_of_samples(axis, rank) for axis in axes]) if axes else x, batch)]


def expand_dims(op: Op, values: list[Any], batch: int) -> list[Any]:
    axis = right_of_samples(known_one(op, values[1]), rank_of(op) + 1)
    return [fold(tf.expand_dims(unfold(values[0], op.slots[0], batch), axis), batch)]


def transpose(op: Op, values: list[Any], batch: int) -> list[Any]:
    order = [right_of_samples(axis, rank_of(op)) for axis in known(op, values[1])]
    if order[0] == 1:  # rows stay rows
        return [tf.transpose(values[0], [axis - 1 for axis in order])]
    return [fold(tf.transpose(unfold(values[0], op.slots[0], batch), (0, *order)), batch)]


def concatenation(op: Op, values: list[Any], batch: int) -> list[Any]:
    axis = right_of_samples(op.options.axis, rank_of(op))
    return [fold(tf.concat(_alike(op, values, batch), axis), batch)]


def pack(op: Op, values: list[Any], batch: int) -> list[Any]:
    axis = right_of_samples(op.options.axis, rank_of(op) + 1)
    return [fold(tf.stack(_alike(op, values, batch), axis), batch)]


def unpack(op: Op, values: list[Any], batch: int) -> list[Any]:
    axis = right_of_samples(op.options.axis, rank_of(op))
    return [fold(part, batch) for part in tf.unstack(unfold(values[0], op.slots[0], batch), axis=axis)]


def split(op: Op, values: list[Any], batch: int) -> list[Any]:
    """The axis is slot 0, the value slot 1."""
    axis = right_of_samples(known_one(op, values[0]), rank_of(op, 1))
    parts = tf.split(unfold(values[1], op.slots[1], batch), len(op.outputs), axis)
    return [fold(part, batch) for part in parts]


def split_v(op: Op, values: list[Any], batch: int) -> list[Any]:
    """Sizes in slot 1, of which one may be -1 for the rest; the axis in slot 2."""
    axis = right_of_samples(known_one(op, values[2]), rank_of(op))
    x, sizes = unfold(values[0], op.slots[0], batch), known(op, values[1])
    rest = x.shape[axis] - sum(size for size in sizes if size >= 0)
    parts = tf.split(x, [rest if size < 0 else size for size in sizes], axis)
    return [fold(part, batch) for part in parts]


def cut(op: Op, values: list[Any], batch: int) -> list[Any]:
    """SLICE: a size of -1 takes all that is left."""
    begin, size = known(op, values[1]), known(op, values[2])
    x = unfold(values[0], op.slots[0], batch)
    return [fold(tf.slice(x, (0, *begin), (-1, *size)), batch)]


def strided_slice(op: Op, values: list[Any], batch: int) -> list[Any]:
    """The masks have one bit an axis, from the lowest; here axis 0 is put before them and taken whole."""
    begin, end, strides = (known(op, value) for value in values[1:4])
    options = op.options
    if options.offset:
        end = tuple(start + length for start, length in zip(begin, end, strict=True))
    y = tf.strided_slice(
        unfold(values[0], op.slots[0], batch),
        (0, *begin),
        (0, *end),
        (1, *strides),
        begin_mask=options.beginMask << 1 | 1,
        end_mask=options.endMask << 1 | 1,
        ellipsis_mask=options.ellipsisMask << 1,
        new_axis_mask=options.newAxisMask << 1,
        shrink_axis_mask=options.shrinkAxisMask << 1,
    )
    return [fold(y, batch)]


def pad(op: Op, values: list[Any], batch: int) -> list[Any]:
    return [fold(tf.pad(unfold(values[0], op.slots[0], batch), _paddings(op, values)), batch)]


def pad_v2(op: Op, values: list[Any], batch: int) -> list[Any]:
    filler = tf.reshape(values[2], ())
    x = unfold(values[0], op.slots[0], batch)
    return [fold(tf.pad(x, _paddings(op, values), constant_values=filler), batch)]


def mirror_pad(op: Op, values: list[Any], batch: int) -> list[Any]:
    mode = ("REFLECT", "SYMMETRIC")[op.options.mode]
    return [fold(tf.pad(unfold(values[0], op.slots[0], batch), _paddings(op, values), mode), batch)]


def tile(op: Op, values: list[Any], batch: int) -> list[Any]:
    return [fold(tf.tile(unfold(values[0], op.slots[0], batch), (1, *known(op, values[1]))), batch)]


def broadcast_to(op: Op, values: list[Any], batch: int) -> list[Any]:
    sizes = known(op, values[1])
    x = of_rank(unfold(values[0], op.slots[0], batch), len(sizes))
    return [fold(tf.broadcast_to(x, (batch, *sizes)), batch)]


def fill(op: Op, values: list[Any], batch: int) -> list[Any]:
    sizes = known(op, values[0])
    value = of_rank(unfold(values[1], op.slots[1], batch), len(sizes))
    return [fold(tf.broadcast_to(value, (batch, *sizes)), batch)]


def reverse_v2(op: Op, values: list[Any], batch: int) -> list[Any]:
    axes = [right_of_samples(axis, rank_of(op)) for axis in known(op, values[1])]
    return [fold(tf.reverse(unfold(values[0], op.slots[0], batch), axes), batch)]


def shape_of(op: Op, values: list[Any], batch: int) -> list[Any]:
    """Of one sample, so it is the same for all of them."""
    sizes = unfold(values[0], op.slots[0], batch).shape[1:]
    with tf.init_scope():  # a value that other operands can be computed from, when a function is traced too
        return [tf.constant(list(sizes), op.outputs[0].dtype.lower())]


def rank(op: Op, values: list[Any], batch: int) -> list[Any]:
    with tf.init_scope():
        return [tf.constant(rank_of(op), tf.int32)]


def sequence_of_numbers(op: Op, values: list[Any], batch: int) -> list[Any]:
    """RANGE, of limits that are known: else its length would differ from sample to sample."""
    if batch > 1:
        raise UnsupportedOpError(f"{op}: its limits are computed from the model's input")
    start, limit, delta = (tf.reshape(value, ()) for value in values)
    return [tf.range(start, limit, delta)]


def _alike(op: Op, values: list[Any], batch: int) -> list[Any]:
    """Unfolded, and copied for each sample where they were the same for all."""
    return [spread(value, batch) for value in unfold_all(op, values, batch)]


def _paddings(op: Op, values: list[Any]) -> Any:
    return np.pad(np.reshape(known(op, values[1]), (-1, 2)), ((1, 0), (0, 0)))
