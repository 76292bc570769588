"""What a model's first outputs are worth: against the truth, and against another model's on the same rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.metric import Metric
from edgekd_converters.divergence import is_scores

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Truth:
    """What is known of ``n`` rows; all that is not known is None.

    ``classes``: ``(n,) int32``. ``values``: ``(n, …) float32``, what a regressor should give, or an autoencoder, whose
    inputs they are. ``positives``: ``(n,) bool``, of two classes or of what an autoencoder should find odd.
    """

    classes: npt.NDArray[np.int32] | None = None
    values: Floats | None = None
    positives: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Score:
    """What outputs are worth; None where it cannot be said. All are fractions of 1 but ``mse``.

    Of a classifier on labelled rows ``accuracy`` and ``macro_f1``, and of two classes ``auc``, which an autoencoder has
    too where rows are marked as odd; ``mse`` where values are known. Against a reference model on any rows: of a
    classifier ``agreement``, the share of rows on which its top-1 is the reference's; of any other model
    ``relative_rmse``, the root mean square of the difference over that of the reference.
    """

    accuracy: float | None = None
    macro_f1: float | None = None
    auc: float | None = None
    mse: float | None = None
    agreement: float | None = None
    relative_rmse: float | None = None

    def of(self, metric: Metric) -> float | None:
        value: float | None = getattr(self, metric)
        return value

    def default_metric(self) -> Metric:
        """The one that is meant when nobody says: the task's own where it is known, else closeness to the reference."""
        order: tuple[Metric, ...] = ("accuracy", "auc", "mse", "agreement", "relative_rmse")
        return next(one for one in order if self.of(one) is not None)


def score(outputs: Floats, truth: Truth, reference: Floats | None = None) -> Score:
    """``(n, …)`` outputs; a classifier's are ``(n, classes)`` and its truth, if any, is in classes."""
    against = None if reference is None else relative_rmse(outputs, reference)
    mean_square = None if truth.values is None else mse(outputs, truth.values)
    ranking = None if truth.positives is None else auc(_oddness(outputs, truth), truth.positives)
    if truth.values is not None or not is_scores(outputs):
        return Score(mse=mean_square, auc=ranking, relative_rmse=against)
    best = outputs.argmax(1)
    agreed = None if reference is None else float((best == reference.argmax(1)).mean())
    if truth.classes is None:
        return Score(auc=ranking, agreement=agreed)
    return Score(
        accuracy=float((best == truth.classes).mean()),
        macro_f1=macro_f1(best, truth.classes),
        auc=ranking,
        agreement=agreed,
    )


def _oddness(outputs: Floats, truth: Truth) -> npt.NDArray[np.float64]:
    """``(n,)``: greater for rows that are more likely positive."""
    if truth.values is not None and outputs.size > len(outputs):
        axes = tuple(range(1, outputs.ndim))
        errors: npt.NDArray[np.float64] = np.square(outputs - truth.values, dtype=np.float64).mean(axes)
        return errors
    if is_scores(outputs):
        return (outputs[:, -1] - outputs[:, 0]).astype(np.float64)
    return outputs.reshape(len(outputs), -1)[:, 0].astype(np.float64)


def macro_f1(predicted: npt.NDArray[Any], wanted: npt.NDArray[Any]) -> float:
    """Mean F1 over the classes that occur among the wanted or the predicted; ``(n,)`` both."""
    shares = []
    for number in np.union1d(wanted, predicted):
        hits = int(((predicted == number) & (wanted == number)).sum())
        shares.append(2 * hits / int((predicted == number).sum() + (wanted == number).sum()))
    return float(np.mean(shares))


def auc(scores: npt.NDArray[np.float64], positives: npt.NDArray[np.bool_]) -> float | None:
    """Area under the ROC curve: how often a positive row has the greater score, a tie counting half (Mann-Whitney).

    None where all rows are alike.
    """
    many, few = int(positives.sum()), int((~positives).sum())
    if not many or not few:
        return None
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return float((ranks[positives].sum() - many * (many + 1) / 2) / (many * few))


def mse(outputs: Floats, wanted: Floats) -> float:
    """Mean squared error over all values."""
    return float(np.square(outputs - wanted.reshape(outputs.shape), dtype=np.float64).mean())


def relative_rmse(outputs: Floats, reference: Floats) -> float:
    """Root mean square of the difference over that of the reference."""
    error, size = (float(np.square(values, dtype=np.float64).sum()) for values in (outputs - reference, reference))
    return float((error / max(size, 1e-30)) ** 0.5)
