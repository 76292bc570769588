"""Reads samples before they are used and says in plain words what is wrong with them.

A calibration that fails does not fail: it gives a model that answers badly. Every check here stands for a way in which
that has happened. A check looks at evenly spread rows, at most some thousand, so that it takes seconds and bounded
memory; only NaN and the extremes are looked for in all. On good samples every check must be silent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.finding import Finding, warning
from edgekd.fits import public_inputs
from edgekd.lint_images import check_layout, check_order_against, is_picture
from edgekd.lint_labels import check_labels
from edgekd.lint_model import check_with_model
from edgekd.lint_texts import check_texts
from edgekd.lint_values import check_duplicates, check_range, check_shift, check_values, scan
from edgekd_converters.graph import Graph
from edgekd_converters.observe import Columns

__all__ = ["Finding", "lint"]

Labels = npt.NDArray[Any]
_MOST_ROWS = 4096
_MOST_NUMBERS = 1 << 25  # of one column
_FEWEST_ROWS = 16
_ENOUGH = (100, 300)  # samples, however few and many the classes
_UNUSABLE = {"nan", "outliers", "constant", "layout", "preprocess", "one-class"}


def lint(
    columns: Columns,
    graph: Graph,
    *,
    targets: Labels | None = None,
    evaluation: Columns | None = None,
    evaluation_targets: Labels | None = None,
    classes: int | None = None,
    texts: Sequence[str] | None = None,
    preprocess: object | None = None,
) -> list[Finding]:
    """What there is to say about the samples, errors first; nothing if they look right.

    Args:
        columns: ``(n, …)`` in the graph's layout; arrays or what is sliced and indexed like them.
        graph: the float model.
        targets: ``(n,)`` class numbers of the samples; ``evaluation_targets`` those of ``evaluation``.
        classes: how many the model has, None where it is not a classifier.
        texts: what the samples were made of, where they were texts.
        preprocess: the description that samples are said to have gone through (``edgekd_runtime.preprocess``).
    """
    tensors = public_inputs(graph)
    rows = _spread(columns)
    seen = _inspected(columns, rows)
    findings = _check_count(len(next(iter(columns.values()))), classes)
    for name, column in seen.items():
        findings += check_values(name, column, tensors[name], scan(columns[name]), alone=len(seen) == 1)
        findings += check_range(name, column, preprocess)
        if is_picture(column):
            findings += check_layout(name, column)
    findings += check_duplicates(seen) if texts is None else check_texts(texts, seen, preprocess)
    for role, labels in (("samples", targets), ("eval", evaluation_targets)):
        if labels is not None and classes is not None:
            findings += check_labels(role, np.asarray(labels), classes)
    if evaluation is not None:
        held = _inspected(evaluation, _spread(evaluation))
        for name, column in seen.items():
            findings += check_shift(name, column, held[name]) or check_order_against(name, column, held[name])
    else:
        held = None
    said = {finding.code for finding in findings}
    if not said & _UNUSABLE and not any(finding.severity == "error" for finding in findings):  # or it is said twice
        findings += check_with_model(
            graph,
            seen,
            labels=None if targets is None else np.asarray(targets)[rows],
            held=held,
            classes=classes,
            said=said,
        )
    return sorted(findings, key=lambda finding: finding.severity != "error")


def _check_count(count: int, classes: int | None) -> list[Finding]:
    needed = min(max(_ENOUGH[0], classes or 0), _ENOUGH[1])
    if count >= needed:
        return []
    return [
        warning(
            "too-few",
            f"only {count} samples; int8 ranges come from them, and fewer than {needed} miss values that occur in use",
            samples=count,
            needed=needed,
        )
    ]


def _spread(columns: Columns) -> npt.NDArray[np.int64]:
    """The rows to look at, evenly spread and in order."""
    count = len(next(iter(columns.values())))
    numbers = max(math.prod(column.shape[1:]) for column in columns.values())
    most = min(_MOST_ROWS, max(_MOST_NUMBERS // max(numbers, 1), _FEWEST_ROWS))
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def _inspected(columns: Columns, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.asarray(column[rows]) for name, column in columns.items()}
