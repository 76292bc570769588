"""``report.json`` of a conversion: what was measured on the way, for people and machines."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from edgekd.fits import public_inputs, public_outputs
from edgekd.ladder import Candidate
from edgekd.metrics import Score
from edgekd.opening import Opening
from edgekd.shrink import Snapshot
from edgekd.student import Student, record_of
from edgekd_converters.cost import count_macs, count_parameters
from edgekd_converters.graph import Graph, Tensor
from edgekd_converters.prune import PrunePlan


def describe_plan(plan: PrunePlan) -> dict[str, Any]:
    """A pruning plan for machines."""
    return {
        "blocks": [{**asdict(one), "layers": list(one.layers)} for one in plan.blocks],
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


def describe_origin(student: Student, files: dict[str, str]) -> dict[str, Any] | None:
    """How the student was distilled, as far as its ``distill.json`` says; None where it has none.

    ``teacher_accuracy`` is on the file that ``files`` calls ``eval``, and None if the record is of another file.
    """
    record = record_of(student)
    if not record:
        return None
    # By hand it may hold anything.
    parts = [record.get(name) for name in ("teacher", "evaluation", "accuracy", "versions")]
    teacher, judged, accuracy, made_with = (part if isinstance(part, dict) else {} for part in parts)
    same = files.get("eval") is not None and judged.get("sha256") == files["eval"]
    return {
        "command": record.get("command"),
        "teacher": teacher.get("name"),
        "teacher_bytes": teacher.get("weights_bytes"),
        "teacher_answer_ms": teacher.get("answer_ms"),
        "teacher_accuracy": accuracy.get("teacher_eval") if same else None,
        "versions": made_with,
    }


def describe_samples(source: Opening) -> dict[str, Any]:
    """What the linter found, and what was noticed while reading."""
    return {"findings": [finding.to_dict() for finding in source.findings], "notes": list(source.data.notes)}


def describe_stages(
    made: Sequence[Snapshot], result: Candidate, scores: Sequence[Score], invoke_us: Sequence[float]
) -> list[dict[str, Any]]:
    """What the model costs and is worth after every stage.

    ``scores`` and ``invoke_us``, the median time of one run on this machine, are those of ``made``, then the result's.
    Agreement and error are measured against the model as it was loaded.
    """
    entries = []
    for snapshot, score, time in zip(made, scores[:-1], invoke_us[:-1], strict=True):
        entry = {"stage": snapshot.stage, "round": snapshot.round, **_cost(snapshot.graph, snapshot.graph)}
        entry |= {**asdict(score), "invoke_us": time}
        if snapshot.plan:
            entry["plan"] = describe_plan(snapshot.plan)
        if snapshot.recovered:
            loss, agreement = snapshot.recovered.loss, snapshot.recovered.agreement
            # NaN, which JSON does not have, where there were too few samples to hold any out.
            entry["training"] = {"loss": loss, "teacher_agreement": agreement if math.isfinite(agreement) else None}
        entries.append(entry)
    last = {"stage": result.precision, "round": made[-1].round, **_cost(result.graph, made[-1].graph)}
    return [*entries, {**last, **asdict(scores[-1]), "invoke_us": invoke_us[-1]}]


def _cost(graph: Graph, counted: Graph) -> dict[str, int]:
    """``counted`` is the float graph that ``graph`` is made of."""
    return {
        "parameters": count_parameters(counted),
        "macs": count_macs(counted),
        "bytes": len(graph.content),
    }
