"""Labels: out of range, missing, lopsided."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.finding import Finding, error, warning

_LOPSIDED = 20
_MISSING = 0.05  # of the classes; a rare one may be missing by chance


def check_labels(role: str, labels: npt.NDArray[Any], classes: int) -> list[Finding]:
    """``(n,)`` class numbers of ``role``, the samples or the held-out data."""
    if not len(labels):
        return []
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        hint = "; are they counted from 1?" if (low, high) == (1, classes) else ""
        text = f"labels of {role} run from {low} to {high}, the model's classes from 0 to {classes - 1}{hint}"
        return [error("label-range", text, low=low, high=high, classes=classes)]
    counts = np.bincount(labels.astype(np.int64), minlength=classes)
    present = counts[counts > 0]
    if len(present) == 1 and classes > 1:
        text = f"all {len(labels)} rows of {role} are of class {low}, one of {classes}"
        return [warning("one-class", text, label=low, classes=classes)]
    return _check_missing(role, counts, classes) + _check_balance(role, counts)


def _check_missing(role: str, counts: npt.NDArray[np.int64], classes: int) -> list[Finding]:
    missing = np.flatnonzero(counts == 0)
    by_chance = classes * math.exp(-int(counts.sum()) / classes)  # were all classes as frequent
    if len(missing) <= max(_MISSING * classes, 2 * by_chance):
        return []
    named = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
    text = f"{len(missing)} of {classes} classes have no row in {role}: {named}"
    return [warning("classes-missing", text, missing=missing[:100].tolist(), count=len(missing), classes=classes)]


def _check_balance(role: str, counts: npt.NDArray[np.int64]) -> list[Finding]:
    most, usual = int(counts.max()), float(np.median(counts[counts > 0]))
    few = len(counts) == 2  # there the median hides the lesser one
    usual = float(counts[counts > 0].min()) if few else usual
    if most < _LOPSIDED * usual:
        return []
    text = (
        f"class {int(counts.argmax())} has {most} rows of {role}, {'the other' if few else 'a class in the middle'} "
        f"{usual:g}; the ranges and every figure follow the frequent class"
    )
    return [warning("imbalance", text, label=int(counts.argmax()), most=most, usual=usual)]
