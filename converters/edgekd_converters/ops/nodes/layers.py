"""Convolutions, matrix products, pools, resizing, LSTM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekd_converters.errors import UnsupportedOpError
from edgekd_converters.graph import Op
from edgekd_converters.ops.nodes.common import Nodes, Writer

_SAME = 0
_LSTM_WEIGHTS = (*range(1, 9), *range(12, 16))
_GATES = (0, 3, 1, 2)  # TFLite: input, forget, cell, output; ONNX: input, output, forget, cell


def conv_2d(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """Weights ``(o, kh, kw, c/groups)``."""
    weights = op.inputs[1].shape
    groups = op.inputs[0].shape[3] // weights[3]
    return _convolve(nodes, op, inputs, nodes.permute(inputs[1], (0, 3, 1, 2)), groups)


def depthwise_conv_2d(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """Weights ``(1, kh, kw, c·multiplier)``."""
    return _convolve(nodes, op, inputs, nodes.permute(inputs[1], (3, 0, 1, 2)), op.inputs[0].shape[3])


def _convolve(nodes: Nodes, op: Op, inputs: list[str], weights: str, groups: int) -> list[str]:
    dilations = (op.options.dilationHFactor, op.options.dilationWFactor)
    window = op.inputs[1].shape[1:3]
    bias = inputs[2] if len(inputs) > 2 else ""
    slide = _slide(op, window, dilations)
    y = nodes.add(
        "Conv", nodes.channels_first(inputs[0]), weights, bias, dilations=list(dilations), group=groups, **slide
    )
    return [nodes.channels_last(y)]


def transpose_conv(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """The output's shape in slot 0, weights ``(o, kh, kw, c)``, the value in slot 2."""
    strides, window = (op.options.strideH, op.options.strideW), op.inputs[1].shape[1:3]
    grids = zip(op.inputs[2].shape[1:3], strides, window, op.outputs[0].shape[1:3], strict=True)
    surplus = [(size - 1) * stride + width - made for size, stride, width, made in grids]
    before = [max(one, 0) // 2 for one in surplus]
    after = [max(one, 0) - less for one, less in zip(surplus, before, strict=True)]
    y = nodes.add(
        "ConvTranspose",
        nodes.channels_first(inputs[2]),
        nodes.permute(inputs[1], (3, 0, 1, 2)),
        inputs[3] if len(inputs) > 3 else "",
        kernel_shape=list(window),
        strides=list(strides),
        pads=[*before, *after],
        output_padding=[max(-one, 0) for one in surplus],
    )
    return [nodes.channels_last(y)]


def fully_connected(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """Any shape as ``(-1, i)`` with weights ``(o, i)``; ``keepNumDims`` keeps the leading axes."""
    x, bias = inputs[0], inputs[2] if len(inputs) > 2 else ""
    if op.options.keepNumDims and len(op.inputs[0].shape) != 2:
        y = nodes.add("MatMul", x, nodes.permute(inputs[1], (1, 0)))
        return [nodes.add("Add", y, bias) if bias else y]
    if op.inputs[0].shape[1:] != (op.inputs[1].shape[1],):
        x = nodes.add("Reshape", x, nodes.ints((-1, op.inputs[1].shape[1])))
    return [nodes.add("Gemm", x, inputs[1], bias, transB=1)]


def batch_matmul(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    flips = (op.options.adjX, op.options.adjY)
    sides = [
        nodes.permute(name, (*range(len(slot.shape) - 2), len(slot.shape) - 1, len(slot.shape) - 2)) if flip else name
        for name, slot, flip in zip(inputs, op.inputs, flips, strict=True)
    ]
    return [nodes.add("MatMul", *sides)]


def _pool(kind: str, **attributes: Any) -> Callable[[Nodes, Op, str], str]:
    def write(nodes: Nodes, op: Op, x: str) -> str:
        window = (op.options.filterHeight, op.options.filterWidth)
        return nodes.add(kind, x, kernel_shape=list(window), **_slide(op, window, (1, 1)), **attributes)

    return write


_average, _max = _pool("AveragePool", count_include_pad=0), _pool("MaxPool")


def _channels_first(write: Callable[[Nodes, Op, str], str]) -> Writer:
    return lambda nodes, op, inputs: [nodes.channels_last(write(nodes, op, nodes.channels_first(inputs[0])))]


average_pool_2d = _channels_first(_average)
max_pool_2d = _channels_first(_max)
l2_pool_2d = _channels_first(lambda nodes, op, x: nodes.add("Sqrt", _average(nodes, op, nodes.add("Mul", x, x))))
space_to_depth = _channels_first(lambda nodes, op, x: nodes.add("SpaceToDepth", x, blocksize=op.options.blockSize))
depth_to_space = _channels_first(lambda nodes, op, x: nodes.add("DepthToSpace", x, blocksize=op.options.blockSize))


@_channels_first
def local_response_normalization(nodes: Nodes, op: Op, x: str) -> str:
    """ONNX divides alpha by the size."""
    options, size = op.options, 2 * op.options.radius + 1
    return nodes.add("LRN", x, alpha=options.alpha * size, beta=options.beta, bias=options.bias, size=size)


def _resize(mode: str) -> Callable[[Nodes, Op, str], str]:
    def write(nodes: Nodes, op: Op, x: str) -> str:
        options = op.options
        place = "align_corners" if options.alignCorners else "half_pixel" if options.halfPixelCenters else "asymmetric"
        rounding = (
            {"nearest_mode": "floor" if place == "asymmetric" else "round_prefer_ceil"} if mode == "nearest" else {}
        )
        # All four sizes, for onnxruntime 1.23 moves transposes wrongly past a Resize with axes.
        sizes = nodes.add("Concat", nodes.add("Shape", x, end=2), nodes.ints(op.outputs[0].shape[1:3]), axis=0)
        return nodes.add("Resize", x, "", "", sizes, mode=mode, coordinate_transformation_mode=place, **rounding)

    return write


resize_bilinear = _channels_first(_resize("linear"))
resize_nearest_neighbor = _channels_first(_resize("nearest"))


def unidirectional_sequence_lstm(nodes: Nodes, op: Op, inputs: list[str]) -> list[str]:
    """From zero state. Slots: 1-4 weights, 5-8 recurrent ones, 12-15 biases.

    ONNX cannot clip the cell, which TensorFlow does at 10; then the steps are written one by one.
    """
    slots = [*inputs, *[""] * 24][:24]
    rare = any(slots[i] for i in (*range(9, 12), 16, 17, *range(20, 24)))
    if rare or op.options.fusedActivationFunction != 4 or not all(slots[i] in nodes.constants for i in _LSTM_WEIGHTS):
        raise UnsupportedOpError(
            f"{op}: an LSTM with peepholes, projection, or no input gate cannot be written in ONNX"
        )

    def gates(first: int) -> Any:
        return np.concatenate([nodes.constants[slots[first + gate]] for gate in _GATES])

    x = slots[0] if op.options.timeMajor else nodes.permute(slots[0], (1, 0, 2))
    write = _steps if op.options.cellClip else _lstm
    y = write(nodes, op, x, gates(1), gates(5), gates(12))  # (t, b, units)
    return [y if op.options.timeMajor else nodes.permute(y, (1, 0, 2))]


def _lstm(nodes: Nodes, op: Op, x: str, weights: Any, recurrent: Any, bias: Any) -> str:
    operands = [nodes.constant(value[None]) for value in (weights, recurrent, np.concatenate([bias, 0 * bias]))]
    return nodes.add("Squeeze", nodes.add("LSTM", x, *operands, hidden_size=len(bias) // 4), nodes.ints([1]))


def _steps(nodes: Nodes, op: Op, x: str, weights: Any, recurrent: Any, bias: Any) -> str:
    steps, clip = op.inputs[0].shape[0 if op.options.timeMajor else 1], op.options.cellClip
    low, high = nodes.constant(-clip, np.float32), nodes.constant(clip, np.float32)
    driven = nodes.add("Add", nodes.add("MatMul", x, nodes.constant(weights.T)), nodes.constant(bias))
    turned = nodes.constant(recurrent.T)
    parts = nodes.add_many("Split", [driven], steps, axis=0, num_outputs=steps)  # each (1, b, 4·units)
    made: list[str] = []
    cell = ""
    for part in parts:
        drive = nodes.add("Add", part, nodes.add("MatMul", made[-1], turned)) if made else part
        enter, leave, keep, fresh = nodes.add_many("Split", [drive], 4, axis=2, num_outputs=4)
        new = nodes.add("Mul", nodes.add("Sigmoid", enter), nodes.add("Tanh", fresh))
        cell = nodes.add("Add", new, nodes.add("Mul", nodes.add("Sigmoid", keep), cell)) if made else new
        cell = nodes.add("Clip", cell, low, high)
        made.append(nodes.add("Mul", nodes.add("Sigmoid", leave), nodes.add("Tanh", cell)))
    return nodes.add("Concat", *made, axis=0)


def _slide(op: Op, window: tuple[int, ...], dilations: tuple[int, int]) -> dict[str, list[int]]:
    """Strides and explicit padding of a convolution or a pool."""
    strides = (op.options.strideH, op.options.strideW)
    pads = [0, 0, 0, 0]
    if op.options.padding == _SAME:
        grids = zip(op.inputs[0].shape[1:3], op.outputs[0].shape[1:3], window, strides, dilations, strict=True)
        totals = [
            max((made - 1) * stride + (width - 1) * gap + 1 - size, 0) for size, made, width, stride, gap in grids
        ]
        pads = [*(total // 2 for total in totals), *(total - total // 2 for total in totals)]
    return {"strides": list(strides), "pads": pads}
