"""How channels pass through each op: the second column of the table of ops.

A rule reads the labels of the inputs, says which are the same channel and which must stay, and labels the outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgekd_converters.channels import FROZEN, Axes, Ends, Labels, Rule, opaque

_PASSIVE = (
    "TRANSPOSE",
    "RESHAPE",
    "MUL",
    "ADD",
    "DIV",
    "SUB",
    "SPLIT",
    "UNPACK",
    "SQUEEZE",
    "STRIDED_SLICE",
    "CONCATENATION",
)


def unary(ends: Ends) -> None:
    """Value by value: relu, sigmoid, cast …"""
    ends.gives(ends.axes(0))


def elementwise(ends: Ends) -> None:
    """Value by value over operands that are broadcast against each other."""
    rank = len(ends.op.outputs[0].shape)
    out: Axes = [None] * rank
    for back in range(1, rank + 1):
        sides = [
            (ends.shape(slot)[-back], ends.axes(slot)[-back])
            for slot in range(len(ends.op.slots))
            if back <= len(ends.shape(slot))
        ]
        many = [labels for size, labels in sides if size > 1]
        if many:
            out[-back] = many[0]
            for labels in many[1:]:
                out[-back] = ends.unite(out[-back], labels)
    ends.gives(out)


def _fix(ends: Ends, slot: int, *channel_axes: int) -> None:
    """All axes but these are no channels."""
    axes = ends.axes(slot)
    wanted = [axis % len(axes) for axis in channel_axes]
    ends.freeze(*(labels for axis, labels in enumerate(axes) if axis not in wanted))


def _add_bias(ends: Ends, slot: int, outputs: Labels | None) -> None:
    if ends.has(slot):
        ends.unite(outputs, ends.axes(slot)[0])


def conv_2d(ends: Ends) -> None:
    x, weights = ends.axes(0), ends.axes(1)
    _fix(ends, 0, 3)
    _fix(ends, 1, 0, 3)
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
    _fix(ends, 0, 3)
    _fix(ends, 1, 3)
    channels, multiplier = ends.shape(0)[3], ends.shape(1)[3] // ends.shape(0)[3]
    if channels > 1:  # one input channel feeds all outputs alike: then each of these stands alone
        ends.unite(None if x[3] is None else np.repeat(x[3], multiplier), weights[3])
    _add_bias(ends, 2, weights[3])
    ends.gives([None, None, None, weights[3]])


def transpose_conv(ends: Ends) -> None:
    x, weights = ends.axes(2), ends.axes(1)
    _fix(ends, 2, 3)
    _fix(ends, 1, 0, 3)
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
        _fix(ends, 0, -1)
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


def spatial(ends: Ends) -> None:
    """Pooling, resizing, blocks of pixels: only the last axis carries channels."""
    _fix(ends, 0, -1)
    ends.gives([*([None] * (len(ends.shape(0)) - 1)), ends.axes(0)[-1]])


def along_last(ends: Ends) -> None:
    """Softmax and the like: every value of the last axis counts for every other."""
    axes = ends.axes(0)
    ends.freeze(axes[-1])
    ends.gives([*axes[:-1], None])


def reduction(*, sums: bool) -> Rule:
    """Over fixed axes channels pass. A sum may lose a term; a mean, a maximum or a product would change."""

    def rule(ends: Ends) -> None:
        axes, over = ends.axes(0), ends.value(1)
        if over is None:
            opaque(ends)
            return
        gone = {axis % len(axes) for axis in over}
        for axis in gone:
            ends.contracts(0, axis) if sums else ends.freeze(axes[axis])
        if ends.options.keepDims:
            ends.gives([None if axis in gone else labels for axis, labels in enumerate(axes)])
        else:
            ends.gives([labels for axis, labels in enumerate(axes) if axis not in gone])

    return rule


def arg_extreme(ends: Ends) -> None:
    axes, over = ends.axes(0), ends.value(1)
    if over is None:
        opaque(ends)
        return
    gone = over[0] % len(axes)
    ends.freeze(axes[gone])
    ends.gives([labels for axis, labels in enumerate(axes) if axis != gone])


def transpose(ends: Ends) -> None:
    order = ends.value(1)
    if order is None:
        opaque(ends)
        return
    ends.gives([ends.axes(0)[axis] for axis in order])


def reshape(ends: Ends) -> None:
    """Axes that are kept pass; a flatten repeats labels; a split gives them to one of the new axes."""
    if ends.has(1) and ends.value(1) is None:
        opaque(ends)
        return
    axes, before, after = ends.axes(0), ends.shape(0), ends.op.outputs[0].shape
    out: Axes = [None] * len(after)
    for old, new in _segments(before, after):
        live = [axis for axis in old if axes[axis] is not None]
        if len(old) > 1 and len(new) > 1:
            ends.freeze(*(axes[axis] for axis in live))
        elif len(new) > 1:
            _split(ends, axes[old[0]] if old else None, after, new, out)
        elif new and live:
            ends.freeze(*(axes[axis] for axis in live[:-1]))
            out[new[0]] = _merge(axes[live[-1]], [before[axis] for axis in old], old.index(live[-1]))
    ends.gives(out)


def _segments(before: Sequence[int], after: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The finest pairing of axes of equal product; axes of size 1 belong nowhere."""
    old, new = ([i for i, size in enumerate(shape) if size != 1] for shape in (before, after))
    segments, i, j = [], 0, 0
    while i < len(old) and j < len(new):
        left, right = [old[i]], [new[j]]
        i, j = i + 1, j + 1
        while (a := math.prod(before[k] for k in left)) != (b := math.prod(after[k] for k in right)):
            if a < b:
                left.append(old[i])
                i += 1
            else:
                right.append(new[j])
                j += 1
        segments.append((left, right))
    return segments


