"""Which channels of a graph depend on each other and must leave together.

Every axis of every tensor is either *fixed* (batch, space, time: no channel) or carries one label for each of its
positions. Running once over the ops, their rules say which labels are the same channel (a union-find): an add makes
those of its operands one, a depthwise convolution those of its input and output, a concatenation strings them
together, a flatten repeats each for every pixel. What is left as one class is one prunable unit, wherever in the graph
its positions are; units over the same axes form a group. This is the dependency graph of Fang et al. 2023, "DepGraph:
Towards Any Structural Pruning", at the grain of single channels, which also follows shuffles and reshapes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.graph import Graph, Op, Tensor

Labels = npt.NDArray[np.int64]
Axes = list[Labels | None]
"""By axis: ``(size,)`` labels, or None where the axis is fixed."""
Key = int | tuple[int, int]
"""A tensor's index; or (op, slot) for a constant that the converter may have shared between strangers."""
Place = tuple[Key, int]
"""One axis of one tensor."""
Rule = Callable[["Ends"], None]

FROZEN = 0


@dataclass(frozen=True)
class Edge:
    """An op sums over this axis of this input: here the channels that carry it are used up."""

    op: Op
    slot: int
    axis: int


@dataclass(frozen=True)
class Group:
    """Units that live on the same axes. ``units``: the classes, ``(n,)``, in the order of the first axis."""

    units: Labels
    places: tuple[Place, ...]

    def __len__(self) -> int:
        return len(self.units)


class Channels:
    """The analysis of one graph.

    ``axes``: key → labels by axis, to be read through :meth:`classes`. ``notes``: one line for every op that channels
    cannot pass.
    """

    def __init__(self, graph: Graph, rules: Callable[[Op], Rule | None]) -> None:
        self.graph = graph
        self.axes: dict[Key, Axes] = {tensor.index: [None] * len(tensor.shape) for tensor in graph.inputs}
        self.edges: list[Edge] = []
        self.notes: list[str] = []
        self._parent = np.zeros(1, np.int64)
        self._shared = _loose(graph)
        for op in graph.main:
            rule = rules(op)
            if rule is None:
                self.notes.append(f"{op} has no channel rule; the channels that reach it stay")
                rule = opaque
            rule(Ends(self, op))
        for tensor in graph.outputs:
            for labels in self.axes.get(tensor.index, []):
                self.freeze(labels)
        self._flatten()

    def fresh(self, count: int) -> Labels:
        """``count`` new labels."""
        start = len(self._parent)
        self._parent = np.concatenate([self._parent, np.arange(start, start + count)])
        return np.arange(start, start + count)

    def classes(self, labels: Labels) -> Labels:
        """The class of each label; ``FROZEN`` for what must stay."""
        found = self._parent[labels]
        while not np.array_equal(found, higher := self._parent[found]):
            found = higher
        return found

    def unite(self, left: Labels, right: Labels) -> None:
        """Position by position the same channel."""
        # The smaller number is the root, so that FROZEN, the smallest, swallows whatever it meets.
        for a, b in zip(self.classes(left).tolist(), self.classes(right).tolist(), strict=True):
            a, b = self._root(a), self._root(b)
            self._parent[max(a, b)] = min(a, b)

    def freeze(self, labels: Labels | None) -> None:
        """These channels must stay."""
        if labels is not None:
            self.unite(labels, np.full(len(labels), FROZEN))

    def _root(self, label: int) -> int:
        while self._parent[label] != label:
            label = int(self._parent[label])
        return label

    def _flatten(self) -> None:
        self._parent = self.classes(np.arange(len(self._parent)))
        for axes in self.axes.values():
            axes[:] = [None if labels is None else self._parent[labels] for labels in axes]

    def groups(self) -> list[Group]:
        """The prunable units, by the axes that they live on, in the order in which the graph makes them."""
        places: dict[int, list[Place]] = {}
        for key, axes in self.axes.items():
            for axis, labels in enumerate(axes):
                if labels is not None:
                    for unit in np.unique(labels).tolist():
                        places.setdefault(unit, []).append((key, axis))
        places.pop(FROZEN, None)
        by_places: dict[tuple[Place, ...], list[int]] = {}
        for unit, where in places.items():
            by_places.setdefault(tuple(where), []).append(unit)
        return [Group(np.array(sorted(units)), where) for where, units in by_places.items() if len(units) > 1]

    def key(self, op: Op, slot: int) -> Key:
        """Where the labels of an op's input are kept."""
        tensor = op.slots[slot]
        assert tensor is not None
        return (op.index, slot) if tensor.index in self._shared else tensor.index


