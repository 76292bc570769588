"""Ops that give values another place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekd_converters.channels import FROZEN, Axes, Ends, Labels, Rule, opaque
from edgekd_converters.ops.rules.layers import fix

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
        first, last = (None, None) if whole else strided_range(options, axis, shape[axis], begin[axis], end[axis])
        if whole or (stride[axis] == 1 and (first, last) == (0, shape[axis])):
            out.append(labels)
        elif stride[axis] == 1 and labels is not None:
            out.append(labels[first:last])
        else:
            ends.freeze(labels)
            out.append(None)
    ends.gives(out)


def strided_range(options: Any, axis: int, size: int, begin: int, end: int) -> tuple[int, int]:
    """First and last (excluded) of ``size`` positions that a slice of step 1 takes; ``options`` are STRIDED_SLICE's."""
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


def depth_from_space(ends: Ends) -> None:
    """SPACE_TO_DEPTH: a channel becomes one for every pixel of the block."""
    fix(ends, 0, 3)
    labels = ends.axes(0)[3]
    ends.gives([None, None, None, None if labels is None else np.tile(labels, ends.options.blockSize**2)])


def space_from_depth(ends: Ends) -> None:
    """DEPTH_TO_SPACE: the channels that become pixels of one channel leave together."""
    fix(ends, 0, 3)
    labels, parts = ends.axes(0)[3], ends.options.blockSize**2
    if labels is not None:
        for part in np.split(labels, parts)[1:]:
            ends.unite(labels[: len(part)], part)
        labels = labels[: len(labels) // parts]
    ends.gives([None, None, None, labels])
