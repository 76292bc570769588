"""Does the float graph compute what the model does? Both run on the same samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.divergence import run_columns
from edgekd_converters.errors import ConverterError, LoadError, RunError
from edgekd_converters.graph import Graph
from edgekd_converters.load.culprit import Culprit, allowed_difference, find_culprit
from edgekd_converters.load.source import Layer
from edgekd_converters.observe import Columns, Feed

Layouts = Mapping[str, tuple[int, ...]]
Run = Callable[[Columns], Mapping[str, npt.NDArray[Any]]]
Layers = Callable[[Feed], Iterable[Layer] | None]

TOLERANCE = 1e-3
"""Share of an output's range. Sums taken in another order move float32 outputs by 1e-6 to 1e-4 of it, an int8 output's
rounding by 2e-3; a wrong padding, epsilon or axis moves them by 1e-2 and more."""
INTEGERS_DIFFERING = 0.01
"""Share of the numbers of an integer output (argmax, rounding) that may fall on the other side of a near tie."""
_NUMBERS_AT_ONCE = 1 << 24
_ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class OutputDifference:
    """``max_difference`` and ``mean_difference`` of what is finite on both sides, in the output's own units.

    ``allowed``: what ``max_difference`` may be; None for integers, of which ``differing`` is judged instead, the share
    that is not the same. ``unmatched`` numbers are NaN or infinite on one side and something else on the other.
    """

    name: str
    max_difference: float
    mean_difference: float
    allowed: float | None
    differing: float
    unmatched: int
    worst_row: int

    @property
    def excess(self) -> float:
        """How far it goes beyond what is allowed; above 1 the output is another one."""
        if self.unmatched:
            return math.inf
        return self.differing / INTEGERS_DIFFERING if self.allowed is None else self.max_difference / self.allowed


@dataclass(frozen=True)
class Equivalence:
    """The model in its own framework against the float graph, on ``rows`` samples, for every public output."""

    outputs: tuple[OutputDifference, ...]
    rows: int
    tolerance: float

    @property
    def worst(self) -> OutputDifference:
        return max(self.outputs, key=lambda output: output.excess)

    @property
    def equal(self) -> bool:
        return self.worst.excess <= 1

    @property
    def max_difference(self) -> float:
        return max(output.max_difference for output in self.outputs)

    @property
    def mean_difference(self) -> float:
        return max(output.mean_difference for output in self.outputs)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the report; every number is finite."""
        return {
            "equal": self.equal,
            "rows": self.rows,
            "tolerance": self.tolerance,
            "max_difference": self.max_difference,
            "mean_difference": self.mean_difference,
            "outputs": [asdict(output) for output in self.outputs],
        }


def check(
    graph: Graph,
    layouts: Layouts,
    columns: Columns,
    run: Run,
    layers: Layers | None = None,
    tolerance: float = TOLERANCE,
) -> Equivalence:
    """:func:`compare`, and ``LoadError`` with the first layer that differs when graph and model are not the same."""
    result = compare(graph, layouts, columns, run, tolerance)
    if not result.equal:
        raise LoadError(_complaint(result, _culprit(result, graph, layouts, columns, layers)))
    return result


def compare(graph: Graph, layouts: Layouts, columns: Columns, run: Run, tolerance: float = TOLERANCE) -> Equivalence:
    """Run both on all rows, a few at a time so that large outputs fit in memory.

    Args:
        layouts: as :class:`~edgekd_converters.load.source.Source` has them; ``columns`` and what ``run`` gives are in
            the source's layout.
        tolerance: share of an output's range, greatest minus least over all rows, by which it may differ.

    An output passes when ``max |source − graph| ≤ tolerance · range + 1e-5 · max |source| + 1e-6``. The range, and not
    1 or the size, is the measure because it is what carries the answer: the 1,000 probabilities of an untrained
    network all lie near 0.001. The other two terms are float32's own noise on numbers that size, and on sums that
    cancel. NaN and infinities must be the same on both sides.

    Raises ``LoadError`` when one of the two cannot run, or their outputs differ in name or shape.
    """
    rows = len(next(iter(columns.values())))
    tallies = {name: _Tally(name) for name in graph.signature.outputs}
    for start, part in _parts(graph, columns):
        wanted = run(part)
        got = _run_graph(graph, to_graph(part, layouts))
        for name, tally in tallies.items():
            if name not in wanted:
                raise LoadError(f"the model does not give the output {name!r} that the float graph has")
            tally.add(start, to_graph({name: wanted[name]}, layouts)[name], got[name])
    return Equivalence(tuple(tally.result(tolerance) for tally in tallies.values()), rows, tolerance)


def excess(source: npt.NDArray[Any], graph: npt.NDArray[Any]) -> float:
    """How far two arrays of one shape differ, as a multiple of what is allowed; infinite if in what is not finite."""
    tally = _Tally("")
    tally.add(0, source, graph.astype(np.float64))
    return tally.result(TOLERANCE).excess


