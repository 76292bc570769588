"""How much each group gives up: measured on the graph as narrow as it is by then, refitted, not assumed.

Round by round every group is tried one step narrower. The steps that raise the divergence of the graph's outputs least
for the multiply-accumulates they save are taken, until a tenth of these has left; then all is measured again, since
what one group has given up changes what the others can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edgekd_converters.candidates import Candidate, macs, mask, saving
from edgekd_converters.channels import Channels, Place
from edgekd_converters.cost import count_macs
from edgekd_converters.divergence import Outputs, divergence, run_columns
from edgekd_converters.graph import Graph
from edgekd_converters.observe import Columns
from edgekd_converters.ops.table import channels_of
from edgekd_converters.refit import Refitter
from edgekd_converters.slim import Mask, keep_all, remove

_ROUND = 0.1
_SAMPLES = 256
_MACS = 12_000_000_000  # of one pass over the probe samples


@dataclass(frozen=True)
class Narrowed:
    """By candidate: the width it came to, and by how much its steps raised the divergence when they were measured."""

    widths: tuple[int, ...]
    sensitivity: tuple[float, ...]


@dataclass(frozen=True)
class _Step:
    candidate: int
    width: int
    rise: float
    saved: int

    @property
    def price(self) -> float:
        return self.rise / self.saved


def narrow(
    channels: Channels,
    original: Graph,
    candidates: Sequence[Candidate],
    samples: Columns,
    limit: float,
    refitter: Refitter | None,
    advance: Callable[[str], None],
) -> Narrowed:
    """Widths that bring the multiply-accumulates down to ``limit``, or as far as they go.

    ``original``: the graph whose outputs are to be kept; that of ``channels``, or what blocks have left it from.
    """
    count = min(_SAMPLES, max(32, _MACS // max(1, count_macs(channels.graph))))
    probe = {name: column[:count] for name, column in samples.items()}
    wanted = run_columns(original, probe)
    at = [0] * len(candidates)
    rises = [0.0] * len(candidates)
    total = macs(channels, channels.graph.main, keep_all(channels))
    while total > limit:
        kept = mask(channels, candidates, [one.widths[k] for one, k in zip(candidates, at, strict=True)])
        now = remove(channels, kept)
        now = refitter(now, kept) if refitter else now
        trial = _Trial(channels, now, kept, probe, wanted, refitter)
        steps = []
        for i, one in enumerate(candidates):
            if at[i] + 1 < len(one.widths) and (step := trial.step(i, one, one.widths[at[i] + 1])):
                steps.append(step)
            advance(f"sensitivity, {1 - total / count_macs(original):.0%} removed, group {i + 1}")
        if not steps:
            break
        goal = max(limit, (1 - _ROUND) * total)
        for step in sorted(steps, key=lambda step: step.price):
            one = candidates[step.candidate]
            total -= saving(channels, one, kept, step.width)
            kept[one.gone(step.width)] = False
            at[step.candidate] += 1
            rises[step.candidate] += step.rise
            if total <= goal:
                break
    _give_back(channels, candidates, at, rises, limit)
    return Narrowed(tuple(one.widths[k] for one, k in zip(candidates, at, strict=True)), tuple(rises))


def _give_back(
    channels: Channels, candidates: Sequence[Candidate], at: list[int], rises: list[float], limit: float
) -> None:
    """Undo steps that the last one, larger than it had to be, made superfluous; the most harmful groups first."""
    for i in sorted(range(len(at)), key=lambda i: -rises[i]):
        while at[i]:
            wider = [one.widths[k - (j == i)] for j, (one, k) in enumerate(zip(candidates, at, strict=True))]
            if macs(channels, channels.graph.main, mask(channels, candidates, wider)) > limit:
                break
            rises[i] *= 1 - 1 / at[i]
            at[i] -= 1


class _Trial:
    """The graph as it is by now, from which one group at a time is narrowed."""

    def __init__(
        self,
        channels: Channels,
        graph: Graph,
        kept: Mask,
        probe: Columns,
        original: Outputs,
        refitter: Refitter | None,
    ) -> None:
        self._channels, self._kept = channels, kept
        self._probe, self._original, self._refitter = probe, original, refitter
        self._now = channels_of(graph)
        self._units = {_activations(graph, group.places): group.units for group in self._now.groups()}
        self._divergence = divergence(original, run_columns(graph, probe))

    def step(self, number: int, one: Candidate, width: int) -> _Step | None:
        """What it costs and saves to bring a candidate to ``width``; None if nothing is saved."""
        saved = saving(self._channels, one, self._kept, width)
        left = one.group.units[self._kept[one.group.units]]
        units = self._units.get(_activations(self._channels.graph, one.group.places))
        if saved <= 0 or units is None or len(units) != len(left):
            return None
        gone = one.gone(width)
        local = keep_all(self._now)
        local[units[np.isin(left, gone)]] = False
        graph = remove(self._now, local)
        if self._refitter:
            kept = self._kept.copy()
            kept[gone] = False
            graph = self._refitter(graph, kept, one.consumers)
        rise = divergence(self._original, run_columns(graph, self._probe)) - self._divergence
        return _Step(number, width, max(rise, 0.0), saved)


def _activations(graph: Graph, places: Sequence[Place]) -> frozenset[Place]:
    """The places whose numbers do not change when constants are edited."""
    return frozenset((key, axis) for key, axis in places if isinstance(key, int) and not graph.tensors[key].is_constant)
