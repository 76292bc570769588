"""Whether the result may be worse than the model it came from by as much as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgekd.culprits import Culprit, named
from edgekd.errors import GateError, UsageError
from edgekd.metric import ERRORS, Metric, drop, metric_name
from edgekd.metrics import Score
from edgekd.report.words import metric_value, percent


@dataclass(frozen=True)
class Verdict:
    """``before``: of the model as it was loaded; ``between``: of the last float model; ``after``: of the result.

    ``drop`` as :func:`edgekd.metric.drop` has it. ``max_drop``: the limit, None where there is none.
    """

    metric: Metric
    max_drop: float | None
    before: float
    between: float
    after: float
    drop: float

    @property
    def met(self) -> bool:
        return self._allows(self.drop)

    @property
    def met_before(self) -> bool:
        """Whether the last float model would pass."""
        return self._allows(drop(self.metric, self.before, self.between))

    def _allows(self, loss: float) -> bool:
        # 0.92 − 0.91 is a little more than 0.01 in binary.
        return self.max_drop is None or loss <= self.max_drop + 1e-9

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "met": self.met}


def judge(metric: Metric | None, max_drop: float | None, scores: Sequence[Score]) -> Verdict:
    """``scores``: the loaded model's first, the last float model's next to last, and the result's.

    ``metric`` None takes the one that fits the data. Raises ``UsageError`` for one that cannot be measured on them.
    """
    chosen = metric or scores[-1].default_metric()
    before, between, after = (one.of(chosen) for one in (scores[0], scores[-2], scores[-1]))
    if before is None or between is None or after is None:
        raise UsageError(f"--metric {metric_name(chosen)} cannot be measured here: {_NEEDS[chosen]}")
    return Verdict(chosen, max_drop, before, between, after, drop(chosen, before, after))


_NEEDS: dict[Metric, str] = {
    "accuracy": "it needs a classifier, and --eval with labels",
    "macro_f1": "it needs a classifier, and --eval with labels",
    "auc": "it needs a model of two classes or an autoencoder, and labels of 0 and 1, of both kinds, in --eval",
    "mse": "it needs an autoencoder, or --eval with an array 'y' of what the model should give",
    "agreement": "it is for classifiers; relative-rmse is for all others",
    "relative_rmse": "classifiers have agreement",
}


def refusal(verdict: Verdict, culprits: Sequence[Culprit], shrunk: bool, tried: Sequence[str] = ()) -> GateError:
    """What to say when int8 passes the limit.

    ``shrunk``: the float model was changed before it was quantised. ``tried``: what else was, in words.
    """
    before, between, after = (
        metric_value(verdict.metric, one) for one in (verdict.before, verdict.between, verdict.after)
    )
    name, share = metric_name(verdict.metric), percent(verdict.drop)
    loss = f"raises {name} by {share}" if verdict.metric in ERRORS else f"loses {share} of {name}"
    earlier = f"; it was {between} before quantising" if shrunk else ""
    others = "; ".join(tried) or "--allow-fallback would try wider formats"
    return GateError(
        f"gate: int8 {loss} on --eval ({before} → {after}), more than --max-drop {verdict.max_drop} "
        f"allows{earlier}; culprits: {named(culprits)}; {others}. Nothing was written"
    )
