"""What converters write in more than one way, written in one."""

from __future__ import annotations

from edgekd_converters.graph import Graph

_BIAS = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}


def with_flat_biases(graph: Graph) -> Graph:
    """Every bias ``(channels,)``: a converter that makes one of an addition may leave it at ``(1, 1, 1, channels)``."""
    flat = {}
    for op in graph.main:
        slot = _BIAS.get(op.name, len(op.slots))
        bias = op.slots[slot] if slot < len(op.slots) else None
        if bias is not None and bias.is_constant and len(bias.shape) != 1:
            flat[op.index, slot] = graph.constant(bias).reshape(-1)
    return graph.edited({}, {}, flat) if flat else graph
