"""Ops that only move, copy, cut or look up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekd_converters.graph import Op
from edgekd_converters.ops.nodes.common import FIRST, Nodes, Writer, along, axis_of


def reshape(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """Squeezing and the like too. A batch that stays in front is taken from the input, whatever its size."""
    sizes = list(op.outputs[0].shape)
    if sizes[:1] == [1] == list(op.inputs[0].shape[:1]):
        sizes[0] = 0  # as it is
    return [nodes.add("Reshape", inputs[0], nodes.ints(sizes))]


def transpose(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    return [nodes.permute(inputs[0], nodes.known(op, inputs[1]))]


def concatenation(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    parts, axis, first = along(nodes, inputs, op.options.axis, len(op.outputs[0].shape))
    y = nodes.add("Concat", *parts, axis=axis)
    return [nodes.channels_last(y) if first else y]


def pack(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    axis = axis_of(op.options.axis, len(op.outputs[0].shape))
    return [nodes.add("Concat", *(nodes.add("Unsqueeze", name, nodes.ints([axis])) for name in inputs), axis=axis)]


def unpack(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    axis = axis_of(op.options.axis, len(op.inputs[0].shape))
    parts = nodes.add_many("Split", inputs, len(op.outputs), axis=axis, num_outputs=len(op.outputs))
    return [nodes.add("Squeeze", part, nodes.ints([axis])) for part in parts]


def split(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """The axis is slot 0, the value slot 1."""
    return _split(nodes, op, inputs[1], nodes.known(op, inputs[0])[0], len(op.inputs[1].shape))


def split_v(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """The axis is slot 2."""
    return _split(nodes, op, inputs[0], nodes.known(op, inputs[2])[0], len(op.inputs[0].shape))


def _split(nodes: Nodes, op: Op, name: str, axis: int, rank: int) -> list[str]:
    count, sizes = len(op.outputs), [output.shape[axis] for output in op.outputs]
    (x,), axis, first = along(nodes, [name], axis, rank)
    if len(set(sizes)) == 1:
        parts = nodes.add_many("Split", [x], count, axis=axis, num_outputs=count)
    else:
        parts = nodes.add_many("Split", [x, nodes.ints(sizes)], count, axis=axis)
    return [nodes.channels_last(part) for part in parts] if first else parts


def cut(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """SLICE: the sizes taken are the output's."""
    begins, sizes = nodes.known(op, inputs[1]), op.outputs[0].shape
    return [_slice(nodes, op, inputs[0], [slice(a, a + n) for a, n in zip(begins, sizes, strict=True)])]