def to_graph(columns: Columns, layouts: Layouts) -> Columns:
    """Arrays in the source's layout → in the graph's."""
    return {
        name: np.ascontiguousarray(np.transpose(column, layouts[name])) if name in layouts else column
        for name, column in columns.items()
    }


def to_source(columns: Columns, layouts: Layouts) -> Columns:
    """Arrays in the graph's layout → in the source's."""
    return to_graph(columns, {name: tuple(int(axis) for axis in np.argsort(axes)) for name, axes in layouts.items()})


def _parts(graph: Graph, columns: Columns) -> Iterator[tuple[int, Columns]]:
    numbers = sum(math.prod(max(size, 1) for size in tensor.shape) for tensor in graph.outputs)
    step = min(max(_NUMBERS_AT_ONCE // max(numbers, 1), 1), _ROWS_AT_ONCE)
    for start in range(0, len(next(iter(columns.values()))), step):
        yield start, {name: np.asarray(column[start : start + step]) for name, column in columns.items()}


def _run_graph(graph: Graph, columns: Columns) -> Mapping[str, npt.NDArray[np.float64]]:
    try:
        return run_columns(graph, columns)
    except RunError as error:
        raise LoadError(f"the float graph does not run on the samples: {error}") from error


class _Tally:
    """What is known of one output so far."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_integer = False
        self._count = self._unmatched = self._finite = self._differing = 0
        self._most, self._sum = 0.0, 0.0
        self._low, self._high = math.inf, -math.inf
        self._worst = (-1.0, 0)

    def add(self, start: int, source: npt.NDArray[Any], graph: npt.NDArray[np.float64]) -> None:
        """Rows from ``start`` on, both in the graph's layout."""
        if source.shape != graph.shape:
            raise LoadError(
                f"output {self._name!r} has shape {list(source.shape)} in the model and {list(graph.shape)} in the "
                "float graph"
            )
        self._is_integer = source.dtype.kind in "iub"
        wanted = source.astype(np.float64)
        same = (wanted == graph) | (np.isnan(wanted) & np.isnan(graph))
        finite = np.isfinite(wanted) & np.isfinite(graph)
        difference = np.where(same, 0.0, np.inf)
        np.subtract(wanted, graph, out=difference, where=finite)
        np.abs(difference, out=difference)
        self._count += difference.size
        self._differing += int((~same).sum())
        self._unmatched += int(np.isinf(difference).sum())
        self._finite += int(finite.sum())
        if finite.any():
            self._most = max(self._most, float(difference[finite].max()))
            self._sum += float(difference[finite].sum())
            self._low = min(self._low, float(wanted[finite].min()))
            self._high = max(self._high, float(wanted[finite].max()))
        by_row = difference.reshape(len(difference), -1).max(1, initial=0.0)
        worst = int(by_row.argmax())
        self._worst = max(self._worst, (float(by_row[worst]), start + worst), key=lambda pair: pair[0])

    def result(self, tolerance: float) -> OutputDifference:
        span, size = (self._high - self._low, max(abs(self._high), abs(self._low))) if self._finite else (0.0, 0.0)
        return OutputDifference(
            name=self._name,
            max_difference=self._most,
            mean_difference=self._sum / max(self._finite, 1),
            allowed=None if self._is_integer else allowed_difference(span, size, tolerance),
            differing=self._differing / max(self._count, 1),
            unmatched=self._unmatched,
            worst_row=self._worst[1],
        )


def _culprit(
    result: Equivalence, graph: Graph, layouts: Layouts, columns: Columns, layers: Layers | None
) -> Culprit | None:
    """None where the framework shows no inner results, or fails at it: the difference must be told all the same."""
    if layers is None:
        return None
    row = result.worst.worst_row
    feed = {name: np.asarray(column[row : row + 1]) for name, column in columns.items()}
    wrong = [output.name for output in result.outputs if output.excess > 1]
    try:
        made = layers(feed)
        return None if made is None else find_culprit(graph, to_graph(feed, layouts), made, wrong, result.tolerance)
    except ConverterError:
        return None


def _complaint(result: Equivalence, culprit: Culprit | None) -> str:
    worst = result.worst
    if worst.unmatched:
        what = f"is NaN or infinite on one side only, in {worst.unmatched} numbers"
    elif worst.allowed is None:
        what = f"differs in {worst.differing:.1%} of its numbers, {INTEGERS_DIFFERING:.0%} is allowed"
    else:
        what = (
            f"differs by {worst.max_difference:.3g}, {worst.allowed:.3g} is allowed "
            f"({result.tolerance:.3g} of its range)"
        )
    where = f"; {culprit}" if culprit else ""
    return f"the float graph does not compute what the model does: output {worst.name!r} {what}{where}"
