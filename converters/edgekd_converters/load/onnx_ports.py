"""Which tensor of the float graph is which input or output of the ONNX model, and in which order of axes.

Converters rename, reorder and turn them. What cannot be told by shape is told by running both on the same numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgekd_converters.errors import LoadError
from edgekd_converters.graph import Graph
from edgekd_converters.load.equivalence import excess
from edgekd_converters.load.onnx_session import Array, Arrays, Port, one_line
from edgekd_converters.quiet import quiet

Axes = tuple[int, ...]
_MOST_READINGS = 64


@dataclass(frozen=True)
class Matched:
    """``index``: of the graph's tensor; its array is the source's, transposed by ``axes``.

    ``axes`` is None where the graph has the numbers in the same order in another number of axes.
    """

    port: Port
    index: int
    axes: Axes | None


@dataclass(frozen=True)
class Match:
    """``excess``: how far the worst output differs, as a multiple of what float32 may; up to 1 all agree."""

    inputs: tuple[Matched, ...]
    outputs: tuple[Matched, ...]
    excess: float


def match(
    graph: Graph, inputs: Sequence[Port], outputs: Sequence[Port], samples: Sequence[tuple[Arrays, Arrays]]
) -> Match:
    """Find the reading of the graph that agrees best with the source.

    Args:
        graph: with its inputs in the source's order.
        samples: what the source was given and what it gave, in its own shapes.

    Raises ``LoadError`` when no reading fits the shapes, or the graph does not run.
    """
    runner = _Runner(graph)
    readings = itertools.islice(itertools.product(*_input_readings(graph, inputs)), _MOST_READINGS)
    tried = [_match_outputs(runner, reading, outputs, samples) for reading in readings]
    return min(tried, key=lambda one: one.excess)


def _input_readings(graph: Graph, inputs: Sequence[Port]) -> Iterator[list[Matched]]:
    if len(graph.inputs) != len(inputs):
        raise LoadError(f"the converter made {len(graph.inputs)} inputs of the model's {len(inputs)}")
    for port, tensor in zip(inputs, graph.inputs, strict=True):
        orders = _readings(port.shape, tensor.shape)
        if not orders:
            shown = f"{list(port.shape)} {list(tensor.shape)}"
            raise LoadError(f"the converter made another shape of input {port.name!r}: {shown}")
        usual = [axes for axes in orders if axes in (_channels_last(len(port.shape)), _identity(len(port.shape)))]
        yield [Matched(port, tensor.index, axes) for axes in usual or orders]


def _channels_last(rank: int) -> Axes:
    return (0, *range(2, rank), 1) if rank > 2 else _identity(rank)


def _identity(rank: int) -> Axes:
    return tuple(range(rank))


def _orders(source: Axes, graph: Axes) -> Iterator[Axes]:
    """Every order of axes that takes one shape to the other, the batch staying first; the likely ones come first."""
    if len(source) != len(graph):
        return
    rank = len(source)
    rest = (axes for axes in itertools.permutations(range(rank)) if not rank or source[0] != 1 or axes[0] == 0)
    for axes in dict.fromkeys((_identity(rank), _channels_last(rank), *rest)):
        if tuple(source[axis] for axis in axes) == graph:
            yield axes


def _match_outputs(
    runner: _Runner, reading: Sequence[Matched], outputs: Sequence[Port], samples: Sequence[tuple[Arrays, Arrays]]
) -> Match:
    made = [runner.run({one.index: _turned(given[one.port.name], one.axes) for one in reading}) for given, _ in samples]
    found: list[Matched] = []
    excesses = []
    for place, port in enumerate(outputs):
        taken = {one.index for one in found}
        wanted = [expected[port.name] for _, expected in samples]
        candidates = [
            (_excess_of(wanted, [arrays[k] for arrays in made], axes), index in taken, k != place, index, axes)
            for k, index in enumerate(tensor.index for tensor in runner.graph.outputs)
            for axes in _readings(port.shape, made[0][k].shape)
        ]
        if not candidates:
            raise LoadError(f"the converter made no output of the shape of {port.name!r}, {list(port.shape)}")
        best = min(candidates, key=lambda one: (max(one[0], 1.0), *one[1:3], one[0]))
        excesses.append(best[0])
        found.append(Matched(port, *best[3:]))
    return Match(tuple(reading), tuple(found), max(excesses))


def _readings(source: Axes, graph: Axes) -> list[Axes | None]:
    """The orders of axes that fit; None where only the number of axes differs."""
    orders: list[Axes | None] = list(_orders(source, graph))
    return orders or ([None] if math.prod(source) == math.prod(graph) else [])


def _excess_of(wanted: Sequence[Array], made: Sequence[Array], axes: Axes | None) -> float:
    return max(excess(_turned(one, axes).ravel(), other.ravel()) for one, other in zip(wanted, made, strict=True))


def _turned(value: Array, axes: Axes | None) -> Array:
    return value if axes is None else np.ascontiguousarray(value.transpose(axes))


class _Runner:
    """The graph on the reference kernels."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        try:
            with quiet():
                self._interpreter = Interpreter(
                    model_content=graph.content,
                    experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
                )
                self._interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise LoadError(f"the interpreter refuses the float graph: {one_line(error)}") from error
        self._kinds = {one["index"]: (one["dtype"], one["shape"]) for one in self._interpreter.get_input_details()}

    def run(self, feed: Mapping[int, Array]) -> list[Array]:
        """Tensor index → array; the outputs in the order of the graph."""
        try:
            for index, value in feed.items():
                dtype, shape = self._kinds[index]
                self._interpreter.set_tensor(index, value.astype(dtype).reshape(shape))
            self._interpreter.reset_all_variables()
            with quiet():
                self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise LoadError(f"the float graph does not run: {one_line(error)}") from error
        return [np.array(self._interpreter.get_tensor(tensor.index)) for tensor in self.graph.outputs]
