"""What a graph costs: multiply-accumulates and parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

from edgekd_converters.graph import Graph, Op

ShapeOf = Callable[[Op, int | None], tuple[int, ...]]
"""(op, input slot or None for the first output) → shape."""


def _conv(op: Op, shape: ShapeOf) -> int:
    return math.prod(shape(op, None)) * math.prod(shape(op, 1)[1:])


def _depthwise(op: Op, shape: ShapeOf) -> int:
    return math.prod(shape(op, None)) * math.prod(shape(op, 1)[1:3])


def _transpose_conv(op: Op, shape: ShapeOf) -> int:
    return math.prod(shape(op, 2)) * math.prod(shape(op, 1)[:3])


def _fully_connected(op: Op, shape: ShapeOf) -> int:
    return math.prod(shape(op, None)) * shape(op, 1)[-1]


def _batch_matmul(op: Op, shape: ShapeOf) -> int:
    return math.prod(shape(op, None)) * shape(op, 0)[-2 if op.options.adjX else -1]


def _lstm(op: Op, shape: ShapeOf) -> int:
    steps = math.prod(shape(op, None)[:-1])
    return sum(steps * math.prod(shape(op, slot)) for slot in range(1, 9) if op.slots[slot] is not None)


_MACS: dict[str, Callable[[Op, ShapeOf], int]] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "TRANSPOSE_CONV": _transpose_conv,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": _lstm,
}


def op_macs(op: Op, shape: ShapeOf) -> int:
    """Multiply-accumulates of one op; 0 for those that only move or compare."""
    count = _MACS.get(op.name)
    return count(op, shape) if count else 0


def graph_shapes(op: Op, slot: int | None) -> tuple[int, ...]:
    """The shapes as they stand in the graph."""
    tensor = op.outputs[0] if slot is None else op.slots[slot]
    assert tensor is not None
    return tensor.shape


def count_macs(graph: Graph) -> int:
    """Multiply-accumulates of one run of the main subgraph."""
    return sum(op_macs(op, graph_shapes) for op in graph.main)


def count_parameters(graph: Graph) -> int:
    """Values in the float constants that the main subgraph's ops use, shared ones once."""
    used = {tensor.index: tensor for op in graph.main for tensor in op.inputs if tensor.is_constant}
    return sum(math.prod(tensor.shape) for tensor in used.values() if tensor.dtype == "FLOAT32")
