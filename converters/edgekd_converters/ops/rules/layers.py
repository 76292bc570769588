"""Layers with weights, and products of matrices: where channels are made and used up."""

from __future__ import annotations

import numpy as np

from edgekd_converters.channels import Axes, Ends, Labels, opaque


def conv_2d(ends: Ends) -> None:
    x, weights = ends.axes(0), ends.axes(1)
    fix(ends, 0, 3)
    fix(ends, 1, 0, 3)
    depth, groups = ends.shape(1)[3], ends.shape(0)[3] // ends.shape(1)[3]
    source = x[3]
    if groups == 1:
        ends.unite(source, weights[3])
    else:  # every group must lose as many as the others, so all lose the same
        for labels in (source, weights[0]):
            if labels is not None:
                for part in np.split(labels, groups)[1:]:
                    ends.unite(labels[: len(part)], part)
        ends.unite(None if source is None else source[:depth], weights[3])
    ends.contracts(0, 3)
    _add_bias(ends, 2, weights[0])
    ends.gives([None, None, None, weights[0]])


def depthwise_conv_2d(ends: Ends) -> None:
    x, weights = ends.axes(0), ends.axes(1)
    fix(ends, 0, 3)
    fix(ends, 1, 3)
    channels, multiplier = ends.shape(0)[3], ends.shape(1)[3] // ends.shape(0)[3]
    if channels > 1:  # one input channel feeds all outputs alike: then each of these stands alone
        ends.unite(None if x[3] is None else np.repeat(x[3], multiplier), weights[3])
    _add_bias(ends, 2, weights[3])
    ends.gives([None, None, None, weights[3]])


def transpose_conv(ends: Ends) -> None:
    x, weights = ends.axes(2), ends.axes(1)
    fix(ends, 2, 3)
    fix(ends, 1, 0, 3)
    ends.unite(x[3], weights[3])
    ends.contracts(2, 3)
    _add_bias(ends, 3, weights[0])
    ends.gives([None, None, None, weights[0]])


def fully_connected(ends: Ends) -> None:
    if not ends.tensor(1).is_constant:
        opaque(ends)
        return
    x, weights = ends.axes(0), ends.axes(1)
    if ends.shape(0)[-1] == ends.shape(1)[1]:
        fix(ends, 0, -1)
        ends.unite(x[-1], weights[1])
        ends.contracts(0, -1)
    else:  # it flattens what it is fed; the axes would have to be told apart again, so they stay
        ends.freeze(*x, weights[1])
    _add_bias(ends, 2, weights[0])
    ends.gives([*([None] * (len(ends.op.outputs[0].shape) - 1)), weights[0]])


def batch_matmul(ends: Ends) -> None:
    x, y = ends.axes(0), ends.axes(1)
    rows, left = (-1, -2) if ends.options.adjX else (-2, -1)
    right, columns = (-1, -2) if ends.options.adjY else (-2, -1)
    ends.unite(x[left], y[right])
    ends.contracts(0, left)
    ends.contracts(1, right)
    batch = _broadcast(ends, 2)
    ends.gives([*batch, x[rows], y[columns]])


def _broadcast(ends: Ends, inner: int) -> Axes:
    """The labels of the batch axes in front of the last ``inner`` of both operands."""
    rank = len(ends.op.outputs[0].shape) - inner
    batch: Axes = [None] * rank
    for back in range(1, rank + 1):
        sides = [
            ends.axes(slot)[-inner - back]
            for slot in (0, 1)
            if back + inner <= len(ends.shape(slot)) and ends.shape(slot)[-inner - back] > 1
        ]
        batch[-back] = sides[0] if len(sides) == 1 else ends.unite(*sides) if sides else None
    return batch


def fix(ends: Ends, slot: int, *channel_axes: int) -> None:
    """All axes but these are no channels."""
    axes = ends.axes(slot)
    wanted = [axis % len(axes) for axis in channel_axes]
    ends.freeze(*(labels for axis, labels in enumerate(axes) if axis not in wanted))


def _add_bias(ends: Ends, slot: int, outputs: Labels | None) -> None:
    if ends.has(slot):
        ends.unite(outputs, ends.axes(slot)[0])
