"""Ranges that int8 kernels can work with.

A channel or a tensor that is next to nothing, as pruned and dead ones are, gets a scale next to nothing. Then its bias
does not fit into 32 bits, for which ai-edge-quantizer gives up; or an interpreter refuses the model, or aborts the
process. No weight has to be changed for it: a wider range costs something that is next to nothing nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from ai_edge_litert.schema_py_generated import ActivationFunctionType

from edgekd_converters.calibrate import Ranges
from edgekd_converters.errors import QuantizeError
from edgekd_converters.graph import Graph, Op, Tensor
from edgekd_converters.kernels import PICKS

Bounds = dict[str, npt.NDArray[np.float64]]
"""Name of a constant → its greatest magnitude, whole or by channel, with as many axes as the constant."""

SAME_SCALE = (
    *PICKS,
    *("RESHAPE", "TRANSPOSE", "SPLIT", "SLICE", "STRIDED_SLICE", "UNPACK", "GATHER", "GATHER_ND", "PAD", "MIRROR_PAD"),
    *("BROADCAST_TO", "SPACE_TO_DEPTH", "AVERAGE_POOL_2D", "MAX_POOL_2D", "REDUCE_MIN", "RESIZE_BILINEAR"),
)
_AROUND_0 = (-1.0, 127 / 128)
FIXED = {
    **dict.fromkeys(("SOFTMAX", "LOGISTIC"), (0.0, 255 / 256)),
    **dict.fromkeys(("TANH", "L2_NORMALIZATION"), _AROUND_0),
    "LOG_SOFTMAX": (-255 / 16, 0.0),
}
# Positions of input and bias, axis of the channels in the weights.
LAYERS = {
    **dict.fromkeys(("CONV_2D", "FULLY_CONNECTED"), (0, 2, 0)),
    "DEPTHWISE_CONV_2D": (0, 2, 3),
    "TRANSPOSE_CONV": (2, 3, 0),
}
_CLIPPED = (ActivationFunctionType.RELU6, ActivationFunctionType.RELU_N1_TO_1)
_MOST_BIAS = 2.0**30  # in steps: it has 32 bits, and the products are added to it
_SURE_BIAS = 2.0**20  # the quantiser checks the rounded bias in float32, which is exact up to here and beyond


def within_limits(graph: Graph, ranges: Ranges) -> tuple[Ranges, Bounds]:
    """The ranges that the quantiser will arrive at, fit for the kernels; and bounds for constants that need others.

    Where a scale is that of another tensor, or the kernel's own, it is written out: an op's limits hang on all of them.
    """
    ranges, centred = dict(ranges), _centred(graph)
    bounds = {tensor.name: _whole(graph, tensor) for tensor in centred if tensor.is_constant}
    for tensor in centred.intersection(graph.inputs):
        ranges[tensor.name] = _symmetric(*ranges[tensor.name])
    for op in graph.main:
        inputs, outputs = ([t for t in ends if t.dtype == "FLOAT32"] for ends in (op.inputs, op.outputs))
        if op.name in SAME_SCALE or op.name in FIXED:
            given = [ranges[tensor.name] for tensor in inputs if not tensor.is_constant]
            known = FIXED.get(op.name, given[0] if given else None)
            ranges.update({tensor.name: known for tensor in outputs if known})
            continue
        steps = [_step(graph, tensor, ranges) for tensor in inputs]
        least = _least_of_layer(graph, op, ranges, bounds) if op.name in LAYERS else _least_step(op.name, steps)
        if getattr(op.options, "fusedActivationFunction", None) in _CLIPPED:
            least = max(least, 2.0**-27)  # 6 has to be a number of steps in 32 bits
        for tensor in outputs:
            low, high = min(ranges[tensor.name][0], 0.0), max(ranges[tensor.name][1], 0.0)
            wide = (low, max(high, low + 255 * least))
            ranges[tensor.name] = _symmetric(*wide) if tensor in centred else wide
    return ranges, _one_for_tables(graph, bounds)


def _centred(graph: Graph) -> set[Tensor]:
    """The tensors that must have one scale and the zero point 0, for the sake of matrix products.

    XNNPACK takes the zero point of the second operand for 0, whatever it is. And every kernel takes a constant operand
    to have one scale, where the quantiser would write one for each channel: the product would be 0.
    """
    made_by = {tensor.index: op for op in graph.main for tensor in op.outputs}
    found = set()
    for op in graph.main:
        if op.name != "BATCH_MATMUL":
            continue
        left, right = op.inputs
        maker = made_by.get(right.index)
        while maker is not None and maker.name in SAME_SCALE:
            right = next(tensor for tensor in maker.inputs if tensor.dtype == "FLOAT32")
            maker = made_by.get(right.index)
        if maker is not None and FIXED.get(maker.name, _AROUND_0) != _AROUND_0:
            raise QuantizeError(f"{op} cannot take what {maker.name} makes as its second operand, only as its first")
        found |= {right, left} if left.is_constant else {right}
    return found


def _whole(graph: Graph, tensor: Tensor) -> npt.NDArray[np.float64]:
    return np.full([1] * len(tensor.shape), np.abs(graph.constant(tensor)).max(), np.float64)


def _one_for_tables(graph: Graph, bounds: Bounds) -> Bounds:
    """Weights that are an embedding table too have one scale for all channels, as tables have."""
    tables = {tensor.name for op in graph.main if op.name not in LAYERS for tensor in op.inputs}
    return {name: bound.max(keepdims=True) if name in tables else bound for name, bound in bounds.items()}


def _symmetric(low: float, high: float) -> tuple[float, float]:
    step = max(high / 127, -low / 128)
    return (-128 * step, 127 * step)


def _step(graph: Graph, tensor: Tensor, ranges: Ranges) -> float:
    """What one int8 step is; every range holds 0."""
    if tensor.is_constant:
        value = graph.constant(tensor)
        low, high = float(value.min()), float(value.max())
    else:
        low, high = ranges[tensor.name]
    return (max(high, 0.0) - min(low, 0.0)) / 255


def _least_step(name: str, inputs: list[float]) -> float:
    """The kernel's own limit for the step of its output, with a factor 2 to spare."""
    widest = max(inputs, default=0.0)
    if name in ("ADD", "SUB"):
        return widest * 2.0**-18
    if name == "SQUARED_DIFFERENCE":
        return widest**2 * 2.0**-11
    return widest * 2.0**-6 if name == "HARD_SWISH" else 0.0


