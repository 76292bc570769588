"""``report.json`` → what its page shows. What a report does not have, an older one above all, is left out."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from edgekd.metric import ERRORS, Metric, drop
from edgekd.report import charts, sections, words
from edgekd.report.sections import Ranges, Report

_STAGES = {"loaded": "float, as loaded", "pruned": "pruned", "recovered": "recovered"}
_METRICS: dict[Metric, str] = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "auc": "AUC",
    "mse": "mean squared error",
    "agreement": "agreement with the float model",
    "relative_rmse": "relative RMSE",
}


def view(report: Report, ranges: Ranges | None) -> dict[str, Any]:
    """Everything that the template names; ``ranges``: those of ``ranges.json``, tensor → [least, greatest]."""
    metric = _metric(report)
    stages = _stages(report, metric)
    return {
        "report": report,
        "metric": _METRICS[metric],
        "less_is_better": metric in ERRORS,
        "lede": _lede(report, metric),
        "note": "" if report["precision"] == "int8" else report.get("precision_note", ""),
        "gate": _gate(report, metric),
        "tiles": _tiles(report, metric),
        "stages": stages,
        "has_agreement": any(stage["agreement"] != words.percent(None) for stage in stages) and metric != "agreement",
        "scatter": _scatter(stages, metric),
        "teacher": (report.get("distilled") or {}).get("teacher"),
        "linted": "samples" in report,
        "findings": report["samples"]["findings"] if "samples" in report else [],
        "notes": [note for part in ("source", "samples") for note in report.get(part, {}).get("notes", [])],
        "layers": sections.layers(report),
        "culprits": [sections.culprit(one) for one in report.get("culprits", []) if one.get("recovers", 0) > 0],
        "flips": sections.flips(report.get("flips")),
        "scope": report.get("out_of_scope"),
        "quantising": sections.quantising(report),
        "fallbacks": sections.fallbacks(report["gate"], metric),
        "ranges": sections.ranges(ranges or {}),
        "plans": [sections.plan(stage) for stage in report.get("stages", []) if "plan" in stage],
        "commands": _commands(report),
        "machine": report.get("machine"),
        "seconds": sections.seconds(report["seconds"]),
    }


def _metric(report: Report) -> Metric:
    """What the model is judged by: the gate's, or in a report that does not name one, what its stages have."""
    named: Metric | None = report["gate"].get("metric")
    if named is not None:
        return named
    if report["accuracy"]:
        return "accuracy"
    return "relative_rmse" if report["agreement"] is None else "agreement"


