"""The first layer of a model that its float graph does not compute.

Every inner result of the source is looked for among the graph's tensors: the same numbers, up to an order of axes and
a reshape. That alone does not tell. A layer may be missing because the converter fused it away (batch norm into
a convolution, an activation into its op), and one after the fault may agree because it lies on another branch. So the
graph, of which it is known what is made of what, is walked back from the wrong outputs through all that no layer of
the source agrees with. Where the walk ends stands the op that makes wrong numbers of right ones; the culprit is the
first missing layer after those that made the right ones, leaving out layers that were only fused into a right result
(of which that result is, channel by channel, close to a linear function).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.graph import Graph, Op
from edgekd_converters.load.source import Layer
from edgekd_converters.observe import Feed, Observer

_MOST_AXES = 5
_RELATED = 0.6  # correlation; that of a normal variable with its ReLU is 0.86
_Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Culprit:
    """``after``: the last layer before it that agrees, None where it is the input. ``made_by``: the graph's op."""

    layer: str
    op: str
    after: str | None
    made_by: str

    def __str__(self) -> str:
        after = f"after {self.after!r}, which agrees" if self.after else "straight after the input"
        return (
            f"the first layer that differs is {self.layer!r} ({self.op}), {after}; the graph has {self.made_by} there"
        )


@dataclass(frozen=True)
class _Seen:
    """A layer of the source. ``tensors``: those of the graph that hold the same."""

    name: str
    op: str
    value: npt.NDArray[Any]
    tensors: frozenset[int]


def allowed_difference(span: float, size: float, tolerance: float) -> float:
    """What two float32 computations of numbers that span ``span`` and reach ``size`` may differ by."""
    return tolerance * span + 1e-5 * size + 1e-6


def find_culprit(
    graph: Graph, feed: Feed, layers: Iterable[Layer], wrong: Sequence[str], tolerance: float
) -> Culprit | None:
    """None where it cannot be found.

    Args:
        feed: one sample in the graph's layout; ``layers`` are the source's on the same one.
        wrong: the public outputs that differ on it.

    Raises ``RunError`` when the graph does not run.
    """
    seen = _look_for(graph, feed, layers, tolerance)
    places: dict[int, int] = {}  # tensor → the first layer that it agrees with; -1: the input, or known beforehand
    for place, layer in reversed(list(enumerate(seen))):
        places.update(dict.fromkeys(layer.tensors, place))
    places.update(dict.fromkeys(_given(graph), -1))
    by_name = {tensor.name: tensor.index for tensor in graph.outputs}
    fault = _first_fault(graph, {by_name[graph.signature.outputs[name]] for name in wrong}, set(places))
    if fault is None:
        return None
    last = _latest(fault, places)
    missing = [place for place in range(last + 1, len(seen)) if not seen[place].tensors]
    fused = _fused_away(graph, seen, places)
    ranked = sorted(missing, key=lambda place: (seen[place].value.dtype.kind != "f", place in fused, place))
    if not ranked:
        return None
    layer = seen[ranked[0]]
    return Culprit(layer.name, layer.op, seen[last].name if last >= 0 else None, str(fault))


def _given(graph: Graph) -> set[int]:
    """Inputs, and what follows from constants alone."""
    known = {tensor.index for tensor in graph.inputs}
    constant = {tensor.index for tensor in graph.tensors if tensor.is_constant}
    for op in graph.main:
        if all(tensor.index in constant for tensor in op.inputs):
            constant |= {tensor.index for tensor in op.outputs}
    return known | constant


def _look_for(graph: Graph, feed: Feed, layers: Iterable[Layer], tolerance: float) -> list[_Seen]:
    observer = Observer(graph)
    observer.run(feed)
    by_size: dict[int, list[tuple[int, _Values]]] = {}
    for tensor in (tensor for op in graph.main for tensor in op.outputs):
        values = observer.read(tensor.index).astype(np.float64)
        by_size.setdefault(values.size, []).append((tensor.index, values))
    seen = []
    for layer in layers:
        value = np.asarray(layer.value)
        same = {i for i, it in by_size.get(value.size, []) if _same(value.astype(np.float64), it, tolerance)}
        seen.append(_Seen(layer.name, layer.op, value, frozenset(same)))
    return seen


def _same(source: _Values, graph: _Values, tolerance: float) -> bool:
    """Whether two arrays of one size hold the same numbers, up to an order of the source's axes, then a reshape.

    Not of the graph's axes: a flattening that took them in another order than the source is a classic fault.
    """
    if not source.size:
        return False
    finite = source[np.isfinite(source)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    allowed = allowed_difference(high - low, max(abs(low), abs(high)), tolerance)
    if finite.size == source.size and not (
        abs(low - graph.min()) <= allowed and abs(high - graph.max()) <= allowed and np.isfinite(graph).all()
    ):
        return False  # the order of the axes does not change these
    flat = graph.ravel()
    return any(np.allclose(turned.ravel(), flat, rtol=0, atol=allowed, equal_nan=True) for turned in _orders(source))


def _orders(values: _Values) -> Iterable[_Values]:
    values = values.squeeze()
    if values.ndim > _MOST_AXES:
        return [values]
    return (values.transpose(order) for order in itertools.permutations(range(values.ndim)))


def _first_fault(graph: Graph, wrong: set[int], right: set[int]) -> Op | None:
    """The earliest op on the way back from the wrong outputs to tensors that are right."""
    needed, fault = set(wrong), None
    for op in reversed(graph.main):
        if needed & {tensor.index for tensor in op.outputs}:
            needed |= {tensor.index for tensor in op.inputs} - right
            fault = op
    return fault


def _latest(op: Op, places: dict[int, int]) -> int:
    """The last layer of the source among those that ``op`` takes."""
    return max((places.get(tensor.index, -1) for tensor in op.inputs), default=-1)


def _fused_away(graph: Graph, seen: Sequence[_Seen], places: dict[int, int]) -> set[int]:
    """Missing layers between what an op takes and the layer that it makes, which is nearly a linear function of them.

    A missing layer of another branch that happens to run there is not: it may be the culprit.
    """
    maker = {tensor.index: op for op in graph.main for tensor in op.outputs}
    fused: set[int] = set()
    for place, layer in enumerate(seen):
        for op in (maker[tensor] for tensor in layer.tensors if places[tensor] == place):
            between = range(_latest(op, places) + 1, place)
            fused |= {k for k in between if not seen[k].tensors and _related(seen[k].value, layer.value)}
    return fused


def _related(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> bool:
    """Whether most channels, the second or the last axis, of two arrays are correlated, as by batch norm and ReLU."""
    if one.shape != other.shape or one.ndim < 2:
        return False
    for axis in {1, one.ndim - 1}:
        a, b = (np.moveaxis(it.astype(np.float64), axis, 0).reshape(it.shape[axis], -1) for it in (one, other))
        a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
        size = np.sqrt(np.square(a).sum(1) * np.square(b).sum(1))
        moving = size > 0  # a channel that its ReLU has silenced tells nothing
        if moving.any() and np.median(np.abs((a * b).sum(1)[moving]) / size[moving]) > _RELATED:
            return True
    return False
