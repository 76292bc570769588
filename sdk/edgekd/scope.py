"""Out-of-scope detection by the greatest softmax score (Hendrycks and Gimpel 2017, "A Baseline for Detecting …")."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

IN_SCOPE_ACCEPTED = 0.95


@dataclass(frozen=True)
class ScopeBounds:
    """Fractions of 1. ``threshold`` is chosen on in-scope samples alone; the out-of-scope ones only measure it."""

    threshold: float
    in_scope_accepted: float
    out_of_scope_rejected: float | None

    def to_dict(self) -> dict[str, float | None]:
        return asdict(self)


def measure(inside: npt.NDArray[np.float32], outside: npt.NDArray[np.float32] | None) -> ScopeBounds:
    """The score that 95 % of ``inside`` reach, and how much of ``outside`` does not; both ``(n, classes)`` logits."""
    scores = top_scores(inside)
    # A hair below the score itself: on the device it may come out another rounding step away.
    threshold = float(np.quantile(scores, 1 - IN_SCOPE_ACCEPTED, method="lower")) * (1 - 1e-6)
    rejected = None if outside is None else float((top_scores(outside) < threshold).mean())
    return ScopeBounds(threshold, float((scores >= threshold).mean()), rejected)


def top_scores(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``(n, classes)`` logits → ``(n,)`` greatest softmax scores."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    best: npt.NDArray[np.float32] = 1 / shifted.sum(1)
    return best
