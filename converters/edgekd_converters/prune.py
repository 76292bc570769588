"""Structured pruning: which channels leave, and the graph without them.

Units within a group are ordered by importance; how much each group gives up is chosen by measured sensitivity: the
divergence of the whole graph's output when that group alone is narrowed, against the multiply-accumulates that saves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from edgekd_converters.channels import Channels, Group, sizes_after
from edgekd_converters.cost import count_macs, count_parameters, op_macs
from edgekd_converters.divergence import divergence, run_columns
from edgekd_converters.errors import PruneError
from edgekd_converters.graph import Graph, Op
from edgekd_converters.importance import importance
from edgekd_converters.observe import Columns
from edgekd_converters.ops.table import channels_of
from edgekd_converters.refit import refit
from edgekd_converters.slim import Mask, keep_all, remove

IMPORTANCES = ("weight", "activation", "taylor")
_PROBES = (0.25, 0.5, 0.75)
_PROBE_SAMPLES = 256
_STEPS_PER_GROUP = 16

Advance = Callable[[str], None]


@dataclass(frozen=True)
class PruneOptions:
    """``amount``: the share of multiply-accumulates to remove. ``uniform``: every group narrowed alike, for comparison.

    ``multiple``: kept widths are multiples of it, which the board's kernels like; of 4 or less in groups too narrow.
    """

    amount: float
    uniform: bool = False
    importance: str = "taylor"
    multiple: int = 8
    refit: bool = True
    seed: int = 0


@dataclass(frozen=True)
class PlannedGroup:
    """Channels of ``layers`` that leave together. ``macs``: how many leave if only this group is narrowed.

    ``sensitivity``: the divergence measured (or interpolated) when it alone is as narrow as planned; None if uniform.
    """

    name: str
    layers: tuple[str, ...]
    before: int
    after: int
    macs: int
    sensitivity: float | None


@dataclass(frozen=True)
class PrunePlan:
    """``kept``: ``(classes,) bool`` over the graph's channel classes. ``notes``: ops that channels cannot pass."""

    groups: tuple[PlannedGroup, ...]
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    notes: tuple[str, ...]
    kept: Mask = field(repr=False)


@dataclass(frozen=True)
class _Candidate:
    """A group with its units from least to most important, and the widths that it may have, widest first."""

    group: Group
    order: npt.NDArray[np.int64]
    widths: tuple[int, ...]
    ops: tuple[Op, ...]


def plan_pruning(
    graph: Graph, samples: Columns, options: PruneOptions, advance: Advance = lambda note: None
) -> PrunePlan:
    """Choose the channels to remove. Raises ``PruneError`` when the graph cannot give up so much."""
    channels = channels_of(graph)
    scores = importance(channels, samples, options.importance, options.seed, advance)
    candidates = [_candidate(channels, group, scores, options.multiple) for group in channels.groups()]
    candidates = [one for one in candidates if len(one.widths) > 1]
    limit = (1 - options.amount) * count_macs(graph)
    if options.uniform:
        losses: list[Mapping[int, float]] = []
        chosen = _uniform(channels, candidates, limit)
    else:
        losses = _sensitivities(channels, candidates, samples, advance)
        chosen = _greedy(channels, candidates, losses, limit)
    kept = _mask(channels, candidates, chosen)
    after = _macs(channels, graph.main, kept)
    if after > limit:
        least = _macs(channels, graph.main, _mask(channels, candidates, [one.widths[-1] for one in candidates]))
        raise PruneError(
            f"{options.amount:.0%} of the multiply-accumulates cannot leave: the channels that may be removed carry "
            f"{1 - least / max(1, count_macs(graph)):.0%} at most; ask for less, or for a smaller channel multiple"
        )
    return PrunePlan(
        groups=tuple(
            _planned(channels, one, width, losses[i].get(width) if losses else None)
            for i, (one, width) in enumerate(zip(candidates, chosen, strict=True))
        ),
        macs_before=count_macs(graph),
        macs_after=after,
        parameters_before=count_parameters(graph),
        parameters_after=count_parameters(remove(channels, kept)),
        notes=tuple(channels.notes),
        kept=kept,
    )


def prune(graph: Graph, plan: PrunePlan, samples: Columns, options: PruneOptions) -> Graph:
    """The graph that the plan describes; with ``options.refit`` its weights make up for what has left."""
    channels = channels_of(graph)
    slim = remove(channels, plan.kept)
    return refit(channels, slim, plan.kept, samples, options.seed) if options.refit else slim


