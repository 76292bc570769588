"""What is tried, rung by rung, when full int8 does not pass the gate; and what the result may be called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from edgekd.culprits import Culprit
from edgekd.gate import Verdict, judge, refusal
from edgekd.metric import Metric, metric_name
from edgekd.metrics import Score, Truth, score
from edgekd.report.words import metric_value
from edgekd.verify import Run, side_by_side
from edgekd_converters.calibrate import Ranges
from edgekd_converters.ends import with_float_ends
from edgekd_converters.errors import ConverterError
from edgekd_converters.graph import Graph
from edgekd_converters.integer import integer_fraction
from edgekd_converters.mixed import Wide, ops_around, quantize_dynamic, quantize_mixed
from edgekd_converters.observe import Columns
from edgekd_runtime.errors import RuntimeFault

Precision = Literal["int8", "int8-int16", "int8-float", "dynamic-int8"]
"""``int8`` alone is full integer; of the others a :class:`Candidate`'s note says which ops are not."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_WIDE: dict[Precision, Wide] = {"int8-int16": "INT16", "int8-float": "FLOAT32"}
_MOST = 16  # culprits that are widened together


@dataclass(frozen=True)
class Candidate:
    """A result that could be served. ``note`` says in a sentence what its arithmetic is."""

    graph: Graph
    precision: Precision
    note: str
    run: Run
    score: Score
    verdict: Verdict


@dataclass(frozen=True)
class Attempt:
    """One rung, or one size of it: what was widened, and what came of it; ``skipped`` says why nothing did."""

    precision: Precision
    tensors: tuple[str, ...]
    value: float | None = None
    drop: float | None = None
    bytes: int | None = None
    skipped: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self, metric: Metric) -> str:
        """``int8-float on 2 culprits: accuracy 91.20 %``."""
        what = f"{self.precision} on {len(self.tensors)} culprits" if self.tensors else self.precision
        if self.skipped:
            return f"{what}: not possible ({self.skipped})"
        return f"{what}: {metric_name(metric)} {metric_value(metric, self.value)}"


@dataclass(frozen=True)
class Ladder:
    """What every rung needs: float graphs with their ranges, and how a result is judged.

    ``graphs``: the one that int8 was written from, and the same before its biases and weights were adjusted to int8.
    ``before``: the loaded model's score first, the last float model's last. ``reference``: the loaded model's run.
    ``float_ends``: results take and give reals.
    """

    graphs: Sequence[Graph]
    ranges: Ranges
    culprits: Sequence[Culprit]
    columns: Columns
    truth: Truth
    reference: Run
    before: Sequence[Score]
    metric: Metric
    max_drop: float | None
    float_ends: bool = False

    def climb(self, advance: Callable[[str], None]) -> tuple[Candidate | None, list[Attempt]]:
        """The first result that passes the gate, if any does, and all that was tried for it."""
        tried = []
        for precision, tensors in self._rungs():
            advance(f"{precision} {len(tensors) or ''}".strip())
            found = self._try(precision, tensors)
            if isinstance(found, str):
                tried.append(Attempt(precision, tensors, skipped=found))
                continue
            verdict = found.verdict
            tried.append(Attempt(precision, tensors, verdict.after, verdict.drop, len(found.graph.content)))
            if verdict.met:
                return found, tried
        return None, tried

    def _rungs(self) -> Iterator[tuple[Precision, tuple[str, ...]]]:
        """The worst culprit alone, then the two worst, four, …, wider and then in float; then the whole otherwise."""
        names = tuple(one.tensor for one in self.culprits[:_MOST])
        sizes = sorted({min(1 << k, len(names)) for k in range(5)} - {0})
        for precision in _WIDE:
            for count in sizes:
                yield precision, names[:count]
        yield "dynamic-int8", ()

    def _try(self, precision: Precision, tensors: tuple[str, ...]) -> Candidate | str:
        """What comes of it, or why nothing can. Where ops go back to float, so do the errors that the adjustments were
        for, and without them it may be better.
        """
        sources = self.graphs if precision == "int8-float" else self.graphs[:1]
        made = [self._made(source, precision, tensors) for source in sources]
        good = [one for one in made if isinstance(one, Candidate)]
        return min(good, key=lambda one: one.verdict.drop) if good else made[0]

    def _made(self, source: Graph, precision: Precision, tensors: tuple[str, ...]) -> Candidate | str:
        try:
            if precision in _WIDE:
                graph = quantize_mixed(source, self.ranges, tensors, _WIDE[precision])
            else:
                graph = quantize_dynamic(source)
            if self.float_ends:
                graph = with_float_ends(graph)
            run = side_by_side([graph], self.columns)[0]
        except (ConverterError, RuntimeFault) as error:
            return str(error)
        worth = score(run.outputs, self.truth, self.reference.outputs)
        verdict = judge(self.metric, self.max_drop, [*self.before, worth])
        return Candidate(graph, precision, self._note(source, precision, graph, tensors), run, worth, verdict)

    def _note(self, source: Graph, precision: Precision, graph: Graph, tensors: tuple[str, ...]) -> str:
        if precision == "dynamic-int8":
            return "int8 weights of matrix products, activations in float, quantised as they run: not full integer"
        ops = ops_around(source, tensors)
        named = ", ".join(f"{op.name} {op.outputs[0].name.split(';')[0]!r}" for op in ops[:8])
        more = f" and {len(ops) - 8} more" if len(ops) > 8 else ""
        kind = "16-bit activations" if precision == "int8-int16" else "float arithmetic"
        share = integer_fraction(graph)
        return f"int8, but {kind} in {len(ops)} of {len(source.main)} ops: {named}{more}; {share:.0%} integer ops"


def full_integer(graph: Graph, run: Run, worth: Score, verdict: Verdict, *, float_ends: bool = False) -> Candidate:
    """The usual result."""
    ends = "; inputs and outputs in float32" if float_ends else ""
    note = f"full integer: weights, activations and arithmetic in int8{ends}"
    return Candidate(graph, "int8", note, run, worth, verdict)


def settle(
    int8: Candidate, ladder: Ladder, *, fallback: bool, shrunk: bool, advance: Callable[[str], None]
) -> tuple[Candidate, list[Attempt]]:
    """``int8`` if it passes the gate, else what the ladder finds if a ``fallback`` is allowed; and all that was tried.

    Raises ``GateError`` that names the culprits and the best of every rung. ``shrunk``: as :func:`refusal` has it.
    """
    if int8.verdict.met:
        return int8, []
    if not int8.verdict.met_before:
        raise refusal(int8.verdict, ladder.culprits, shrunk, ["the float model does not pass either"])
    found, tried = ladder.climb(advance) if fallback else (None, [])
    if found is None:
        raise refusal(int8.verdict, ladder.culprits, shrunk, _best(tried, int8.verdict.metric))
    return found, tried


def _best(tried: Sequence[Attempt], metric: Metric) -> list[str]:
    """The best attempt of every rung, or why there is none, in words."""
    by_rung: dict[str, Attempt] = {}
    for one in tried:
        known = by_rung.get(one.precision)
        if known is None or (one.drop is not None and (known.drop is None or one.drop < known.drop)):
            by_rung[one.precision] = one
    return [one.text(metric) for one in by_rung.values()]
