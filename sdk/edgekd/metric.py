"""The figures by which models are judged: their names, and what worse means of each."""

from __future__ import annotations

from typing import Literal, get_args

Metric = Literal["accuracy", "macro_f1", "auc", "mse", "agreement", "relative_rmse"]
METRICS: tuple[Metric, ...] = get_args(Metric)
ERRORS: tuple[Metric, ...] = ("mse", "relative_rmse")
"""Of these, less is better."""


def metric_name(metric: Metric) -> str:
    """As options and tables have it: ``macro-f1``."""
    return metric.replace("_", "-")


def drop(metric: Metric, before: float, after: float) -> float:
    """By how much worse ``after`` is: a difference, but of ``mse`` its growth as a share of what it was."""
    if metric == "mse":
        return (after - before) / max(before, 1e-30)
    return after - before if metric in ERRORS else before - after
