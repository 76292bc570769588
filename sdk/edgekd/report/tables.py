"""Rows of the tables that commands print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekd.report.words import kilobytes, percent
from edgekd_converters.prune import PrunePlan


def plan_table(plan: PrunePlan) -> tuple[list[str], list[tuple[str, ...]]]:
    """A pruning plan for people: headings and rows, the last row the sum."""
    headings = ["block or group", "layers", "channels", "MACs saved", "sensitivity"]
    rows: list[tuple[str, ...]] = [
        (_short(one.name), "\n".join(map(_short, one.layers)), "all", f"{one.macs:,}", f"{one.sensitivity:.3g}")
        for one in plan.blocks
    ]
    rows += [
        (
            _short(group.name),
            "\n".join(map(_short, group.layers)),
            f"{group.before} → {group.after}",
            f"{group.macs:,}",
            "–" if group.sensitivity is None else f"{group.sensitivity:.3g}",
        )
        for group in plan.groups
    ]
    before, after = plan.macs_before, plan.macs_after
    left = f"{before:,} → {after:,} MACs\n{plan.parameters_before:,} → {plan.parameters_after:,} parameters"
    return headings, [*rows, ("all", left, "", f"{before - after:,}", "")]


def _short(name: str) -> str:
    """The converter joins the names of all that it has fused into a tensor."""
    return name.split(";")[0]


def convert_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines of the table that ``edgekd convert`` prints."""
    accuracy, worst, error = report["accuracy"], report["worst_layer"], report.get("relative_rmse")
    equivalence, precision = report["source"]["equivalence"], report["precision"]
    rows = [
        ("source", f"{report['source']['format']}, float graph differs by {equivalence['max_difference']:.1e} at most"),
        ("float model", kilobytes(report["bytes"]["float"])),
        (f"{precision} model", kilobytes(report["bytes"]["int8"])),
        ("integer ops", percent(report["integer_op_fraction"])),
        (
            f"invoke float / {precision}",
            f"{report['invoke_us']['float']:.1f} / {report['invoke_us']['int8']:.1f} µs on this machine",
        ),
        (f"agreement float–{precision}", percent(report["agreement"]))
        if error is None
        else (f"{precision} error", percent(error)),
        ("worst layer error", f"{percent(worst['relative_rmse'])} at {worst['op']} {worst['tensor']!r}"),
    ]
    if accuracy:
        rows.insert(3, ("float accuracy", percent(accuracy["float"])))
        rows.insert(4, (f"{precision} accuracy", percent(accuracy["int8"])))
    if scope := report["out_of_scope"]:
        rows.append(("in scope accepted", percent(scope["in_scope_accepted"])))
        if scope["out_of_scope_rejected"] is not None:
            rows.append(("out of scope refused", percent(scope["out_of_scope_rejected"])))
    return _stage_rows(report.get("stages", [])) + rows


def remarks(report: dict[str, Any]) -> list[str]:
    """Of a conversion's report, what people should be told under the table."""
    findings = [f"{one['severity']} ({one['code']}): {one['message']}" for one in report["samples"]["findings"]]
    less = [f"the result is {report['precision']}: {report['precision_note']}"] if report["precision"] != "int8" else []
    return [*less, *findings, *report["source"]["notes"], *report["samples"]["notes"]]


def _stage_rows(stages: Sequence[dict[str, Any]]) -> list[tuple[str, str]]:
    """One line a stage, where there is more than loading and quantising."""
    if len(stages) <= 2:
        return []
    rounds = stages[-1]["round"] > 1
    return [
        (
            f"{entry['stage']} {entry['round']}"
            if rounds and entry["stage"] in ("pruned", "recovered")
            else entry["stage"],
            f"{entry['macs']:,} MACs, {entry['parameters']:,} parameters, {kilobytes(entry['bytes'])}, {_worth(entry)}",
        )
        for entry in stages
    ]


def _worth(entry: dict[str, Any]) -> str:
    if entry["accuracy"] is not None:
        return f"accuracy {percent(entry['accuracy'])}"
    if entry["agreement"] is not None:
        return f"agreement {percent(entry['agreement'])}"
    return f"error {percent(entry['relative_rmse'])}"
