"""ONNX nodes under construction, and what their writers share.

A value is known by its name. Convolutions and pools want channels first, so they come between two transposes; a
transpose of a transpose is never written, and whatever works value by value moves in between, so that none remain
inside a network of convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.errors import UnsupportedOpError
from edgekd_converters.graph import Op

FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)
"""Channels last → first, and back."""


@dataclass(frozen=True)
class Node:
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass
class Nodes:
    """``constants``: name → value. ``permuted``: name → what it is a transpose of, and the axes."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    permuted: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    prefix: str = ""

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node of one output; its name. An absent input is ``""``."""
        return self.add_many(kind, inputs, 1, **attributes)[0]

    def add_many(self, kind: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        names = [f"{self.prefix}{kind}_{len(self.nodes)}{f'_{i}' if i else ''}" for i in range(outputs)]
        while inputs and not inputs[-1]:
            inputs = inputs[:-1]
        self.nodes.append(Node(kind, tuple(inputs), tuple(names), attributes))
        return names

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike = None) -> str:
        name = f"{self.prefix}constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def ints(self, values: Sequence[int]) -> str:
        """``(n,) int64``: axes or sizes."""
        return self.constant(list(values), np.int64)

    def permute(self, name: str, axes: Sequence[int]) -> str:
        axes = tuple(axes)
        if name in self.constants:
            return self.constant(np.ascontiguousarray(self.constants[name].transpose(axes)))
        source, before = self.permuted.get(name, (name, tuple(range(len(axes)))))
        axes = tuple(before[axis] for axis in axes)
        if axes == tuple(range(len(axes))):
            return source
        made = self.add("Transpose", source, perm=list(axes))
        self.permuted[made] = (source, axes)
        return made

    def channels_first(self, name: str) -> str:
        return self.permute(name, FIRST)

    def channels_last(self, name: str) -> str:
        return self.permute(name, LAST)

    def is_channels_last(self, name: str) -> bool:
        """Whether it is there with its channels first already."""
        return self.permuted.get(name, ("", ()))[1] == LAST

    def cast(self, name: str, dtype: str) -> str:
        """``dtype``: numpy's name."""
        return self.add("Cast", name, to=np.dtype(dtype))

    def known(self, op: Op, name: str) -> tuple[int, ...]:
        """An operand that states axes or sizes. Raises ``UnsupportedOpError`` when it is computed."""
        if name not in self.constants:
            raise UnsupportedOpError(f"{op}: an operand that states axes or sizes is computed, which is not written")
        return tuple(int(number) for number in np.ravel(self.constants[name]))


Writer = Callable[[Nodes, Op, list[str]], list[str]]
"""(nodes so far, op, input names by slot ("" where absent)) → output names, before the fused activation."""


def value_by_value(nodes: Nodes, inputs: Sequence[str], write: Callable[..., str]) -> str:
    """``write(*inputs)``, with channels first where that saves a transpose."""
    ranks = [nodes.constants[name].ndim if name in nodes.constants else None for name in inputs]
    moving = [nodes.is_channels_last(name) for name in inputs]
    spreads = [
        rank is not None and (rank in (1, 4) or nodes.constants[name].size == 1)
        for rank, name in zip(ranks, inputs, strict=True)
    ]
    if not any(moving) or not all(one or other for one, other in zip(moving, spreads, strict=True)):
        return write(*inputs)
    first = [nodes.channels_first(_of_rank_4(nodes, name)) for name in inputs]
    return nodes.channels_last(write(*first))


def _of_rank_4(nodes: Nodes, name: str) -> str:
    value = nodes.constants.get(name)
    return name if value is None or value.ndim == 4 else nodes.constant(value.reshape(1, 1, 1, -1))


def activate(nodes: Nodes, op: Op, name: str) -> str:
    """The op's fused activation."""
    kind = getattr(op.options, "fusedActivationFunction", 0)
    if kind == 0 or op.name == "UNIDIRECTIONAL_SEQUENCE_LSTM":
        return name
    if kind not in _FUSED:
        raise UnsupportedOpError(f"{op}: no way is known to write its fused activation {kind} in ONNX")
    return value_by_value(nodes, [name], lambda x: _FUSED[kind](nodes, x))


def clip(nodes: Nodes, x: str, low: float, high: float) -> str:
    return nodes.add("Clip", x, nodes.constant(low, np.float32), nodes.constant(high, np.float32))


_FUSED: dict[int, Callable[[Nodes, str], str]] = {
    1: lambda nodes, x: nodes.add("Relu", x),
    2: lambda nodes, x: clip(nodes, x, -1, 1),
    3: lambda nodes, x: clip(nodes, x, 0, 6),
    4: lambda nodes, x: nodes.add("Tanh", x),
}


def axis_of(axis: int, rank: int) -> int:
    return axis + rank if axis < 0 else axis


def along(nodes: Nodes, inputs: Sequence[str], axis: int, rank: int) -> tuple[list[str], int, bool]:
    """Inputs of an op along one axis, with channels first where all are there so; that axis; whether they are."""
    axis = axis_of(axis, rank)
    if rank == 4 and all(nodes.is_channels_last(name) for name in inputs):
        return [nodes.channels_first(name) for name in inputs], FIRST.index(axis), True
    return list(inputs), axis, False
