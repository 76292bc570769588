"""Tables of ``evaluate``, ``compare`` and ``inspect --layers``."""

from __future__ import annotations

from typing import Any

from edgekd.metric import METRICS, Metric, metric_name
from edgekd.report.words import decibels, kilobytes, metric_value, microseconds, percent, points

Row = tuple[str, ...]
_WORST_CLASSES, _MOST_FLIPS = 5, 5


def evaluation_rows(report: dict[str, Any]) -> list[Row]:
    """What a model is, costs and is worth; of a classifier, the classes that it knows least."""
    rows: list[Row] = [
        ("model", f"{report['kind']}, {report['precision']}"),
        ("size", kilobytes(report["bytes"])),
        ("multiply-accumulates", f"{report['macs']:,}"),
        ("one run", f"{microseconds(report['invoke_us'])} on this machine"),
    ]
    rows += [
        (metric_name(one), metric_value(one, report["metrics"][one])) for one in METRICS if one in report["metrics"]
    ]
    classes = sorted(report["classes"] or [], key=lambda one: one["right"] / one["rows"])
    for one in classes[:_WORST_CLASSES] if len(classes) > 1 else []:
        share = percent(one["right"] / one["rows"])
        rows.append((f"of class {_name(one)}", f"{share}, {one['right']} of {one['rows']}"))
    return rows


def comparison_rows(report: dict[str, Any]) -> list[Row]:
    """Both models and what changes from the first to the second."""
    first, second = report["first"], report["second"]
    rows: list[Row] = [
        ("model", *(f"{one['kind']}, {one['precision']}" for one in (first, second)), ""),
        ("size", kilobytes(first["bytes"]), kilobytes(second["bytes"]), _times(first["bytes"], second["bytes"])),
        ("MACs", f"{first['macs']:,}", f"{second['macs']:,}", _times(first["macs"], second["macs"])),
        (
            "one run here",
            *(microseconds(one["invoke_us"]) for one in (first, second)),
            _times(first["invoke_us"], second["invoke_us"]),
        ),
    ]
    for metric in METRICS:
        if metric in first["metrics"] and metric in second["metrics"]:
            rows.append(_metric_row(metric, first["metrics"][metric], second["metrics"][metric]))
    if report["agreement"] is not None:
        rows.append(("same answer", "", percent(report["agreement"]), ""))
    else:
        rows.append(("difference of outputs", "", percent(report["relative_rmse"]), ""))
    return rows


def comparison_notes(report: dict[str, Any]) -> list[str]:
    """Which answers changed."""
    flips = report["flips"]
    if not flips or not flips["changed"]:
        return []
    known = f": {flips['lost']} were right before, {flips['won']} are right now" if flips["by_truth"] else ""
    notes = [f"{flips['changed']} of {flips['rows']} answers change{known}"]
    for one in flips["classes"][:_MOST_FLIPS]:
        lost = f", {one['lost']} lost, {one['won']} won" if flips["by_truth"] else ""
        notes.append(f"class {_name(one)}: {one['changed']} of {one['rows']} change{lost}")
    return notes


def layer_table(report: dict[str, Any]) -> tuple[list[str], list[Row]]:
    """Headings, and a row a layer, worst first; a report of an older edgekd has only the error of each.

    What a layer recovers is of the outputs' error, if it alone is put back to float.
    """
    recovers = {one["tensor"]: one["recovers"] for one in report.get("culprits", ())}
    headings = ["layer", "error", "SQNR", "its own", "cosine", "clipped", "recovers"]
    rows: list[Row] = [
        (
            f"{one['op']}\n{one['tensor'].split(';')[0]}",
            percent(one["relative_rmse"]),
            decibels(one.get("sqnr_db")),
            decibels(one.get("own_sqnr_db")),
            f"{one['cosine']:.5f}" if "cosine" in one else "",
            percent(one.get("saturation")),
            percent(recovers.get(one["tensor"])),
        )
        for one in report["layers"]
    ]
    return headings, rows


def _metric_row(metric: Metric, before: float, after: float) -> Row:
    change = _times(before, after) if metric == "mse" else points(after - before)
    return (metric_name(metric), metric_value(metric, before), metric_value(metric, after), change)


def _times(before: float, after: float) -> str:
    return f"× {after / before:.2f}" if before else ""


def _name(one: dict[str, Any]) -> str:
    return str(one["number"] if one["label"] is None else one["label"])
