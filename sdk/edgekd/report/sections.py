"""The sections of the page that are tables: rows of ``report.json`` with their words, and bars in percent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.metric import Metric
from edgekd.report import charts, words

Report = Mapping[str, Any]
Ranges = Mapping[str, Sequence[float]]


_FIELDS = {"sqnr_db": "SQNR", "own_sqnr_db": "own SQNR", "cosine": "cosine", "saturation": "clipped"}


def layers(report: Report) -> dict[str, Any]:
    """Worst first; ``fields``: the columns that the report has, beside the error itself."""
    found = report["layers"]
    top = max((one["relative_rmse"] for one in found), default=0) or 1.0
    fields = [key for key in _FIELDS if any(key in one for one in found)]
    rows = [
        {
            "tensor": one["tensor"],
            "op": one["op"],
            "bar": round(100 * one["relative_rmse"] / top, 2),
            "error": words.percent(one["relative_rmse"]),
            "cells": [(_FIELDS[key], _figure(key, one)) for key in fields],
        }
        for one in found
    ]
    return {"rows": rows, "fields": [_FIELDS[key] for key in fields]}


def _figure(key: str, layer: Report) -> str:
    value = layer.get(key)
    if key == "saturation":
        return words.percent(value)
    if key == "sqnr_db" and layer["relative_rmse"] == 0:
        return "exact"
    return words.fixed(value, 5) if key == "cosine" else words.decibels(value)


def culprit(one: Report) -> dict[str, Any]:
    """A layer with what its error comes from, and its histogram over int8's grid."""
    grid, histogram = one.get("grid"), one.get("histogram")
    facts = []
    if (one.get("agreement") or 0) > 0:
        facts.append(f"{words.points(one['agreement'])} of agreement with the float model")
    for key, words_of in (("from_output", "by its output’s range"), ("from_weights", "by its weights")):
        if one.get(key) is not None:
            facts.append(f"{words.roughly(max(one[key], 0.0))} {words_of}")
    picture = None
    if grid and histogram:
        half = 1 << (grid["bits"] - 1)
        low, high = (grid["scale"] * (end - grid["zero_point"]) for end in (-half, half - 1))
        span = histogram["low"], histogram["high"]
        used = max(0, round((min(high, span[1]) - max(low, span[0])) / grid["scale"])) + 1
        facts.append(f"its values use {min(used, 2 * half)} of {2 * half} steps of {words.number(grid['scale'])}")
        clipped = _beyond(histogram["float"], span, (low, high))
        share = words.percent(clipped) if clipped >= 1e-4 else "less than 0.01 %" if clipped else "none"
        facts.append(f"{share} of them beyond the grid, and so clipped")
        picture = charts.bars(histogram["float"], histogram["int8"], span, (low, high))
    return {
        "tensor": one["tensor"],
        "op": one["op"],
        "share": words.roughly(one["recovers"]),
        "detailed": grid is not None or one.get("from_output") is not None,
        "facts": facts,
        "picture": picture,
    }


def _beyond(counts: Sequence[int], span: Sequence[float], grid: Sequence[float]) -> float:
    """Share of a histogram's values in bins that lie wholly outside."""
    width = (span[1] - span[0]) / len(counts)
    starts = [span[0] + i * width for i in range(len(counts))]
    outside = [
        count for start, count in zip(starts, counts, strict=True) if start + width <= grid[0] or start >= grid[1]
    ]
    return sum(outside) / max(sum(counts), 1)


def flips(flips: Report | None) -> dict[str, Any] | None:
    if flips is None:
        return None
    classes = [
        {**one, "name": str(one["number"]) if one["label"] is None else one["label"]} for one in flips["classes"]
    ]
    top = max((max(one["lost"], one["won"], one["changed"]) for one in classes), default=0) or 1
    for one in classes:
        left, right = (one["lost"], one["won"]) if flips["by_truth"] else (one["changed"], 0)
        one |= {"left": round(50 * left / top, 2), "right": round(50 * right / top, 2)}
    return {**flips, "classes": classes, "share": words.percent(flips["changed"] / max(flips["rows"], 1))}


def quantising(report: Report) -> dict[str, Any] | None:
    made = report.get("quantising")
    if made is None:
        return None
    known = [one["distance"] for one in made["attempts"] if one["distance"] is not None]
    top = max(known, default=0) or 1.0
    rows = [
        {
            "reason": "",
            **one,
            "text": words.number(one["distance"]),
            "bar": round(100 * (one["distance"] or 0) / top, 2),
        }
        for one in made["attempts"]
    ]
    return {"held_out": made["held_out"], "attempts": rows, "measured": bool(known)}


def fallbacks(gate: Report, metric: Metric) -> list[dict[str, Any]]:
    """What was tried when full int8 did not pass the gate, in order."""
    tried = gate.get("fallbacks", [])
    return [
        {
            "what": one["precision"] + (f", {len(one['tensors'])} wider" if one["tensors"] else ""),
            "worth": words.metric_value(metric, one["value"]),
            "drop": words.percent(one["drop"]).replace("-", "−"),
            "size": words.size(one["bytes"]),
            "skipped": one["skipped"] and f"not possible: {one['skipped']}",
            "taken": number == len(tried) - 1 and not one["skipped"],
        }
        for number, one in enumerate(tried)
    ]


def ranges(ranges: Ranges) -> list[dict[str, Any]]:
    """Every range as a bar over one linear axis from the least to the greatest of all."""
    low, high = min((one[0] for one in ranges.values()), default=0), max((one[1] for one in ranges.values()), default=0)
    span = max(high, 0) - min(low, 0) or 1.0
    origin = min(low, 0)
    return [
        {
            "tensor": name,
            "low": words.number(one[0], 4),
            "high": words.number(one[1], 4),
            "left": round(100 * (one[0] - origin) / span, 3),
            "width": round(max(100 * (one[1] - one[0]) / span, 0.4), 3),
            "zero": round(100 * -origin / span, 3),
        }
        for name, one in ranges.items()
    ]


def plan(stage: Report) -> dict[str, Any]:
    """One round of pruning: every group of layers, and the share of its channels that stays."""
    groups = [
        {**group, "bar": round(100 * group["after"] / max(group["before"], 1), 2), "saved": words.many(group["macs"])}
        for group in stage["plan"]["groups"]
    ]
    return {"round": stage["round"], "groups": groups, "notes": stage["plan"]["notes"], **_sums(stage["plan"])}


def _sums(plan: Report) -> dict[str, str]:
    return {
        key: f"{words.many(plan[key]['before'])} → {words.many(plan[key]['after'])}" for key in ("macs", "parameters")
    }


def seconds(seconds: Mapping[str, float]) -> list[dict[str, Any]]:
    top = max(seconds.values(), default=0) or 1.0
    return [
        {"stage": name, "text": f"{value:.2f} s", "bar": round(100 * value / top, 2)} for name, value in seconds.items()
    ]
