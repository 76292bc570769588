"""What pruning chooses from: groups of channels, their units in order of importance, the widths they may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekd_converters.channels import Channels, Group, sizes_after
from edgekd_converters.cost import op_macs
from edgekd_converters.graph import Op
from edgekd_converters.slim import Mask, keep_all

_STEPS = 16


@dataclass(frozen=True)
class Candidate:
    """``order``: units from the least to the most important. ``widths``: widest, the present one, first.

    ``ops`` touch the group; those of ``consumers`` sum over its channels.
    """

    group: Group
    order: npt.NDArray[np.int64]
    widths: tuple[int, ...]
    ops: tuple[Op, ...]
    consumers: frozenset[int]

    def gone(self, width: int) -> npt.NDArray[np.int64]:
        """The units that a width leaves out."""
        return self.order[: self.widths[0] - width]


def candidates_of(channels: Channels, scores: npt.NDArray[np.float64], multiple: int) -> list[Candidate]:
    """The groups that can be narrowed, in graph order. ``scores``: importance by class."""
    found = [_candidate(channels, group, scores, multiple) for group in channels.groups()]
    return [one for one in found if len(one.widths) > 1]


def _candidate(channels: Channels, group: Group, scores: npt.NDArray[np.float64], multiple: int) -> Candidate:
    count, step = len(group), _step(channels, group, multiple)
    coarse = step * max(1, round(count / step / _STEPS))
    keys = {key for key, _ in group.places}
    ops = tuple(
        op
        for op in channels.graph.main
        if keys & {tensor.index for tensor in op.outputs}
        or any(tensor is not None and channels.key(op, slot) in keys for slot, tensor in enumerate(op.slots))
    )
    return Candidate(
        group=group,
        order=group.units[np.argsort(scores[group.units], kind="stable")],
        widths=(count, *range((count - 1) // coarse * coarse, 0, -coarse)),
        ops=ops,
        consumers=frozenset(
            edge.op.index for edge in channels.edges if (channels.key(edge.op, edge.slot), edge.axis) in group.places
        ),
    )


def _step(channels: Channels, group: Group, multiple: int) -> int:
    """Units that leave at a time, so that kept widths are multiples of ``multiple``, or of half, a quarter … of it."""
    axes = [channels.axes[key][axis] for key, axis in group.places]
    each = min(int((labels == group.units[0]).sum()) for labels in axes if labels is not None)
    while multiple > 1 and (len(group) * each < 2 * multiple or (multiple % each and each % multiple)):
        multiple //= 2
    return max(1, multiple // each)


def mask(channels: Channels, candidates: Sequence[Candidate], widths: Sequence[int]) -> Mask:
    """What stays when each candidate has its width."""
    kept = keep_all(channels)
    for one, width in zip(candidates, widths, strict=True):
        kept[one.gone(width)] = False
    return kept


def macs(channels: Channels, ops: Sequence[Op], kept: Mask) -> int:
    """Multiply-accumulates of ``ops`` when only ``kept`` stays."""
    shape = sizes_after(channels, kept)
    return sum(op_macs(op, shape) for op in ops)


def saving(channels: Channels, one: Candidate, kept: Mask, width: int) -> int:
    """Multiply-accumulates that leave when the candidate comes down to ``width`` and all else is as in ``kept``."""
    narrower = kept.copy()
    narrower[one.gone(width)] = False
    return macs(channels, one.ops, kept) - macs(channels, one.ops, narrower)