def _candidate(channels: Channels, group: Group, scores: npt.NDArray[np.float64], multiple: int) -> _Candidate:
    order = group.units[np.argsort(scores[group.units], kind="stable")]
    count, step = len(group), _step(channels, group, multiple)
    coarse = step * max(1, round(count / step / _STEPS_PER_GROUP))
    widths = (count, *range((count - 1) // coarse * coarse, 0, -coarse))
    keys = {key for key, _ in group.places}
    ops = tuple(
        op
        for op in channels.graph.main
        if keys & {tensor.index for tensor in op.outputs}
        or any(tensor is not None and channels.key(op, slot) in keys for slot, tensor in enumerate(op.slots))
    )
    return _Candidate(group, order, widths, ops)


def _step(channels: Channels, group: Group, multiple: int) -> int:
    """Units that leave at a time, so that kept widths are multiples of ``multiple``, or of half, a quarter … of it."""
    positions = []
    for key, axis in group.places:
        labels = channels.axes[key][axis]
        if labels is not None:
            positions.append(int((labels == group.units[0]).sum()))
    each = min(positions)
    while multiple > 1 and (len(group) * each < 2 * multiple or (multiple % each and each % multiple)):
        multiple //= 2
    return max(1, multiple // each)


def _sensitivities(
    channels: Channels, candidates: Sequence[_Candidate], samples: Columns, advance: Advance
) -> list[Mapping[int, float]]:
    """For each group: width → divergence when it alone has that width, measured at some and interpolated between."""
    probe = {name: column[:_PROBE_SAMPLES] for name, column in samples.items()}
    original = run_columns(channels.graph, probe)
    losses: list[Mapping[int, float]] = []
    for one in candidates:
        full = one.widths[0]
        widths = sorted({min(one.widths[1:], key=lambda width: abs(width - share * full)) for share in _PROBES})
        measured = []
        for width in widths:
            kept = keep_all(channels)
            kept[one.order[: full - width]] = False
            measured.append(divergence(original, run_columns(remove(channels, kept), probe)))
        # Narrower is never taken for better, and the narrowest is as bad as the line through the last two says.
        known = np.maximum.accumulate([0.0, *reversed(measured)])
        at = [0.0, *(full - width for width in reversed(widths))]
        curve = {}
        for width in one.widths:
            gone = full - width
            value = float(np.interp(gone, at, known))
            if gone > at[-1]:
                value += float(known[-1] - known[-2]) / (at[-1] - at[-2]) * (gone - at[-1])
            curve[width] = value
        losses.append(curve)
        advance(f"sensitivity {len(losses)} of {len(candidates)}")
    return losses


def _greedy(
    channels: Channels, candidates: Sequence[_Candidate], losses: Sequence[Mapping[int, float]], limit: float
) -> list[int]:
    """Narrow, one step at a time, the group that loses least for what it saves, until ``limit`` is reached."""
    at = [0] * len(candidates)
    kept = keep_all(channels)
    macs = _macs(channels, channels.graph.main, kept)
    while macs > limit:
        best: tuple[float, int, int] | None = None
        for i, one in enumerate(candidates):
            if at[i] + 1 == len(one.widths):
                continue
            now, then = one.widths[at[i]], one.widths[at[i] + 1]
            saved = _saving(channels, one, kept, now, then)
            price = (losses[i][then] - losses[i][now]) / max(saved, 1)
            if saved and (best is None or price < best[0]):
                best = (price, i, saved)
        if best is None:
            break
        _, i, saved = best
        one = candidates[i]
        at[i] += 1
        kept[one.order[: one.widths[0] - one.widths[at[i]]]] = False
        macs -= saved
    return [one.widths[k] for one, k in zip(candidates, at, strict=True)]


def _saving(channels: Channels, one: _Candidate, kept: Mask, now: int, then: int) -> int:
    narrower = kept.copy()
    narrower[one.order[: one.widths[0] - then]] = False
    return _macs(channels, one.ops, kept) - _macs(channels, one.ops, narrower)


def _uniform(channels: Channels, candidates: Sequence[_Candidate], limit: float) -> list[int]:
    """The same share of every group, the greatest that keeps within ``limit``."""
    for share in np.linspace(1, 0, 201):
        chosen = [
            max((width for width in one.widths if width <= share * one.widths[0] + 1e-9), default=one.widths[-1])
            for one in candidates
        ]
        if _macs(channels, channels.graph.main, _mask(channels, candidates, chosen)) <= limit:
            break
    return chosen


def _mask(channels: Channels, candidates: Sequence[_Candidate], widths: Sequence[int]) -> Mask:
    kept = keep_all(channels)
    for one, width in zip(candidates, widths, strict=True):
        kept[one.order[: one.widths[0] - width]] = False
    return kept


def _macs(channels: Channels, ops: Sequence[Op], kept: Mask) -> int:
    shape = sizes_after(channels, kept)
    return sum(op_macs(op, shape) for op in ops)


def _planned(channels: Channels, one: _Candidate, width: int, sensitivity: float | None) -> PlannedGroup:
    makers = [op for op in one.ops if op_macs(op, sizes_after(channels, keep_all(channels)))]
    makes = [
        op for op in makers if {(tensor.index, len(tensor.shape) - 1) for tensor in op.outputs} & set(one.group.places)
    ]
    layers = tuple(f"{op.name} {op.outputs[0].name}" for op in makes or makers)
    return PlannedGroup(
        name=(makes or makers or one.ops)[0].outputs[0].name,
        layers=layers,
        before=one.widths[0],
        after=width,
        macs=_saving(channels, one, keep_all(channels), one.widths[0], width),
        sensitivity=sensitivity,
    )