def _merge(labels: Labels | None, sizes: Sequence[int], live: int) -> Labels | None:
    if labels is None:
        return None
    merged: Labels = labels[np.indices(tuple(sizes))[live].ravel()]
    return merged


def _split(ends: Ends, labels: Labels | None, after: Sequence[int], new: Sequence[int], out: Axes) -> None:
    """Heads leave whole, so of (heads, depth) the first axis is the channel; elsewhere, as in a shuffle, the last."""
    if labels is None:
        return
    chosen = 0 if ends.leads_to("BATCH_MATMUL", through=_PASSIVE) else len(new) - 1
    by_unit = np.moveaxis(labels.reshape([after[axis] for axis in new]), chosen, 0).reshape(after[new[chosen]], -1)
    for column in by_unit.T[1:]:
        ends.unite(by_unit[:, 0], column)
    out[new[chosen]] = by_unit[:, 0]


def concatenation(ends: Ends) -> None:
    rank = len(ends.op.outputs[0].shape)
    axis = ends.options.axis % rank
    inputs = [ends.axes(slot) for slot in range(len(ends.op.slots))]
    out: Axes = [None] * rank
    for other in range(rank):
        columns = [axes[other] for axes in inputs]
        if other == axis:
            out[axis] = _string(ends, columns, [ends.shape(slot)[axis] for slot in range(len(inputs))])
        else:
            out[other] = columns[0]
            for labels in columns[1:]:
                out[other] = ends.unite(out[other], labels)
    ends.gives(out)


def _string(ends: Ends, parts: Sequence[Labels | None], sizes: Sequence[int]) -> Labels | None:
    """Labels one after the other; fixed parts stand among live ones as channels that stay."""
    if all(labels is None for labels in parts):
        return None
    stay = [np.full(size, FROZEN) if labels is None else labels for labels, size in zip(parts, sizes, strict=True)]
    joined: Labels = np.concatenate(stay)
    return joined


