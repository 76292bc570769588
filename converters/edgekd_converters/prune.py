"""Structured pruning: which residual blocks and channels leave, and the graph without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from edgekd_converters.blocks import Block, least_missed, residual_blocks, without
from edgekd_converters.candidates import Candidate, candidates_of, macs, mask, saving
from edgekd_converters.channels import Channels
from edgekd_converters.cost import count_macs, count_parameters
from edgekd_converters.errors import PruneError, UnsupportedOpError
from edgekd_converters.graph import Graph, Op
from edgekd_converters.importance import Scores, importance
from edgekd_converters.observe import Columns
from edgekd_converters.ops.table import channels_of
from edgekd_converters.program import verify_program
from edgekd_converters.refit import Refitter
from edgekd_converters.sensitivity import narrow
from edgekd_converters.slim import Mask, keep_all, remove

IMPORTANCES = ("weight", "activation", "taylor")


@dataclass(frozen=True)
class PruneOptions:
    """``amount``: the share of multiply-accumulates to remove. ``uniform``: every group narrowed alike, for comparison.

    ``multiple``: kept widths are multiples of it, which the board's kernels like; of 4 or less in groups too narrow.
    ``refit``: make up for what leaves by least squares, also while sensitivity is measured.
    ``blocks``: so many residual blocks leave whole before channels do; None where nobody has decided, then none.
    """

    amount: float
    uniform: bool = False
    importance: str = "taylor"
    multiple: int = 8
    refit: bool = True
    seed: int = 0
    blocks: int | None = None


@dataclass(frozen=True)
class PlannedGroup:
    """Channels of ``layers`` that leave together. ``macs``: how many leave if only this group is narrowed.

    ``sensitivity``: by how much its steps raised the output's divergence when they were taken; None if uniform.
    """

    name: str
    layers: tuple[str, ...]
    before: int
    after: int
    macs: int
    sensitivity: float | None


@dataclass(frozen=True)
class PlannedBlock:
    """A residual block of ``layers`` that leaves whole, ``macs`` with it; ``sensitivity`` as of a group."""

    name: str
    layers: tuple[str, ...]
    macs: int
    sensitivity: float


@dataclass(frozen=True)
class PrunePlan:
    """``kept``: ``(classes,) bool`` over the channel classes of the graph without ``blocks``.

    ``notes``: ops that channels cannot pass.
    """

    blocks: tuple[PlannedBlock, ...]
    groups: tuple[PlannedGroup, ...]
    macs_before: int
    macs_after: int
    parameters_before: int
    parameters_after: int
    notes: tuple[str, ...]
    kept: Mask = field(repr=False)


def plan_pruning(
    graph: Graph, samples: Columns, options: PruneOptions, advance: Callable[[str], None] = lambda note: None
) -> PrunePlan:
    """Choose the channels to remove. Raises ``PruneError`` when the graph cannot give up so much."""
    if options.importance not in IMPORTANCES:
        raise PruneError(f"importance {options.importance!r} is not one of {', '.join(IMPORTANCES)}")
    options, unmeasured = _measurable(graph, samples, options)
    missed = least_missed(graph, samples, options.blocks or 0)
    blocks = tuple(_leaving(block, rise) for block, rise in missed)
    shallow = without(graph, [block for block, _ in missed])
    channels = channels_of(shallow)
    scores = importance(channels, samples, options.importance, options.seed, advance)
    limit = (1 - options.amount) * count_macs(graph)
    candidates, multiple = _reaching(channels, scores, options, limit)
    sensitivity: Sequence[float | None] = [None] * len(candidates)
    if options.uniform:
        widths = _uniform(channels, candidates, limit)
    else:
        refitter = Refitter(channels, graph, samples, options.seed) if options.refit else None
        narrowed = narrow(channels, graph, candidates, samples, limit, refitter, advance)
        widths, sensitivity = narrowed.widths, narrowed.sensitivity
    kept = mask(channels, candidates, widths)
    coarser = f"the channel multiple is {multiple}, not {options.multiple}, to reach {options.amount:.0%}"
    return PrunePlan(
        blocks=blocks,
        groups=tuple(_planned(channels, *one) for one in zip(candidates, widths, sensitivity, strict=True)),
        macs_before=count_macs(graph),
        macs_after=macs(channels, shallow.main, kept),
        parameters_before=count_parameters(graph),
        parameters_after=count_parameters(remove(channels, kept)),
        notes=(*channels.notes, *unmeasured, *([coarser] if multiple < options.multiple else [])),
        kept=kept,
    )


def prune(graph: Graph, plan: PrunePlan, samples: Columns, options: PruneOptions) -> Graph:
    """The graph that the plan describes; with ``options.refit`` its weights make up for what has left."""
    options, _ = _measurable(graph, samples, options)
    gone = {block.name for block in plan.blocks}
    channels = channels_of(without(graph, [block for block in residual_blocks(graph) if block.name in gone]))
    slim = remove(channels, plan.kept)
    return Refitter(channels, graph, samples, options.seed)(slim, plan.kept) if options.refit else slim


def _measurable(graph: Graph, samples: Columns, options: PruneOptions) -> tuple[PruneOptions, list[str]]:
    """The options, less what needs the graph to run in TensorFlow where it cannot; and a note that says so."""
    if options.importance == "weight" and not options.refit:
        return options, []
    try:
        verify_program(graph, samples)
    except UnsupportedOpError as error:
        return replace(options, importance="weight", refit=False), [
            f"{error}; so weights alone rank, nothing is refitted"
        ]
    return options, []


def _reaching(channels: Channels, scores: Scores, options: PruneOptions, limit: float) -> tuple[list[Candidate], int]:
    """Candidates that can come down to ``limit``, and the channel multiple that this takes: the asked one or a part."""
    multiple = options.multiple
    while True:
        candidates = candidates_of(channels, scores, multiple)
        least = _macs_at(channels, candidates, [one.widths[-1] for one in candidates])
        if least <= limit:
            return candidates, multiple
        if multiple == 1:
            break
        multiple //= 2
    raise PruneError(
        f"{options.amount:.0%} of the multiply-accumulates cannot leave: the channels that may be removed carry "
        f"{1 - least / max(1, count_macs(channels.graph)):.0%}; ask for less"
        + "".join(f". {note}" for note in channels.notes[:1])
    )


def _macs_at(channels: Channels, candidates: Sequence[Candidate], widths: Sequence[int]) -> int:
    return macs(channels, channels.graph.main, mask(channels, candidates, widths))


def _uniform(channels: Channels, candidates: Sequence[Candidate], limit: float) -> tuple[int, ...]:
    """The same share of every group, as near as its widths allow, the greatest that keeps within ``limit``."""
    for share in np.linspace(1, 0, 201):
        widths = tuple(min(one.widths, key=lambda width: abs(width - share * one.widths[0])) for one in candidates)
        if _macs_at(channels, candidates, widths) <= limit:
            break
    return widths


def _planned(channels: Channels, one: Candidate, width: int, sensitivity: float | None) -> PlannedGroup:
    layers = [op for op in one.ops if _has_weights(op)]
    makers = [op for op in layers if _makes(op, one)] or layers or list(one.ops)
    return PlannedGroup(
        name=makers[0].outputs[0].name,
        layers=tuple(f"{op.name} {op.outputs[0].name}" for op in makers),
        before=one.widths[0],
        after=width,
        macs=saving(channels, one, keep_all(channels), width),
        sensitivity=sensitivity,
    )


def _leaving(block: Block, rise: float) -> PlannedBlock:
    layers = tuple(f"{op.name} {op.outputs[0].name}" for op in block.ops if _has_weights(op))
    return PlannedBlock(block.name, layers, block.macs, rise)


def _has_weights(op: Op) -> bool:
    return any(tensor.is_constant and tensor.dtype == "FLOAT32" and len(tensor.shape) > 1 for tensor in op.inputs)


def _makes(op: Op, one: Candidate) -> bool:
    return any((tensor.index, axis) in one.group.places for tensor in op.outputs for axis in range(len(tensor.shape)))
