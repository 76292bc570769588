"""Channels leave physically: smaller constants, smaller activations, operands that state sizes brought up to date."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.channels import Channels, Labels, size_after
from edgekd_converters.graph import Graph, Op
from edgekd_converters.ops.rules.moves import strided_range

Mask = npt.NDArray[np.bool_]
"""``(classes,)``: whether a class of :class:`Channels` stays."""


def keep_all(channels: Channels) -> Mask:
    """Nothing leaves."""
    return np.ones(
        1 + max((int(one.max()) for axes in channels.axes.values() for one in axes if one is not None), default=0),
        np.bool_,
    )


def remove(channels: Channels, kept: Mask) -> Graph:
    """The graph without the classes that are not ``kept``."""
    graph = channels.graph
    outputs = [tensor for op in graph.main for tensor in op.outputs]
    shapes = {tensor.index: size_after(channels, tensor.index, tensor.shape, kept) for tensor in outputs}
    constants: dict[int, npt.NDArray[Any]] = {}
    operands: dict[tuple[int, int], npt.NDArray[Any]] = {}
    for op in graph.main:
        for slot, tensor in enumerate(op.slots):
            if tensor is None or not tensor.is_constant:
                continue
            key = channels.key(op, slot)
            axes = channels.axes.get(key, [])
            if all(labels is None or kept[labels].all() for labels in axes):
                continue
            value = graph.constant(tensor)
            for axis, labels in enumerate(axes):
                if labels is not None:
                    value = np.compress(kept[labels], value, axis)
            if isinstance(key, tuple):
                operands[key] = value
            else:
                constants[key] = value
    changed = {index: shape for index, shape in shapes.items() if shape != graph.tensors[index].shape}
    for op in graph.main:
        operands.update(_restated(channels, op, kept, changed))
    return graph.edited(constants, changed, operands)


def _restated(
    channels: Channels, op: Op, kept: Mask, shapes: dict[int, tuple[int, ...]]
) -> dict[tuple[int, int], npt.NDArray[Any]]:
    """Operands that state sizes or positions, where those have changed."""
    restate = _RESTATE.get(op.name)
    if restate is None or not {tensor.index for tensor in (*op.inputs, *op.outputs)} & set(shapes):
        return {}
    return {(op.index, slot): value for slot, value in restate(channels, op, kept, shapes).items()}


Restated = dict[int, npt.NDArray[Any]]


def _output_shape(slot: int) -> Callable[[Channels, Op, Mask, dict[int, tuple[int, ...]]], Restated]:
    def restate(channels: Channels, op: Op, kept: Mask, shapes: dict[int, tuple[int, ...]]) -> Restated:
        operand, output = op.slots[slot] if slot < len(op.slots) else None, op.outputs[0]
        if operand is None or output.index not in shapes:
            return {}
        old = channels.graph.constant(operand)
        return {slot: np.where(old < 0, old, np.array(shapes[output.index], old.dtype))}

    return restate


def _slice(channels: Channels, op: Op, kept: Mask, shapes: dict[int, tuple[int, ...]]) -> Restated:
    begin, size = (channels.graph.constant(operand).copy() for operand in op.inputs[1:3])
    for axis, labels in enumerate(channels.axes[op.inputs[0].index]):
        if labels is not None:
            begin[axis], size[axis] = _moved(labels, kept, begin[axis], begin[axis] + op.outputs[0].shape[axis])
    return {1: begin, 2: size}


def _strided_slice(channels: Channels, op: Op, kept: Mask, shapes: dict[int, tuple[int, ...]]) -> Restated:
    begin, end, stride = (channels.graph.constant(operand).copy() for operand in op.inputs[1:4])
    for axis, labels in enumerate(channels.axes[op.inputs[0].index][: len(begin)]):
        if labels is not None and stride[axis] == 1:
            first, last = strided_range(op.options, axis, len(labels), begin[axis], end[axis])
            begin[axis], taken = _moved(labels, kept, first, last)
            end[axis] = begin[axis] + taken
    return {1: begin, 2: end}


def _moved(labels: Labels, kept: Mask, first: int, last: int) -> tuple[int, int]:
    """Where a run of positions begins once channels before it have left, and how many of it stay."""
    return int(kept[labels[:first]].sum()), int(kept[labels[first:last]].sum())


def _split_sizes(channels: Channels, op: Op, kept: Mask, shapes: dict[int, tuple[int, ...]]) -> Restated:
    old, axis = channels.graph.constant(op.inputs[1]), int(channels.graph.constant(op.inputs[2]).ravel()[0])
    return {1: np.array([shapes.get(one.index, one.shape)[axis] for one in op.outputs], old.dtype)}


_RESTATE = {
    "RESHAPE": _output_shape(1),
    "BROADCAST_TO": _output_shape(1),
    "TRANSPOSE_CONV": _output_shape(0),
    "SLICE": _slice,
    "STRIDED_SLICE": _strided_slice,
    "SPLIT_V": _split_sizes,
}
