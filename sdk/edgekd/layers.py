"""Float against int8, tensor by tensor, on the same samples."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.inputs import count, take
from edgekd.verify import open_graph
from edgekd_converters.cost import count_macs
from edgekd_converters.graph import Graph
from edgekd_converters.observe import Columns, Observer, feeds
from edgekd_converters.simulate import Grid, grids_of, rounded_layers, twinned

INPUT = "INPUT"  # in place of the op that makes a tensor, for one that comes from outside
_MOST_ROWS, _FEWEST_ROWS = 100, 16
_MACS = 10_000_000_000  # of one pass, on the slow kernels that keep all tensors
_BINS = 64
_ACTIVATIONS = ("FLOAT32", "INT8", "INT16")


@dataclass(frozen=True)
class LayerError:
    """A tensor's int8 values against its float values, over all samples.

    ``relative_rmse``: root mean square of the difference over that of the float values. ``sqnr_db``: the same as a
    signal-to-noise ratio, 20·log10 of its inverse; None where there is no difference. ``cosine``: of the two as
    vectors. ``saturation``: share of float values beyond what the int8 tensor can hold. ``own_sqnr_db``: of the layer
    alone, on inputs without error; None where the layer is exact or rounds nothing.
    """

    tensor: str
    op: str
    relative_rmse: float
    sqnr_db: float | None
    cosine: float
    saturation: float
    own_sqnr_db: float | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Histogram:
    """Counts of a tensor's values in equal bins from ``low`` to ``high``, float and int8 (dequantised)."""

    low: float
    high: float
    float: tuple[int, ...]
    int8: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def some_rows(columns: Columns, graph: Graph, macs: int = _MACS) -> Columns:
    """Evenly spread rows, a hundred at most and fewer of a graph so large that these would take ``macs``."""
    most = min(_MOST_ROWS, max(_FEWEST_ROWS, macs // max(1, count_macs(graph))))
    return take(columns, np.unique(np.linspace(0, count(columns) - 1, most).astype(int)))


def layer_errors(float_graph: Graph, int8_graph: Graph, columns: Columns) -> list[LayerError]:
    """Error of every activation that both graphs have under the same name, worst first.

    ``float_graph`` is the one that ``int8_graph`` was made of.
    """
    graph, twins = twinned(float_graph, rounded_layers(float_graph, int8_graph))
    sums = _Sums(graph, int8_graph, twins)
    for sample in feeds(columns):
        sums.add(sample)
    makers = {tensor.name: op.name for op in float_graph.ops for tensor in op.outputs}
    errors = [sums.error(name, makers.get(name, INPUT)) for name in sums.shared if name in makers or name in twins]
    return sorted(errors, key=lambda error: -error.relative_rmse)


class _Sums:
    """Sums over samples, by tensor: float², int8², product, difference², how many beyond the grid, all; own noise²."""

    def __init__(self, graph: Graph, int8_graph: Graph, twins: dict[str, str]) -> None:
        self._sides = Observer(graph), Observer(int8_graph)
        self._specs = open_graph(int8_graph).inputs
        self._grids = grids_of(int8_graph)
        self._float, self._int8 = _activations(graph), _activations(int8_graph)
        self._twins = {name: self._float[twin] for name, twin in twins.items()}
        self.shared = [name for name in self._float if name in self._int8]
        self._sums = {name: np.zeros(6) for name in self.shared}
        self._own = dict.fromkeys(twins, 0.0)

    def add(self, sample: Any) -> None:
        float_side, int8_side = self._sides
        float_side.run(sample)
        int8_side.run({spec.name: spec.quantize(sample[spec.name]) for spec in self._specs})
        for name in self.shared:
            wanted = float_side.read_real(self._float[name]).ravel()
            got = int8_side.read_real(self._int8[name]).ravel()
            beyond = _beyond(wanted, self._grids[name]) if name in self._grids else 0
            noise = float(np.square(got - wanted).sum())
            self._sums[name] += np.array([wanted @ wanted, got @ got, wanted @ got, noise, beyond, wanted.size])
            if name in self._twins:
                self._own[name] += float(np.square(float_side.read_real(self._twins[name]).ravel() - wanted).sum())

    def error(self, name: str, op: str) -> LayerError:
        signal, stored, product, noise, beyond, size = map(float, self._sums[name])
        return LayerError(
            tensor=name,
            op=op,
            relative_rmse=(noise / max(signal, 1e-30)) ** 0.5,
            sqnr_db=_decibels(signal, noise),
            cosine=product / max((signal * stored) ** 0.5, 1e-30) if noise else 1.0,
            saturation=beyond / max(size, 1),
            own_sqnr_db=_decibels(signal, self._own[name]) if name in self._own else None,
        )


def _beyond(values: npt.NDArray[np.float64], grid: Grid) -> int:
    half = grid.scale / 2
    return int(((values < grid.low - half) | (values > grid.high + half)).sum())


def _decibels(signal: float, noise: float) -> float | None:
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def _activations(graph: Graph) -> dict[str, int]:
    made = [*graph.inputs, *(tensor for op in graph.main for tensor in op.outputs)]
    return {tensor.name: tensor.index for tensor in made if tensor.dtype in _ACTIVATIONS}


def histograms(
    float_graph: Graph, int8_graph: Graph, columns: Columns, tensors: Collection[str]
) -> dict[str, Histogram]:
    """Of those tensors, over all samples; the bins span the float values."""
    sides = Observer(float_graph), Observer(int8_graph)
    specs = open_graph(int8_graph).inputs
    indices = [_activations(float_graph), _activations(int8_graph)]
    names = [name for name in tensors if all(name in index for index in indices)]
    values: dict[str, tuple[list[Any], list[Any]]] = {name: ([], []) for name in names}
    for sample in feeds(columns):
        sides[0].run(sample)
        sides[1].run({spec.name: spec.quantize(sample[spec.name]) for spec in specs})
        for name in names:
            for kept, side, index in zip(values[name], sides, indices, strict=True):
                kept.append(side.read_real(index[name]).astype(np.float32).ravel())
    return {name: _histogram(*map(np.concatenate, both)) for name, both in values.items()}


def _histogram(wanted: npt.NDArray[np.float32], got: npt.NDArray[np.float32]) -> Histogram:
    low, high = float(wanted.min()), float(wanted.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = [np.histogram(np.clip(values, low, high), _BINS, (low, high))[0].tolist() for values in (wanted, got)]
    return Histogram(low, high, tuple(counts[0]), tuple(counts[1]))
