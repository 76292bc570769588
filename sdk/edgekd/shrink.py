"""Prune → recover, in one or several rounds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgekd.inputs import Inputs
from edgekd.options import ConvertOptions
from edgekd.stages import Stages, Step
from edgekd_converters.cost import count_macs
from edgekd_converters.graph import Graph
from edgekd_converters.prune import PruneOptions, PrunePlan, plan_pruning, prune
from edgekd_converters.recover import Recovered, RecoverOptions, recover
from edgekd_converters.trial import decide_blocks

_LEAST_AMOUNT = 1e-3
_SEEDS = 2**32


@dataclass(frozen=True)
class Snapshot:
    """The float graph after one stage: ``loaded``, ``pruned`` by ``plan``, or ``recovered``. Rounds count from 1."""

    stage: str
    graph: Graph
    round: int = 1
    plan: PrunePlan | None = None
    recovered: Recovered | None = None


def shrink(graph: Graph, teacher: Graph, data: Inputs, options: ConvertOptions, stages: Stages) -> list[Snapshot]:
    """The graph as loaded and after every pruning and recovery that ``options`` ask for; the last is the result."""
    made = [Snapshot("loaded", graph)]
    for number in range(1, options.prune_rounds + 1):
        of_rounds = f" {number} of {options.prune_rounds}" if options.prune_rounds > 1 else ""
        if options.prune and (cut := _cut(graph, made[-1].graph, options.prune, number, options)):
            with stages.stage(f"prune{of_rounds}") as step:
                cut = decide(made[-1].graph, teacher, data, cut, number, options, step)
                plan = plan_pruning(made[-1].graph, data.samples, cut, step.advance)
                made.append(Snapshot("pruned", prune(made[-1].graph, plan, data.samples, cut), number, plan))
        if options.recover and data.training is not None:
            share = _share(options.recover, number, options)
            with stages.stage(f"recover{of_rounds}", steps=share.steps) as step:
                result = recover(made[-1].graph, teacher, data.training, share, data.labels, step.advance)
                made.append(Snapshot("recovered", result.graph, number, recovered=result))
    return made


def decide(
    graph: Graph, teacher: Graph, data: Inputs, cut: PruneOptions, number: int, options: ConvertOptions, step: Step
) -> PruneOptions:
    """``cut`` with the number of residual blocks that leave whole; none where nothing is trained after it."""
    if options.recover is None or data.training is None:
        return replace(cut, blocks=cut.blocks or 0)
    share = _share(options.recover, number, options)
    return decide_blocks(graph, teacher, data.samples, cut, data.training, data.labels, share, step.advance)


def _cut(
    loaded: Graph, graph: Graph, prune_options: PruneOptions, number: int, options: ConvertOptions
) -> PruneOptions | None:
    """What this round removes of what is left, so that every round keeps the same share and the last meets the goal.

    None where the rounds before went so far (plans cut whole channels) that next to nothing is left to do.
    """
    goal = (1 - prune_options.amount) ** (number / options.prune_rounds)
    amount = 1 - goal * count_macs(loaded) / count_macs(graph)
    return replace(prune_options, amount=amount, seed=_seed(number, options)) if amount > _LEAST_AMOUNT else None


def _share(recover_options: RecoverOptions, number: int, options: ConvertOptions) -> RecoverOptions:
    """This round's part of the steps."""
    done, then = (recover_options.steps * k // options.prune_rounds for k in (number - 1, number))
    return replace(recover_options, steps=then - done, seed=_seed(number, options))


def _seed(number: int, options: ConvertOptions) -> int:
    return (options.seed + number - 1) % _SEEDS
