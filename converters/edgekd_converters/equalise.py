"""Cross-layer equalisation: quiet channels of a tensor are made louder, and its readers undo it.

A tensor has one range in int8, so a channel that takes a hundredth of it is left two steps out of 255. Its maker's
weights can be multiplied and its readers' divided without changing the function (Nagel et al. 2019, "Data-Free
Quantization Through Weight Equalization and Bias Correction", 4.1; Xiao et al. 2022, "SmoothQuant", does the same from
a normalisation to the matrix products behind it). That costs the maker's weights nothing, which have a scale for each
channel that they make; nor a depthwise reader's. Others have one for all channels that they read, so there a channel
goes half the way, by ratio: both papers' choice, and the best of 1/4, 1/2, 3/4 and 1 on the benchmark's models.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt

from edgekd_converters.channels import FROZEN, Axes, Channels, Edge, Labels, Place
from edgekd_converters.graph import Graph, Op, Tensor
from edgekd_converters.limits import LAYERS
from edgekd_converters.observe import Columns, Observer, feeds
from edgekd_converters.ops.rules.scales import rules_for
from edgekd_converters.slim import keep_all

Reals = npt.NDArray[np.float64]
Ends = tuple[Reals, Reals]
"""Least and greatest value by position along an axis, ``(size,)``, with 0 among them."""

_MOST = 64.0
_SAMPLES = 128


def equalise(graph: Graph, samples: Columns) -> Graph:
    """The same function with channels of more equal ranges; the graph itself if there are none to equalise.

    No tensor's range grows, so what a RELU6 makes is raised only as far as the samples do not reach its clip; what goes
    beyond them is clipped as it would be by its range in int8.

    Args:
        graph: a float graph that was conditioned for the quantiser.
        samples: by input name, ``(n, …)``; the first 128 are looked at.

    Raises ``RunError`` when a sample does not fit the model.
    """
    channels = Channels(graph, rules_for(graph))
    groups = [(group, edges) for group in channels.groups() if (edges := _readers(channels, group.places))]
    if not groups:
        return graph
    room = _room(channels, _look(channels, {name: column[:_SAMPLES] for name, column in samples.items()}))
    scales = np.ones_like(room)
    for group, edges in groups:
        free = all(edge.op.name == "DEPTHWISE_CONV_2D" for edge in edges)
        scales[group.units] = room[group.units] if free else np.sqrt(room[group.units])
    return _scaled(channels, scales) if (scales > 1).any() else graph


def _readers(channels: Channels, places: Collection[Place]) -> list[Edge]:
    return [edge for edge in channels.edges if (channels.key(edge.op, edge.slot), edge.axis) in places]


def _look(channels: Channels, samples: Columns) -> dict[tuple[int, int], Ends]:
    """(tensor, axis) → what the samples show along it, of all axes of activations that have channels to scale."""
    observer = Observer(channels.graph)
    seen = {
        (tensor.index, axis): (np.zeros(tensor.shape[axis]), np.zeros(tensor.shape[axis]))
        for op in channels.graph.main
        for tensor in op.outputs
        for axis, labels in enumerate(channels.axes[tensor.index])
        if tensor.dtype == "FLOAT32" and labels is not None and (labels != FROZEN).any()
    }
    for feed in feeds(samples):
        observer.run(feed)
        for (index, axis), (low, high) in seen.items():
            least, greatest = _extremes(observer.read(index), axis)
            np.minimum(low, least, out=low)
            np.maximum(high, greatest, out=high)
    return seen


def _extremes(values: npt.NDArray[np.float32], axis: int) -> Ends:
    others = tuple(k for k in range(values.ndim) if k != axis)
    return np.minimum(values.min(others), 0.0), np.maximum(values.max(others), 0.0)


def _room(channels: Channels, seen: dict[tuple[int, int], Ends]) -> Reals:
    """By class, the greatest factor that widens no tensor's range, 1 … 64."""
    room = np.full(len(keep_all(channels)), np.inf)
    for (key, axis), (low, high) in (*seen.items(), *_constants(channels)):
        labels = channels.axes[key][axis]
        if labels is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                up = np.where(high > 0, high.max() / high, np.inf)
                down = np.where(low < 0, low.min() / low, np.inf)
            np.minimum.at(room, labels, np.minimum(up, down))
    room[np.isinf(room)] = room[FROZEN] = 1.0  # of a channel that is always 0 nothing is known
    limited: Reals = np.minimum(room, _MOST)
    return limited


def _constants(channels: Channels) -> Iterator[tuple[Place, Ends]]:
    """Those that are no weights have one range too."""
    for op, slot, tensor in _scalable(channels.graph):
        if op.name not in LAYERS:
            key = channels.key(op, slot)
            for axis in range(len(channels.axes.get(key, []))):
                yield (key, axis), _extremes(channels.graph.constant(tensor), axis)


def _scalable(graph: Graph) -> Iterator[tuple[Op, int, Tensor]]:
    """Constant operands that stand for channels; not slopes, which are factors themselves."""
    for op in graph.main:
        for slot, tensor in enumerate(op.slots):
            if tensor is not None and tensor.is_constant and tensor.dtype == "FLOAT32" and op.name != "PRELU":
                yield op, slot, tensor


def _scaled(channels: Channels, scales: Reals) -> Graph:
    graph, operands = channels.graph, {}
    for op, slot, tensor in _scalable(graph):
        gain = _gain(scales, _made(channels, op, slot)) / _gain(scales, _undone(channels, op, slot))
        if (gain != 1).any():
            operands[op.index, slot] = (graph.constant(tensor) * gain).astype(np.float32)
    return graph.edited({}, {}, operands)


def _made(channels: Channels, op: Op, slot: int) -> Axes:
    """By axis of a constant operand, the channels that are made of it."""
    axes = channels.axes.get(channels.key(op, slot), [])
    if op.name in LAYERS and slot == 1:
        return [labels if axis == LAYERS[op.name][2] else None for axis, labels in enumerate(axes)]
    return axes


def _undone(channels: Channels, op: Op, slot: int) -> Axes:
    """By axis of a constant operand, the channels that are used up with it."""
    tensor, other = op.slots[slot], op.slots[1 - slot] if op.name == "MUL" else None
    assert tensor is not None
    if op.name in LAYERS and slot == 1:
        return [*([None] * (len(tensor.shape) - 1)), _read(channels, op)]
    if other is None:
        return []
    read = ([None] * len(tensor.shape) + channels.axes[other.index])[-len(tensor.shape) :] if tensor.shape else []
    return [None if size == 1 else labels for size, labels in zip(tensor.shape, read, strict=True)]


def _read(channels: Channels, op: Op) -> Labels | None:
    """Along the last axis of a layer's weights, the input's channels that they read."""
    if op.name != "DEPTHWISE_CONV_2D":
        return channels.axes[channels.key(op, 1)][-1]
    source, weights = op.inputs[:2]
    labels = channels.axes[source.index][-1]
    return None if labels is None else np.repeat(labels, weights.shape[-1] // len(labels))


def _gain(scales: Reals, axes: Axes) -> Reals:
    """The product over the axes of each position's scale, with as many axes."""
    gain = np.ones([1] * len(axes))
    for axis, labels in enumerate(axes):
        if labels is not None:
            gain = gain * scales[labels].reshape([-1 if k == axis else 1 for k in range(len(axes))])
    return gain
