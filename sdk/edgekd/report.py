"""``report.json`` of a conversion: what was measured on the way, for people and machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgekd.fits import public_inputs, public_outputs
from edgekd.opening import Opening
from edgekd.shrink import Snapshot
from edgekd.verify import Score
from edgekd_converters.cost import count_macs, count_parameters
from edgekd_converters.graph import Graph, Tensor
from edgekd_converters.prune import PrunePlan

SCHEMA_VERSION = 1


def percent(fraction: float | None) -> str:
    """``0.9263`` → ``92.63 %``; nothing measured → a dash."""
    return "–" if fraction is None else f"{100 * fraction:.2f} %"


def kilobytes(count: int) -> str:
    """Bytes → ``806.1 kB``, of 1000 bytes."""
    return f"{count / 1000:.1f} kB"


def describe_plan(plan: PrunePlan) -> dict[str, Any]:
    """A pruning plan for machines."""
    return {
        "groups": [
            {
                "name": group.name,
                "layers": list(group.layers),
                "before": group.before,
                "after": group.after,
                "macs": group.macs,
                "sensitivity": group.sensitivity,
            }
            for group in plan.groups
        ],
        "macs": {"before": plan.macs_before, "after": plan.macs_after},
        "parameters": {"before": plan.parameters_before, "after": plan.parameters_after},
        "notes": list(plan.notes),
    }


def plan_table(plan: PrunePlan) -> tuple[list[str], list[tuple[str, ...]]]:
    """A pruning plan for people: headings and rows, the last row the sum."""
    headings = ["group", "layers", "channels", "MACs saved", "sensitivity"]
    rows: list[tuple[str, ...]] = [
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


def describe_source(source: Opening) -> dict[str, Any]:
    """What was converted, and what a device must be fed: public inputs and outputs in the source's own layout."""
    return {
        "format": source.format,
        "inputs": [_end(name, tensor, source) for name, tensor in public_inputs(source.graph).items()],
        "outputs": [_end(name, tensor, source) for name, tensor in public_outputs(source.graph).items()],
        "equivalence": source.equivalence.to_dict(),
        "notes": list(source.notes),
    }


def _end(name: str, tensor: Tensor, source: Opening) -> dict[str, Any]:
    """``axes``: what takes an array of this shape to the model's; null where it is the same."""
    axes = source.layouts.get(name)
    shape = [tensor.shape[axes.index(i)] for i in range(len(axes))] if axes else list(tensor.shape)
    return {"name": name, "dtype": tensor.dtype.lower(), "shape": shape, "axes": list(axes) if axes else None}


def describe_samples(source: Opening) -> dict[str, Any]:
    """What the linter found, and what was noticed while reading."""
    return {"findings": [finding.to_dict() for finding in source.findings], "notes": list(source.data.notes)}


def remarks(report: dict[str, Any]) -> list[str]:
    """Of a conversion's report, what people should be told under the table."""
    findings = [f"{one['severity']} ({one['code']}): {one['message']}" for one in report["samples"]["findings"]]
    return [*findings, *report["source"]["notes"], *report["samples"]["notes"]]


def describe_stages(made: Sequence[Snapshot], int8_graph: Graph, scores: Sequence[Score]) -> list[dict[str, Any]]:
    """What the model costs and is worth after every stage; ``scores`` are those of ``made``, then that of int8.

    Agreement and error are measured against the model as it was loaded.
    """
    entries = []
    for snapshot, score in zip(made, scores[:-1], strict=True):
        entry = {"stage": snapshot.stage, "round": snapshot.round, **_cost(snapshot.graph, snapshot.graph)}
        entry |= asdict(score)
        if snapshot.plan:
            entry["plan"] = describe_plan(snapshot.plan)
        if snapshot.recovered:
            loss, agreement = snapshot.recovered.loss, snapshot.recovered.agreement
            # NaN, which JSON does not have, where there were too few samples to hold any out.
            entry["training"] = {"loss": loss, "teacher_agreement": agreement if math.isfinite(agreement) else None}
        entries.append(entry)
    last = {"stage": "int8", "round": made[-1].round, **_cost(int8_graph, made[-1].graph), **asdict(scores[-1])}
    return [*entries, last]


def _cost(graph: Graph, counted: Graph) -> dict[str, int]:
    """``counted`` is the float graph that ``graph`` is made of."""
    return {
        "parameters": count_parameters(counted),
        "macs": count_macs(counted),
        "bytes": len(graph.content),
    }


def convert_rows(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The lines of the table that ``edgekd convert`` prints."""
    accuracy, worst, error = report["accuracy"], report["worst_layer"], report.get("relative_rmse")
    equivalence = report["source"]["equivalence"]
    rows = [
        ("source", f"{report['source']['format']}, float graph differs by {equivalence['max_difference']:.1e} at most"),
        ("float model", kilobytes(report["bytes"]["float"])),
        ("int8 model", kilobytes(report["bytes"]["int8"])),
        ("integer ops", percent(report["integer_op_fraction"])),
        (
            "invoke float / int8",
            f"{report['invoke_us']['float']:.1f} / {report['invoke_us']['int8']:.1f} µs on this machine",
        ),
        ("agreement float–int8", percent(report["agreement"])) if error is None else ("int8 error", percent(error)),
        ("worst layer error", f"{percent(worst['relative_rmse'])} at {worst['op']} {worst['tensor']!r}"),
    ]
    if accuracy:
        rows.insert(3, ("float accuracy", percent(accuracy["float"])))
        rows.insert(4, ("int8 accuracy", percent(accuracy["int8"])))
    if scope := report["out_of_scope"]:
        rows.append(("in scope accepted", percent(scope["in_scope_accepted"])))
        if scope["out_of_scope_rejected"] is not None:
            rows.append(("out of scope refused", percent(scope["out_of_scope_rejected"])))
    return _stage_rows(report.get("stages", [])) + rows


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
