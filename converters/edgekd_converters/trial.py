"""How many residual blocks leave whole, told by short trainings: what a plan costs at once says little of what it costs
after recovery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from edgekd_converters.blocks import residual_blocks
from edgekd_converters.errors import PruneError
from edgekd_converters.graph import Graph
from edgekd_converters.observe import Columns
from edgekd_converters.prune import PruneOptions, plan_pruning, prune
from edgekd_converters.recover import Labels, RecoverOptions, recover

_PART = 20  # of the steps of recovery
_LEAST_STEPS, _MOST_STEPS = 50, 1000


def decide_blocks(
    graph: Graph,
    teacher: Graph,
    samples: Columns,
    cut: PruneOptions,
    training: Columns,
    labels: Labels | None,
    share: RecoverOptions,
    advance: Callable[[str], None],
) -> PruneOptions:
    """``cut`` with ``blocks`` decided: one more leaves as long as that lowers the loss of a short training.

    Args:
        samples: for planning and refit; ``training`` and ``labels``: for recovery, which will be as ``share`` says.

    None leave where ``cut`` is uniform, where recovery is too short to be tried in small, or where there are none.
    """
    steps = min(_MOST_STEPS, share.steps // _PART)
    most = len(residual_blocks(graph))
    if cut.blocks is not None or cut.uniform or not most or steps < _LEAST_STEPS:
        return replace(cut, blocks=cut.blocks or 0)
    best, least = 0, np.inf
    for blocks in range(most + 1):
        tried = replace(cut, blocks=blocks)
        try:
            slim = prune(graph, plan_pruning(graph, samples, tried, advance), samples, tried)
        except PruneError:
            if blocks:
                break
            continue  # narrowing alone does not go so far

        def on_step(note: str, without: int = blocks) -> None:
            advance(f"{without} blocks less, {note}")

        loss = recover(slim, teacher, training, replace(share, steps=steps), labels, on_step).loss
        if loss >= least:
            break
        best, least = blocks, loss
    return replace(cut, blocks=best)
