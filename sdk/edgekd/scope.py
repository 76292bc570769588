"""Out-of-scope detection by the greatest probability (Hendrycks and Gimpel 2017, "A Baseline for Detecting …")."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from edgekd_converters.divergence import are_probabilities, is_scores
from edgekd_runtime.bundle import Scores

IN_SCOPE_ACCEPTED = 0.95


@dataclass(frozen=True)
class ScopeBounds:
    """Fractions of 1. ``threshold`` is chosen on in-scope samples alone; the out-of-scope ones only measure it."""

    threshold: float
    in_scope_accepted: float
    out_of_scope_rejected: float | None

    def to_dict(self) -> dict[str, float | None]:
        return asdict(self)


def kind_of(outputs: npt.NDArray[np.float32]) -> Scores:
    """What a float model's first outputs, ``(n, …)``, are.

    The values tell, not the last op: that may as well reshape a softmax, or be the division of one that is written out.
    """
    return "probabilities" if is_scores(outputs) and are_probabilities(outputs) else "logits"


def measure(
    inside: npt.NDArray[np.float32], outside: npt.NDArray[np.float32] | None, kind: Scores = "logits"
) -> ScopeBounds:
    """The score that 95 % of ``inside`` reach, and how much of ``outside`` does not; both ``(n, classes)``."""
    scores = top_scores(inside, kind)
    lowest = float(np.quantile(scores, 1 - IN_SCOPE_ACCEPTED, method="lower"))
    # A hair below the score itself: on the device it may come out another rounding step away. Dequantised
    # probabilities may pass 1 by a step, which no bundle's threshold can.
    threshold = min(1.0, lowest) * (1 - 1e-6)
    rejected = None if outside is None else float((top_scores(outside, kind) < threshold).mean())
    return ScopeBounds(threshold, float((scores >= threshold).mean()), rejected)


def top_scores(outputs: npt.NDArray[np.float32], kind: Scores = "logits") -> npt.NDArray[np.float32]:
    """``(n, classes)`` → ``(n,)`` greatest probabilities, as the device runtime gives them."""
    if kind == "probabilities":
        most: npt.NDArray[np.float32] = outputs.max(1)
        return most
    shifted = np.exp(outputs - outputs.max(1, keepdims=True))
    best: npt.NDArray[np.float32] = 1 / shifted.sum(1)
    return best