def _loose(graph: Graph) -> frozenset[int]:
    """Constants that are the same by chance and not because layers share them: vectors, and one number everywhere."""
    vectors = {tensor.index for tensor in graph.tensors if tensor.is_constant and len(tensor.shape) < 2}
    uses = Counter(tensor for op in graph.main for tensor in op.inputs if tensor.is_constant)
    several = [tensor for tensor, count in uses.items() if count > 1 and tensor.dtype == "FLOAT32"]
    filled = {tensor.index for tensor in several if np.unique(graph.constant(tensor)).size == 1}
    return frozenset(vectors | filled)


class Ends:
    """One op's inputs and outputs, as its rule sees them."""

    def __init__(self, channels: Channels, op: Op) -> None:
        self._channels = channels
        self.op = op
        self.options = op.options

    def has(self, slot: int) -> bool:
        return slot < len(self.op.slots) and self.op.slots[slot] is not None

    def tensor(self, slot: int) -> Tensor:
        tensor = self.op.slots[slot]
        assert tensor is not None
        return tensor

    def shape(self, slot: int) -> tuple[int, ...]:
        return self.tensor(slot).shape

    def value(self, slot: int) -> list[int] | None:
        """A constant operand of whole numbers; None if it is made at run time."""
        tensor = self.tensor(slot)
        return self._channels.graph.constant(tensor).ravel().tolist() if tensor.is_constant else None

    def axes(self, slot: int) -> Axes:
        """Labels of an input. A constant gets its own the first time that it is met."""
        tensor, key = self.tensor(slot), self._channels.key(self.op, slot)
        if key not in self._channels.axes:
            new = self._channels.fresh if tensor.is_constant else lambda _: None
            self._channels.axes[key] = [new(size) if size > 1 else None for size in tensor.shape]
        return self._channels.axes[key]

    def gives(self, *axes: Axes) -> None:
        """The labels of the outputs, in order. Of an axis with one position nothing can leave: it is frozen."""
        for tensor, labels in zip(self.op.outputs, axes, strict=True):
            assert len(labels) == len(tensor.shape), f"{self.op}: {len(labels)} axes for shape {tensor.shape}"
            self.freeze(*(label for size, label in zip(tensor.shape, labels, strict=True) if size == 1))
            self._channels.axes[tensor.index] = [
                None if size == 1 else label for size, label in zip(tensor.shape, labels, strict=True)
            ]

    def fresh(self, count: int) -> Labels:
        return self._channels.fresh(count)

    def unite(self, left: Labels | None, right: Labels | None) -> Labels | None:
        """Position by position the same; if one side is fixed, the other stays too. Gives what both are now."""
        if left is None or right is None:
            self.freeze(left, right)
            return None
        self._channels.unite(left, right)
        return left

    def freeze(self, *labels: Labels | None) -> None:
        for some in labels:
            self._channels.freeze(some)

    def are_live(self, labels: Labels | None) -> bool:
        """Whether any of them need not stay, by what is known so far."""
        return labels is not None and bool((self._channels.classes(labels) != FROZEN).any())

    def contracts(self, slot: int, axis: int) -> None:
        """The op sums over this axis of this activation."""
        if not self.tensor(slot).is_constant:
            self._channels.edges.append(Edge(self.op, slot, axis % len(self.shape(slot))))

    def leads_to(self, name: str, *, through: Sequence[str], steps: int = 6) -> bool:
        """Whether the first output reaches an op of that name through ops of the others."""
        front = {self.op.outputs[0].index}
        for _ in range(steps):
            users = [op for op in self._channels.graph.main if front & {tensor.index for tensor in op.inputs}]
            if any(op.name == name for op in users):
                return True
            front = {tensor.index for op in users if op.name in through for tensor in op.outputs}
        return False


def opaque(ends: Ends) -> None:
    """Nothing passes: what reaches the op stays as it is."""
    for slot in range(len(ends.op.slots)):
        if ends.has(slot):
            ends.freeze(*ends.axes(slot))
    fixed: list[Axes] = [[None] * len(tensor.shape) for tensor in ends.op.outputs]
    ends.gives(*fixed)


def size_after(channels: Channels, key: Key, sizes: Sequence[int], kept: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    """The shape of what ``key`` stands for, now ``sizes``, once only the classes of ``kept`` stay."""
    axes = channels.axes.get(key) or [None] * len(sizes)
    return tuple(size if one is None else int(kept[one].sum()) for size, one in zip(sizes, axes, strict=True))


def sizes_after(channels: Channels, kept: npt.NDArray[np.bool_]) -> Callable[[Op, int | None], tuple[int, ...]]:
    """(op, input slot, or None for its first output) → its shape once only the classes of ``kept`` stay."""

    def shape(op: Op, slot: int | None) -> tuple[int, ...]:
        tensor: Any = op.outputs[0] if slot is None else op.slots[slot]
        return size_after(channels, tensor.index if slot is None else channels.key(op, slot), tensor.shape, kept)

    return shape
