"""Which layer's rounding costs the outputs most: int8 simulated with one layer at a time put back to float."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.layers import INPUT, Histogram, LayerError, histograms, some_rows
from edgekd_converters.divergence import is_scores, run_columns
from edgekd_converters.graph import Graph
from edgekd_converters.observe import Columns
from edgekd_converters.simulate import Grid, Spared, rounded_layers, simulated

_TRIED = 24
_DETAILED = 5
_MACS = 2_000_000_000  # of one pass; there is one for every layer that is tried
_LEAST = 0.01


@dataclass(frozen=True)
class Culprit:
    """A layer, named by the tensor it makes, and what the first output gains when it alone is put back to float.

    ``recovers``: share of the outputs' squared error that vanishes; ``agreement``: of a classifier, how much more of
    the rows get the float model's answer. ``from_output``, ``from_weights``: the share that its output's grid, or its
    weights and bias, account for by themselves. ``grid``: of its output, None where it adds none of its own.
    """

    tensor: str
    op: str
    recovers: float
    agreement: float | None
    from_output: float | None = None
    from_weights: float | None = None
    grid: Grid | None = None
    saturation: float | None = None
    histogram: Histogram | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        """``CONV_2D 'name' (91.0 % of the error, by its output's range)``."""
        by = {"output's range": self.from_output, "weights": self.from_weights}
        known = {what: share for what, share in by.items() if share is not None}
        why = ""
        if known and max(known.values()) > _LEAST:
            why = f", by its {max(known, key=lambda what: known[what])}"
        return f"{self.op} {self.tensor!r} ({100 * self.recovers:.1f} % of the error{why})"


def find_culprits(
    float_graph: Graph,
    int8_graph: Graph,
    columns: Columns,
    layers: Sequence[LayerError],
    advance: Callable[[str], None] = lambda note: None,
) -> list[Culprit]:
    """The layers that recover something, most first; those that recover most with their details.

    Of a graph of many layers, those are tried whose own error is the greatest. ``layers``: of the same two graphs.
    """
    trial = _Trial(float_graph, int8_graph, some_rows(columns, float_graph, _MACS))
    own = {error.tensor: error.own_sqnr_db for error in layers}
    noisy = [layer for layer in trial.layers if own.get(layer.tensor) is not None]
    noisy.sort(key=lambda layer: own[layer.tensor] or 0.0)
    found = []
    for layer in noisy[:_TRIED]:
        advance(layer.tensor)
        recovers, agreement = trial.without(Spared.layer(layer.tensor))
        if recovers > 0:
            found.append(Culprit(layer.tensor, layer.op.name if layer.op else INPUT, recovers, agreement))
    found.sort(key=lambda one: -one.recovers)
    saturation = {error.tensor: error.saturation for error in layers}
    rows = some_rows(columns, float_graph)  # all their values are held in memory
    shown = histograms(float_graph, int8_graph, rows, [one.tensor for one in found[:_DETAILED]])
    by_tensor = {layer.tensor: layer for layer in trial.layers}
    detailed = [
        Culprit(
            **{key: getattr(one, key) for key in ("tensor", "op", "recovers", "agreement")},
            from_output=trial.without(Spared(outputs=[one.tensor]))[0],
            from_weights=trial.without(Spared(constants=[one.tensor]))[0] if by_tensor[one.tensor].constants else None,
            grid=by_tensor[one.tensor].grids.get(one.tensor),
            saturation=saturation.get(one.tensor),
            histogram=shown.get(one.tensor),
        )
        for one in found[:_DETAILED]
    ]
    return detailed + found[_DETAILED:]


class _Trial:
    """The simulated int8 graph on some samples, and what changes in its first output when something is spared."""

    def __init__(self, float_graph: Graph, int8_graph: Graph, columns: Columns) -> None:
        self._graph, self._columns = float_graph, columns
        self.layers = rounded_layers(float_graph, int8_graph)
        self._wanted = self._run(float_graph)
        whole = self._run(simulated(float_graph, self.layers, Spared()))
        self._error, self._agreed = self._judge(whole)

    def without(self, spared: Spared) -> tuple[float, float | None]:
        """Share of the squared error that vanishes, and the gain in agreement of a classifier."""
        error, agreed = self._judge(self._run(simulated(self._graph, self.layers, spared)))
        gain = None if agreed is None or self._agreed is None else agreed - self._agreed
        return (1 - error / self._error if self._error else 0.0), gain

    def _run(self, graph: Graph) -> npt.NDArray[np.float64]:
        return next(iter(run_columns(graph, self._columns).values()))

    def _judge(self, outputs: npt.NDArray[np.float64]) -> tuple[float, float | None]:
        error = float(np.square(outputs - self._wanted).sum())
        if not is_scores(outputs):
            return error, None
        return error, float((outputs.argmax(1) == self._wanted.argmax(1)).mean())


def named(culprits: Collection[Culprit], most: int = 3) -> str:
    """The first few, for a message; those that account for next to nothing are left out."""
    shown = [str(one) for one in culprits if one.recovers > _LEAST][:most]
    return "; ".join(shown) or "no single layer: the error is spread over all"
