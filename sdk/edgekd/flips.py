"""Rows on which two classifiers differ, by class: what an average hides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_PAIRS = 50


@dataclass(frozen=True)
class ClassFlips:
    """The rows of one class: that of the truth, or where there is none, the first model's answer.

    Of ``changed`` rows, on which the answers differ, ``lost`` were right before, ``won`` are right after, and the rest
    is wrong in both; of ``rows``, ``right_before`` and ``right_after`` are right.
    """

    number: int
    label: str | None
    rows: int
    right_before: int
    right_after: int
    changed: int
    lost: int
    won: int


@dataclass(frozen=True)
class Flips:
    """``classes``: those with a changed row, most changes first. ``pairs``: (answer before, after, rows), likewise."""

    rows: int
    changed: int
    lost: int
    won: int
    by_truth: bool
    classes: tuple[ClassFlips, ...]
    pairs: tuple[tuple[int, int, int], ...]

    def to_dict(self, labels: Sequence[str] = ()) -> dict[str, Any]:
        """As it stands in a report; at most fifty pairs."""
        return {
            **{key: getattr(self, key) for key in ("rows", "changed", "lost", "won", "by_truth")},
            "classes": [asdict(one) for one in self.classes],
            "pairs": [
                {"before": _named(before, labels), "after": _named(after, labels), "rows": rows}
                for before, after, rows in self.pairs[:_PAIRS]
            ],
        }


def find_flips(
    before: npt.NDArray[Any],
    after: npt.NDArray[Any],
    targets: npt.NDArray[Any] | None,
    labels: Sequence[str] = (),
) -> Flips:
    """Answers ``(n,)`` of two classifiers on the same rows, and the right ones if they are known."""
    wanted = before if targets is None else targets
    changed, was, became = before != after, before == wanted, after == wanted
    classes = []
    for number in np.unique(wanted[changed]):
        own = wanted == number
        classes.append(
            ClassFlips(
                number=int(number),
                label=labels[number] if labels else None,
                rows=int(own.sum()),
                right_before=int((own & was).sum()),
                right_after=int((own & became).sum()),
                changed=int((own & changed).sum()),
                lost=int((own & was & ~became).sum()),
                won=int((own & ~was & became).sum()),
            )
        )
    pairs = Counter(zip(before[changed].tolist(), after[changed].tolist(), strict=True))
    return Flips(
        rows=len(before),
        changed=int(changed.sum()),
        lost=int((was & ~became).sum()),
        won=int((~was & became).sum()),
        by_truth=targets is not None,
        classes=tuple(sorted(classes, key=lambda one: -one.changed)),
        pairs=tuple((first, then, rows) for (first, then), rows in pairs.most_common()),
    )


def _named(number: int, labels: Sequence[str]) -> str:
    return labels[number] if labels else str(number)