def strided_slice(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """The masks have one bit an entry, from the lowest."""
    begin, end, strides = (nodes.known(op, name) for name in inputs[1:4])
    options, shape = op.options, op.inputs[0].shape
    taken: list[slice] = []
    for i, (a, b, step) in enumerate(zip(begin, end, strides, strict=True)):
        bit = 1 << i
        if options.ellipsisMask & bit:
            left = sum(not options.newAxisMask >> k & 1 for k in range(i + 1, len(begin)))
            taken += [slice(None)] * (len(shape) - left - len(taken))
        elif options.shrinkAxisMask & bit:
            a = axis_of(a, shape[len(taken)])
            taken.append(slice(a, a + 1))
        elif not options.newAxisMask & bit:
            stop = a + b if options.offset else b
            taken.append(slice(None if options.beginMask & bit else a, None if options.endMask & bit else stop, step))
    y = _slice(nodes, op, inputs[0], taken)
    changed = options.shrinkAxisMask or options.newAxisMask
    return reshape(nodes, op, [y]) if changed else [y]


def _slice(nodes: Nodes, op: Op, name: str, slices: Sequence[slice]) -> str:
    """Only along the axes that are cut; of those with channels first where they are there so."""
    rows = []
    for axis, (one, size) in enumerate(zip(slices, op.inputs[0].shape, strict=False)):
        start, stop, step = one.indices(size)
        if (start, step) != (0, 1) or stop < size:
            rows.append((start, stop if step > 0 or stop >= 0 else -size - 1, axis, step))
    if not rows:
        return name
    first = nodes.is_channels_last(name)
    starts, stops, axes, steps = zip(*rows, strict=True)
    x = nodes.channels_first(name) if first else name
    axes = tuple(FIRST.index(axis) for axis in axes) if first else axes
    y = nodes.add("Slice", x, *(nodes.ints(part) for part in (starts, stops, axes, steps)))
    return nodes.channels_last(y) if first else y


def pad(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """Slot 2, where there is one, holds what is put around."""
    paddings = np.reshape(nodes.known(op, inputs[1]), (-1, 2))
    first = nodes.is_channels_last(inputs[0])
    x = nodes.channels_first(inputs[0]) if first else inputs[0]
    paddings = paddings[list(FIRST)] if first else paddings
    filler = [nodes.add("Reshape", inputs[2], nodes.ints([]))] if len(inputs) > 2 else []
    y = nodes.add("Pad", x, nodes.ints([*paddings[:, 0], *paddings[:, 1]]), *filler)
    return [nodes.channels_last(y) if first else y]


def mirror_pad(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """By looking up, for ONNX does not know the mirror that repeats the edge."""
    x, mode = inputs[0], ("reflect", "symmetric")[op.options.mode]
    paddings = np.reshape(nodes.known(op, inputs[1]), (-1, 2))
    for axis, (size, around) in enumerate(zip(op.inputs[0].shape, paddings, strict=True)):
        if around.any():
            order: Any = np.pad(np.arange(size), tuple(around), mode)  # type: ignore[call-overload]
            x = nodes.add("Gather", x, nodes.ints(order.tolist()), axis=axis)
    return [x]


def tile(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    return [nodes.add("Tile", inputs[0], nodes.ints(nodes.known(op, inputs[1])))]


def _to_output_shape(slot: int) -> Writer:
    return lambda nodes, op, inputs: [nodes.add("Expand", inputs[slot], nodes.ints(op.outputs[0].shape))]


broadcast_to, fill = _to_output_shape(0), _to_output_shape(1)


def reverse_v2(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    slices = [slice(None)] * len(op.inputs[0].shape)
    for axis in nodes.known(op, inputs[1]):
        slices[axis] = slice(None, None, -1)
    return [_slice(nodes, op, inputs[0], slices)]


def shape_of(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    return [nodes.cast(nodes.add("Shape", inputs[0]), op.outputs[0].dtype.lower())]


def rank(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    return [nodes.constant(len(op.inputs[0].shape), np.int32)]


def sequence_of_numbers(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    return [nodes.add("Range", *inputs)]


def gather(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """Indices into an axis of slot 0; with ``batchDims`` each leading slice has its own indices."""
    rank, places = len(op.inputs[0].shape), len(op.inputs[1].shape)
    axis, shared = axis_of(op.options.axis, rank), axis_of(op.options.batchDims, places)
    if not shared:
        return [nodes.add("Gather", inputs[0], inputs[1], axis=axis)]
    x = nodes.permute(inputs[0], [*range(shared), axis, *(k for k in range(shared, rank) if k != axis)])
    y = _gather_nd(nodes, x, nodes.add("Unsqueeze", inputs[1], nodes.ints([-1])), shared)
    # Made: shared axes, those of the indices, those that came before the axis, those behind.
    made, before = len(op.outputs[0].shape), axis - shared
    indices = range(shared, places)
    return [
        nodes.permute(y, [*range(shared), *range(places, places + before), *indices, *range(places + before, made)])
    ]


def _gather_nd(nodes: Nodes, x: str, indices: str, shared: int) -> str:
    return nodes.add("GatherND", x, nodes.cast(indices, "int64"), batch_dims=shared)


def gather_nd(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    return [_gather_nd(nodes, inputs[0], inputs[1], 0)]


def embedding_lookup(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """Indices in slot 0, rows of slot 1."""
    return [nodes.add("Gather", inputs[1], inputs[0], axis=0)]


def one_hot(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """Slots: indices, depth, the value that marks, the value elsewhere. An index out of range marks nothing."""
    rank = len(op.outputs[0].shape)
    axis, depth = axis_of(op.options.axis, rank), nodes.known(op, inputs[1])[0]
    steps = np.arange(depth, dtype=op.inputs[0].dtype.lower()).reshape(-1, *[1] * (rank - 1 - axis))
    marked = nodes.add("Equal", nodes.add("Unsqueeze", inputs[0], nodes.ints([axis])), nodes.constant(steps))
    return [nodes.add("Where", marked, inputs[2], inputs[3])]


def space_to_batch_nd(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """Cut into blocks, whose places within them come before the batch."""
    blocks, paddings = nodes.known(op, inputs[1]), np.reshape(nodes.known(op, inputs[2]), (-1, 2))
    n, sizes = op.inputs[0].shape[0], op.inputs[0].shape
    grid, rest = len(blocks), sizes[len(blocks) + 1 :]
    around = np.pad(paddings, ((1, len(rest)), (0, 0)))
    x = nodes.add("Pad", inputs[0], nodes.ints([*around[:, 0], *around[:, 1]]))
    counts = [(sizes[i + 1] + int(paddings[i].sum())) // block for i, block in enumerate(blocks)]
    parted = [part for pair in zip(counts, blocks, strict=True) for part in pair]
    x = nodes.add("Reshape", x, nodes.ints([n, *parted, *rest]))
    behind = range(2 * grid + 1, 2 * grid + 1 + len(rest))
    x = nodes.permute(x, [*range(2, 2 * grid + 1, 2), 0, *range(1, 2 * grid + 1, 2), *behind])
    return [nodes.add("Reshape", x, nodes.ints(op.outputs[0].shape))]


def batch_to_space_nd(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """The reverse, and what was put around is cut off."""
    blocks, crops = nodes.known(op, inputs[1]), np.reshape(nodes.known(op, inputs[2]), (-1, 2))
    sizes, n = op.inputs[0].shape, op.outputs[0].shape[0]
    grid, rest = len(blocks), sizes[len(blocks) + 1 :]
    x = nodes.add("Reshape", inputs[0], nodes.ints([*blocks, n, *sizes[1:]]))
    paired = [axis for i in range(grid) for axis in (grid + 1 + i, i)]
    x = nodes.permute(x, [grid, *paired, *range(2 * grid + 1, 2 * grid + 1 + len(rest))])
    whole = [sizes[i + 1] * block for i, block in enumerate(blocks)]
    x = nodes.add("Reshape", x, nodes.ints([n, *whole, *rest]))
    starts, stops = crops[:, 0].tolist(), [size - int(crop[1]) for size, crop in zip(whole, crops, strict=True)]
    return [nodes.add("Slice", x, nodes.ints(starts), nodes.ints(stops), nodes.ints(range(1, grid + 1)))]
