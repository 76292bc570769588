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