def _change(metric: Metric, before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return ""
    if metric == "mse":
        return f"{100 * drop(metric, before, after):+.2f} %".replace("-", "−")
    return words.points(after - before)


def _ends(report: Report) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first stage and the last; of a report without stages, what it says of float and int8."""
    if stages := report.get("stages"):
        return stages[0], stages[-1]
    sides = []
    for side in ("float", "int8"):
        accuracy = (report["accuracy"] or {}).get(side)
        sides.append({"bytes": report["bytes"][side], "invoke_us": report["invoke_us"][side], "accuracy": accuracy})
    sides[1] |= {"agreement": report.get("agreement"), "relative_rmse": report.get("relative_rmse")}
    return sides[0], sides[1]


def _lede(report: Report, metric: Metric) -> str:
    """The result in one sentence."""
    before, after = _ends(report)
    kind = "full-integer int8 model" if report["precision"] == "int8" else f"model in {report['precision']}"
    smaller = words.times(before["bytes"], after["bytes"], "smaller than", "larger than")
    compared = "as large as" if smaller == "unchanged" else smaller
    rows, worth = report["judged_on"]["rows"], after.get(metric)
    held = f"{rows:,} held-out rows" if report["judged_on"]["file"] == "eval" else f"its {rows:,} samples"
    start = f"A {kind} of {words.size(after['bytes'])}, {compared} the float model it was made of."
    if worth is None:
        return start
    if metric == "agreement":
        return f"{start} It gives the float model’s answer on {words.percent(worth)} of {held}."
    if metric == "relative_rmse":
        return f"{start} Its outputs differ from the float model’s by {words.percent(worth)} (RMSE) on {held}."
    was = before.get(metric)
    since = (
        "" if was is None else f", {_beside(metric, was, worth)} the float model’s {words.metric_value(metric, was)}"
    )
    return f"{start} Its {_METRICS[metric]} on {held} is {words.metric_value(metric, worth)}{since}."


def _beside(metric: Metric, before: float, after: float) -> str:
    change = _change(metric, before, after)
    if change[0] == "±" or before == after:
        return "the same as"
    return f"{change[1:]} {'above' if after > before else 'below'}"


def _gate(report: Report, metric: Metric) -> dict[str, str]:
    limit, lost = report["gate"]["max_drop"], report["gate"]["drop"]
    if limit is None or lost is None:
        return {"kind": "open", "text": "No gate was set" if limit is None else "The gate could not be measured"}
    worse, better = ("worse", "better") if metric in ERRORS else ("lost", "gained")
    unit, turn = "%" if metric == "mse" else "points", better if lost < 0 else worse
    return {"kind": "met", "text": f"Gate met: {100 * abs(lost):.2f} {unit} {turn}, {100 * limit:.4g} allowed"}


def _tiles(report: Report, metric: Metric) -> list[dict[str, str]]:
    """The four figures to see first: what, how much now, how much before, how they compare."""
    before, after = _ends(report)
    tiles: list[dict[str, str]] = []
    if after.get(metric) is not None:
        compared = metric in ("agreement", "relative_rmse")
        was = "" if compared or before.get(metric) is None else words.metric_value(metric, before[metric])
        change = "" if compared else _change(metric, before.get(metric), after[metric])
        name = "difference from float" if metric == "relative_rmse" else _METRICS[metric]
        tiles.append({"what": name, "now": words.metric_value(metric, after[metric]), "was": was, "change": change})
    rows = [
        ("size", "bytes", words.size, "smaller", "larger"),
        ("one run, on this machine", "invoke_us", words.microseconds, "faster", "slower"),
        ("multiply-accumulates", "macs", words.many, "fewer", "more"),
    ]
    for what, key, text, less, more in rows:
        if after.get(key) is not None:
            change = words.times(before.get(key), after[key], less, more)
            tiles.append({"what": what, "now": text(after[key]), "was": text(before.get(key)), "change": change})
    return tiles


def _stages(report: Report, metric: Metric) -> list[dict[str, Any]]:
    """The teacher, if it is known, and every stage: figures and words."""
    rows = []
    origin = report.get("distilled") or {}
    if origin.get("teacher"):
        answer = origin["teacher_answer_ms"]
        row = {"stage": f"teacher, {origin['teacher']}", "bytes": origin["teacher_bytes"], "macs": None}
        row |= {"parameters": None, "invoke_us": None if answer is None else 1000 * answer, "agreement": None}
        rows.append({**row, "value": origin["teacher_accuracy"] if metric == "accuracy" else None, "first": False})
    many_rounds = any(stage["round"] > 1 for stage in report.get("stages", []))
    for number, stage in enumerate(report.get("stages", [])):
        name = _STAGES.get(stage["stage"], stage["stage"])
        name += f", round {stage['round']}" if many_rounds and stage["stage"] in ("pruned", "recovered") else ""
        # The loaded model is what agreement and error are measured against.
        value = None if number == 0 and metric in ("agreement", "relative_rmse") else stage.get(metric)
        row = {key: stage.get(key) for key in ("bytes", "macs", "parameters", "invoke_us", "agreement")}
        row["agreement"] = None if number == 0 else row["agreement"]
        rows.append({"stage": name, **row, "value": value, "first": number == 0})
    return [
        {
            **row,
            "worth": "reference" if row["first"] and row["value"] is None else words.metric_value(metric, row["value"]),
            "agreement": words.percent(row["agreement"]),
            "size": words.size(row["bytes"]),
            "parameters": words.many(row["parameters"]),
            "macs": words.many(row["macs"]),
            "run": words.microseconds(row["invoke_us"]),
        }
        for row in rows
    ]


def _scatter(stages: Sequence[dict[str, Any]], metric: Metric) -> charts.Scatter | None:
    """Worth against size; a loaded model that the others are measured against agrees wholly, or differs by nothing."""
    if metric == "mse":
        return None
    perfect = 0.0 if metric in ERRORS else 1.0
    shown = [
        (i + 1, row["stage"], row["bytes"], perfect if row["value"] is None else row["value"])
        for i, row in enumerate(stages)
        if row["bytes"] and (row["value"] is not None or row["first"])
    ]
    if len(shown) < 2:
        return None
    numbers, names, sizes, worths = zip(*shown, strict=True)
    short = [name.split(",")[0] for name in names]
    return charts.scatter(numbers, short, sizes, worths, upside_down=metric in ERRORS)


def _commands(report: Report) -> list[str]:
    """As a shell takes them, an option a line."""
    typed = [(report.get("distilled") or {}).get("command"), report.get("command")]
    return [
        " ".join(f"\\\n  {word}" if word.startswith("--") else word for word in map(shlex.quote, map(str, command)))
        for command in typed
        if command
    ]
