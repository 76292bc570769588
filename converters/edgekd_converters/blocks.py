"""Residual blocks that can leave whole: of ``x + f(x)`` only ``x`` stays (Huang et al. 2016, "Deep Networks with
Stochastic Depth", shows why a residual network bears it).

Where channels are few and pixels many, as in a network's first block, narrowing saves a kernel little time: it works on
so many channels at once anyway. Leaving the block out saves all of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from edgekd_converters.cost import graph_shapes, op_macs
from edgekd_converters.divergence import divergence, run_columns
from edgekd_converters.graph import Graph, Op, Tensor
from edgekd_converters.observe import Columns
from edgekd_converters.rewrite import Draft

_ACTIVATION = schema.ActivationFunctionType
_ALONE = {_ACTIVATION.RELU: "RELU", _ACTIVATION.RELU6: "RELU6", _ACTIVATION.RELU_N1_TO_1: "RELU_N1_TO_1"}
_PROBE = 256


@dataclass(frozen=True)
class Block:
    """``add`` of ``skip`` and of what ``ops`` make of it, which nothing else reads. ``macs``: of ``ops``."""

    add: Op
    skip: Tensor
    ops: tuple[Op, ...]
    macs: int

    @property
    def name(self) -> str:
        return self.add.outputs[0].name


def residual_blocks(graph: Graph) -> list[Block]:
    """Those that could leave, in run order."""
    found = []
    for add in graph.main:
        if add.name != "ADD":
            continue
        if add.outputs[0] in graph.outputs or _activation(add) not in (_ACTIVATION.NONE, *_ALONE):
            continue
        for skip, branch in (add.inputs, add.inputs[::-1]):
            ops = _branch(graph, add, skip, branch) if skip.shape == add.outputs[0].shape else ()
            macs = sum(op_macs(op, graph_shapes) for op in ops)
            if macs:
                found.append(Block(add, skip, ops, macs))
    return found


def least_missed(graph: Graph, samples: Columns, count: int) -> list[tuple[Block, float]]:
    """``count`` blocks to leave out, and by how much each raises the divergence of the outputs: one after the other
    the one that does so least for the multiply-accumulates it saves. Fewer where there are no more."""
    probe = {name: column[:_PROBE] for name, column in samples.items()}
    original = run_columns(graph, probe)
    gone: list[tuple[Block, float]] = []
    before = 0.0
    while len(gone) < count:
        taken = [block for block, _ in gone]
        left = [block for block in residual_blocks(graph) if not _overlap(block, taken)]
        if not left:
            break
        missed = {one.name: divergence(original, run_columns(without(graph, [*taken, one]), probe)) for one in left}
        least = min(left, key=lambda one: (missed[one.name] - before) / one.macs)
        gone.append((least, missed[least.name] - before))
        before = missed[least.name]
    return gone


def without(graph: Graph, blocks: Sequence[Block]) -> Graph:
    """The graph in which each block hands on its ``skip``."""
    adds = {block.add.index: block for block in blocks}
    dropped = {op.index for block in blocks for op in block.ops}
    draft = Draft(graph)
    for op in graph.main:
        draft.begin(op)
        if block := adds.get(op.index):
            if _is_idle(graph, block):
                draft.pass_on(op.outputs[0].index, block.skip.index)
            else:
                draft.write(_ALONE[_activation(op)], [block.skip.index], [op.outputs[0].index])
        elif op.index not in dropped:
            draft.keep(op)
    return draft.finish()


def _overlap(block: Block, others: Sequence[Block]) -> bool:
    mine = {op.index for op in (block.add, *block.ops)}
    return any(mine & {op.index for op in (other.add, *other.ops)} for other in others)


def _branch(graph: Graph, add: Op, skip: Tensor, branch: Tensor) -> tuple[Op, ...]:
    """The ops between ``skip`` and ``branch``; none unless it follows from ``skip`` for ``add`` alone."""
    maker = {tensor.index: op for op in graph.main for tensor in op.outputs}
    queue, ops = [branch], dict[int, Op]()
    while queue:
        tensor = queue.pop()
        if tensor == skip or tensor.is_constant:
            continue
        op = maker.get(tensor.index)
        if op is None:  # an input of the graph: it does not follow from ``skip`` alone
            return ()
        if op.index not in ops:
            ops[op.index] = op
            queue += op.inputs
    made = {tensor for op in ops.values() for tensor in op.outputs}
    outside = [op for op in graph.main if op.index not in ops and op is not add]
    if not ops or made & _read(outside, graph.outputs) or not any(skip in op.inputs for op in ops.values()):
        return ()
    return tuple(ops[index] for index in sorted(ops))


def _read(ops: Sequence[Op], outputs: Collection[Tensor]) -> set[Tensor]:
    return {tensor for op in ops for tensor in op.inputs} | set(outputs)


def _is_idle(graph: Graph, block: Block) -> bool:
    """Whether the addition's activation changes nothing that its ``skip`` has not been through."""
    activation = _activation(block.add)
    makers = [op for op in graph.main if block.skip in op.outputs]
    return activation == _ACTIVATION.NONE or any(
        _activation(op) == activation or op.name == _ALONE[activation] for op in makers
    )


def _activation(op: Op) -> Any:
    return getattr(op.options, "fusedActivationFunction", _ACTIVATION.NONE)