def split(*, data: int, axis: int) -> Rule:
    """Into equal parts, which must stay equal: the same position leaves all of them. Slots of data and axis."""

    def rule(ends: Ends) -> None:
        axes, where = ends.axes(data), ends.value(axis)
        if where is None:
            opaque(ends)
            return
        chosen, labels = where[0] % len(axes), axes[where[0] % len(axes)]
        outputs = len(ends.op.outputs)
        if labels is not None:
            for part in np.split(labels, outputs)[1:]:
                ends.unite(labels[: len(part)], part)
            labels = labels[: len(labels) // outputs]
        ends.gives(*([labels if i == chosen else one for i, one in enumerate(axes)] for _ in range(outputs)))

    return rule


def split_v(ends: Ends) -> None:
    axes, where = ends.axes(0), ends.value(2)
    if where is None or ends.value(1) is None:
        opaque(ends)
        return
    chosen = where[0] % len(axes)
    labels, sizes = axes[chosen], [tensor.shape[chosen] for tensor in ends.op.outputs]
    parts = [None] * len(sizes) if labels is None else np.split(labels, np.cumsum(sizes)[:-1])
    ends.gives(*([part if i == chosen else one for i, one in enumerate(axes)] for part in parts))


def slice_(ends: Ends) -> None:
    begin = ends.value(1)
    if begin is None or ends.value(2) is None:
        opaque(ends)
        return
    out = [
        None if labels is None else labels[start : start + size]
        for labels, start, size in zip(ends.axes(0), begin, ends.op.outputs[0].shape, strict=True)
    ]
    ends.gives(out)


def strided_slice(ends: Ends) -> None:
    """Steps of 1 cut the labels; anything else keeps them."""
    begin, end, stride = (ends.value(slot) for slot in (1, 2, 3))
    options, axes, shape = ends.options, ends.axes(0), ends.shape(0)
    if begin is None or end is None or stride is None or options.ellipsisMask or options.newAxisMask:
        opaque(ends)
        return
    out: Axes = []
    for axis, labels in enumerate(axes):
        whole = axis >= len(begin)
        if not whole and options.shrinkAxisMask >> axis & 1:
            ends.freeze(labels)
            continue
        first, last = (None, None) if whole else strided_range(ends, axis, begin[axis], end[axis])
        if whole or (stride[axis] == 1 and (first, last) == (0, shape[axis])):
            out.append(labels)
        elif stride[axis] == 1 and labels is not None:
            out.append(labels[first:last])
        else:
            ends.freeze(labels)
            out.append(None)
    ends.gives(out)


def strided_range(ends: Ends, axis: int, begin: int, end: int) -> tuple[int, int]:
    """First and last (excluded) position that a slice of step 1 takes."""
    size, options = ends.shape(0)[axis], ends.options
    first = 0 if options.beginMask >> axis & 1 else begin
    last = size if options.endMask >> axis & 1 else end
    return tuple(np.clip([first + size * (first < 0), last + size * (last < 0)], 0, size).tolist())


def pack(ends: Ends) -> None:
    rank = len(ends.op.outputs[0].shape)
    out = list(ends.axes(0))
    for slot in range(1, len(ends.op.slots)):
        out = [ends.unite(left, right) for left, right in zip(out, ends.axes(slot), strict=True)]
    out.insert(ends.options.axis % rank, None)
    ends.gives(out)


def unpack(ends: Ends) -> None:
    axes = list(ends.axes(0))
    ends.freeze(axes.pop(ends.options.axis % len(axes)))
    ends.gives(*(list(axes) for _ in ends.op.outputs))


def pad(ends: Ends) -> None:
    amounts = ends.value(1)
    if amounts is None:
        opaque(ends)
        return
    out: Axes = []
    for labels, (before, after) in zip(ends.axes(0), np.reshape(amounts, (-1, 2)).tolist(), strict=True):
        ends_of = (np.full(before, FROZEN), np.full(after, FROZEN))
        out.append(None if labels is None else np.concatenate([ends_of[0], labels, ends_of[1]]))
    ends.gives(out)


def same_sizes(ends: Ends) -> None:
    """Tiling, broadcasting, mirroring: axes that keep their size pass; those that do not, stay."""
    before, after = ends.shape(0), ends.op.outputs[0].shape
    axes = [None] * (len(after) - len(before)) + ends.axes(0)
    sizes = (1,) * (len(after) - len(before)) + before
    same = [old == new for old, new in zip(sizes, after, strict=True)]
    ends.freeze(*(labels for labels, passes in zip(axes, same, strict=True) if not passes))
    ends.gives([labels if passes else None for labels, passes in zip(axes, same, strict=True)])


def gather(ends: Ends) -> None:
    """Rows picked from a table: what a row holds passes."""
    table, ids = ends.axes(0), ends.axes(1)
    axis, batch = ends.options.axis % len(table), ends.options.batchDims
    ends.freeze(table[axis], *ids)
    ends.gives([*table[:axis], *ids[batch:], *table[axis + 1 :]])


def embedding_lookup(ends: Ends) -> None:
    ids, table = ends.axes(0), ends.axes(1)
    ends.freeze(table[0], *ids)
    ends.gives([*ids, *table[1:]])


def cumsum(ends: Ends) -> None:
    axes, over = ends.axes(0), ends.value(1)
    if over is None:
        opaque(ends)
        return
    ends.freeze(axes[over[0]])
    ends.gives([None if axis == over[0] % len(axes) else labels for axis, labels in enumerate(axes)])


def depth_from_space(ends: Ends) -> None:
    """SPACE_TO_DEPTH: a channel becomes one for every pixel of the block."""
    _fix(ends, 0, 3)
    labels = ends.axes(0)[3]
    ends.gives([None, None, None, None if labels is None else np.tile(labels, ends.options.blockSize**2)])


def space_from_depth(ends: Ends) -> None:
    """DEPTH_TO_SPACE: the channels that become pixels of one channel leave together."""
    _fix(ends, 0, 3)
    labels, parts = ends.axes(0)[3], ends.options.blockSize**2
    if labels is not None:
        for part in np.split(labels, parts)[1:]:
            ends.unite(labels[: len(part)], part)
        labels = labels[: len(labels) // parts]
    ends.gives([None, None, None, labels])
