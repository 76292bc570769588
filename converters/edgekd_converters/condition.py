"""A float graph made ready for the quantiser: ops that it cannot take are written as ops that it can.

Only what has no int8 kernel in one of the device's runtimes, or no int8 scale, is rewritten. An op that has one and
that ai-edge-quantizer merely does not know (a nearest resize, a tile, a leaky relu, …) stays as it is, see
``kernels.py``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgekd_converters.errors import NotIntegerError
from edgekd_converters.graph import Graph, Op
from edgekd_converters.padding import bounded_pad
from edgekd_converters.response import plain_response
from edgekd_converters.rewrite import Draft, Rule, rewritten
from edgekd_converters.strides import fitting_strides
from edgekd_converters.unroll import unroll_lstm

_CONTROL = ("WHILE", "IF", "CALL_ONCE", "STABLEHLO_WHILE")


def condition(graph: Graph) -> Graph:
    """The same function, equal within rounding, in a form that can be calibrated and quantised.

    What stays keeps its name, so that layers of the float and of the int8 graph can be compared when both come from
    this one. A graph that needs nothing is returned itself. Raises ``NotIntegerError`` for loops and branches.
    """
    if control := [op for op in graph.main if op.name in _CONTROL]:
        hint = "is a loop or a branch and has no integer form; of Keras' recurrent layers, build with unroll=True"
        raise NotIntegerError([f"{op} {hint}" for op in control])
    # One after the other, since an unrolled LSTM leaves parts that nothing uses.
    return rewritten(rewritten(graph, {"UNIDIRECTIONAL_SEQUENCE_LSTM": unroll_lstm}), _RULES)


def _neg(draft: Draft, graph: Graph, op: Op) -> bool:
    """x · -1; of the two runtimes only LiteRT has an int8 NEG."""
    return _product(draft, op, np.array(-1, np.float32))


def _square(draft: Draft, graph: Graph, op: Op) -> bool:
    """x · x."""
    return _product(draft, op, None)


def _div(draft: Draft, graph: Graph, op: Op) -> bool:
    """x · 1/c for a constant c; of the two runtimes only LiteRT has an int8 DIV."""
    if not op.inputs[1].is_constant or op.inputs[1].dtype != "FLOAT32":
        return False
    with np.errstate(divide="ignore"):
        inverse = np.reciprocal(graph.constant(op.inputs[1]))
    return bool(np.isfinite(inverse).all()) and _product(draft, op, inverse)


def _product(draft: Draft, op: Op, factor: npt.NDArray[np.float32] | None) -> bool:
    """The first input times ``factor``, or times itself."""
    source = op.inputs[0]
    if source.dtype != "FLOAT32":
        return False
    options = schema.MulOptionsT()
    options.fusedActivationFunction = getattr(op.options, "fusedActivationFunction", 0)
    second = source.index if factor is None else draft.constant(factor)
    draft.write("MUL", [source.index, second], [op.outputs[0].index], options)
    return True


def _sum(draft: Draft, graph: Graph, op: Op) -> bool:
    """a + b + c … two at a time."""
    first, *others = (tensor.index for tensor in op.inputs)
    if op.outputs[0].dtype != "FLOAT32" or not others:
        return False
    for other in others[:-1]:
        first = draft.call("ADD", [first, other], op.outputs[0].shape, schema.AddOptionsT())
    draft.write("ADD", [first, others[-1]], [op.outputs[0].index], schema.AddOptionsT())
    return True


def _clipped(draft: Draft, graph: Graph, op: Op) -> bool:
    """relu, then no more than 1; only newer runtimes know it as one op, and none of them in integers."""
    source, shape = op.inputs[0], op.inputs[0].shape
    positive = draft.call("RELU", [source.index], shape)
    one = draft.constant(np.array(1, np.float32))
    draft.write("MINIMUM", [positive, one], [op.outputs[0].index], schema.MaximumMinimumOptionsT())
    return True


def _parts(draft: Draft, graph: Graph, op: Op) -> bool:
    """One slice for each part that is used, where some are not: the quantiser leaves an unused output in float."""
    used = {t.index for other in graph.main for t in other.inputs} | {t.index for t in graph.outputs}
    if op.outputs[0].dtype != "FLOAT32" or all(part.index in used for part in op.outputs):
        return False
    source = op.inputs[1 if op.name == "SPLIT" else 0]
    rank, unpacks = len(source.shape), op.name == "UNPACK"
    axis = op.options.axis if unpacks else int(graph.constant(op.inputs[0 if op.name == "SPLIT" else 2]).item())
    axis %= rank
    options, ones = schema.StridedSliceOptionsT(), np.ones(rank, np.int32)
    options.shrinkAxisMask = 1 << axis if unpacks else 0
    begin, end = np.zeros(rank, np.int32), np.array(source.shape, np.int32)
    for part in op.outputs:
        end[axis] = begin[axis] + (1 if unpacks else part.shape[axis])
        if part.index in used:
            ends = [draft.constant(ends) for ends in (begin, end, ones)]
            draft.write("STRIDED_SLICE", [source.index, *ends], [part.index], options)
        begin[axis] = end[axis]
    return True


_RULES: dict[str, Rule] = {
    "NEG": _neg,
    "SQUARE": _square,
    "DIV": _div,
    "ADD_N": _sum,
    "RELU_0_TO_1": _clipped,
    "LOCAL_RESPONSE_NORMALIZATION": plain_response,
    "PADV2": bounded_pad,
    "TRANSPOSE_CONV": fitting_strides,
    **dict.fromkeys(("SPLIT", "SPLIT_V", "UNPACK"), _parts),
}