def _least_of_layer(graph: Graph, op: Op, ranges: Ranges, bounds: Bounds) -> float:
    """The limit for the step of a layer's output. Weights that are too small for their bias go to ``bounds``.

    A step of input times weight must be less than 256 steps of the output (XNNPACK), and the bias, a number of such
    steps, fit into 32 bits in either.
    """
    at, bias_at, axis = LAYERS[op.name]
    source, weights, bias = (op.slots[k] if k < len(op.slots) else None for k in (at, 1, bias_at))
    if source is None or weights is None or not weights.is_constant:
        return 0.0
    value, step, least = graph.constant(weights), _step(graph, source, ranges), 0.0
    bound = np.abs(value).max(tuple(k for k in range(value.ndim) if k != axis), keepdims=True).astype(np.float64)
    if bias is not None and bias.is_constant and step:
        size = np.abs(graph.constant(bias)).astype(np.float64).reshape(bound.shape)
        least = float(size.max()) / _MOST_BIAS
        if (size > _SURE_BIAS * step * bound / 127).any():
            bound = np.maximum(bound, 127 * size / (_MOST_BIAS * step))
            bounds[weights.name] = np.maximum(bound, bounds.get(weights.name, 0.0))
    return max(least, step * float(bound.max()) / 127 * 2.0**-7)
