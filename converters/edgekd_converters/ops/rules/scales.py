"""How scales of channels pass through each op: what can be multiplied channel by channel so that its readers undo it.

Much as when channels leave, but not wholly: a depthwise convolution makes channels anew, and what is added to, clipped
at or averaged with something else cannot be scaled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from ai_edge_litert.schema_py_generated import ActivationFunctionType

from edgekd_converters.channels import Axes, Ends, Rule, opaque
from edgekd_converters.graph import Graph, Op
from edgekd_converters.limits import LAYERS
from edgekd_converters.ops.rules import layers, moves, values

_PASSING = (ActivationFunctionType.NONE, ActivationFunctionType.RELU, ActivationFunctionType.RELU6)


def rules_for(graph: Graph) -> Callable[[Op], Rule]:
    """The ops' rules; nothing passes an op that has none, or that shares its weights with others."""
    uses = Counter(tensor for op in graph.main for tensor in op.inputs)

    def rule(op: Op) -> Rule:
        passes = getattr(op.options, "fusedActivationFunction", ActivationFunctionType.NONE) in _PASSING
        weights = op.slots[1] if op.name in LAYERS else None
        known = passes and (weights is None or weights.is_constant)
        shared = any(uses[one] > 1 for one in op.inputs if one.is_constant and len(one.shape) > 1)
        return _RULES.get(op.name, opaque) if known and not shared else opaque

    return rule


def _depthwise(ends: Ends) -> None:
    weights = ends.axes(1)
    layers.fix(ends, 0, 3)
    layers.fix(ends, 1, 3)
    ends.contracts(0, 3)
    if ends.has(2):
        ends.unite(weights[3], ends.axes(2)[0])
    ends.gives([None, None, None, weights[3]])


def _sum(ends: Ends) -> None:
    """A value that is added to many channels stands to none of them as they are scaled."""
    for slot in range(len(ends.op.slots)):
        for back in range(1, len(ends.shape(slot)) + 1):
            if any(_size(ends, other, back) == 1 for other in range(len(ends.op.slots))):
                ends.freeze(ends.axes(slot)[-back])
    values.elementwise(ends)


def _product(ends: Ends) -> None:
    """By a constant: it makes the channels anew. Of two activations one may be scaled."""
    rank = len(ends.op.outputs[0].shape)
    out: Axes = [None] * rank
    for back in range(1, rank + 1):
        sides = [slot for slot in (0, 1) if _size(ends, slot, back) > 1]
        constant = [slot for slot in sides if ends.tensor(slot).is_constant]
        live = [slot for slot in sides if ends.are_live(ends.axes(slot)[-back])]
        if constant or len(live) == 1:
            out[-back] = ends.axes((constant or live)[0])[-back]
        else:
            ends.freeze(*(ends.axes(slot)[-back] for slot in live))
    ends.gives(out)


def _size(ends: Ends, slot: int, back: int) -> int:
    shape = ends.shape(slot)
    return shape[-back] if back <= len(shape) else 1


_RULES: dict[str, Rule] = {
    "CONV_2D": layers.conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": layers.transpose_conv,
    "FULLY_CONNECTED": layers.fully_connected,
    **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), values.spatial),
    **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), values.spatial),
    **dict.fromkeys(("RELU", "RELU6", "LEAKY_RELU"), values.unary),
    "PRELU": values.elementwise,
    **dict.fromkeys(("ADD", "SUB"), _sum),
    "MUL": _product,
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX"), values.reduction(sums=False)),
    **dict.fromkeys(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"), moves.reshape),
    "TRANSPOSE": moves.transpose,
    "CONCATENATION": moves.concatenation,
    "SPLIT": moves.split(data=1, axis=0),
    "SPLIT_V": moves.split_v,
    "SLICE": moves.slice_,
    "STRIDED_SLICE": moves.strided_slice,
    "PAD": moves.pad,
    "MIRROR_PAD": moves.same_sizes,
    "SPACE_TO_DEPTH": moves.depth_from_space,
    "DEPTH_TO_SPACE": moves.space_from_depth,
    "GATHER": moves.gather,
}
