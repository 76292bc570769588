"""Convolutions and matrix products.

TensorFlow's own kernels for dilation and groups have gradients on the CPU only where oneDNN is built in, and its
depthwise kernel wants equal strides. So these cases are put together from what runs everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from edgekd_converters.graph import Op
from edgekd_converters.ops.forward.common import fold, known, of_rank, unfold_all
from edgekd_converters.ops.lazy import tf

PADDING = {0: "SAME", 1: "VALID"}
"""The schema's number → TensorFlow's name."""
_Kernel = Callable[[Any, tuple[int, int], str], Any]
"""(input, strides, padding) → output"""


def conv_2d(op: Op, values: list[Any], batch: int) -> list[Any]:
    """``(n, h, w, c)`` with weights ``(o, kh, kw, c/groups)``."""
    x, weights = values[0], tf.transpose(values[1], (1, 2, 3, 0))
    groups = x.shape[-1] // weights.shape[2]

    def kernel(x: Any, strides: tuple[int, int], padding: str) -> Any:
        if groups == 1:
            return tf.nn.conv2d(x, weights, strides, padding)
        pairs = zip(tf.split(x, groups, -1), tf.split(weights, groups, -1), strict=True)
        return tf.concat([tf.nn.conv2d(part, own, strides, padding) for part, own in pairs], -1)

    return [_with_bias(_slide(op.options, x, weights.shape[:2], kernel), values, 2)]


def depthwise_conv_2d(op: Op, values: list[Any], batch: int) -> list[Any]:
    """``(n, h, w, c)`` with weights ``(1, kh, kw, c·multiplier)``."""
    x = values[0]
    _, height, width, made = values[1].shape
    weights = tf.reshape(values[1], (height, width, x.shape[-1], made // x.shape[-1]))

    def kernel(x: Any, strides: tuple[int, int], padding: str) -> Any:
        return tf.nn.depthwise_conv2d(x, weights, (1, *strides, 1), padding)

    equal = op.options.strideH == op.options.strideW
    return [_with_bias(_slide(op.options, x, (height, width), kernel, can_stride=equal), values, 2)]


def transpose_conv(op: Op, values: list[Any], batch: int) -> list[Any]:
    """``(n, h, w, c)`` in slot 2, weights ``(o, kh, kw, c)``, output shape in slot 0."""
    x, weights = values[2], tf.transpose(values[1], (1, 2, 0, 3))
    height, width = known(op, values[0])[1:3]
    shape = (x.shape[0], height, width, weights.shape[2])
    strides = (op.options.strideH, op.options.strideW)
    y = tf.nn.conv2d_transpose(x, weights, shape, strides, PADDING[op.options.padding])
    return [_with_bias(y, values, 3)]


def fully_connected(op: Op, values: list[Any], batch: int) -> list[Any]:
    """Any shape as ``(-1, i)`` with weights ``(o, i)``; ``keepNumDims`` keeps the leading axes."""
    x, weights = values[0], values[1]
    made, taken = weights.shape
    y = _with_bias(tf.matmul(tf.reshape(x, (-1, taken)), weights, transpose_b=True), values, 2)
    return [tf.reshape(y, (*x.shape[:-1], made)) if op.options.keepNumDims else y]


def batch_matmul(op: Op, values: list[Any], batch: int) -> list[Any]:
    """``(…, a, b)`` with ``(…, b, c)``, either perhaps transposed; the leading axes broadcast."""
    rank = max(len(slot.shape) for slot in op.inputs)
    x, y = (of_rank(value, rank) for value in unfold_all(op, values, batch))
    return [fold(tf.matmul(x, y, transpose_a=op.options.adjX, transpose_b=op.options.adjY), batch)]


def _slide(options: Any, x: Any, window: tuple[int, int], kernel: _Kernel, can_stride: bool = True) -> Any:
    """The kernel with the options' strides, padding and dilation, for kernels that know no dilation."""
    strides, padding = (options.strideH, options.strideW), PADDING[options.padding]
    dilations = (options.dilationHFactor, options.dilationWFactor)
    if dilations == (1, 1) and can_stride:
        return kernel(x, strides, padding)
    if padding == "SAME":
        sizes = zip(x.shape[1:3], window, strides, dilations, strict=True)
        x = tf.pad(x, ((0, 0), *(_same(*one) for one in sizes), (0, 0)))
    y = tf.nn.with_space_to_batch(x, dilations, "VALID", lambda part, *_: kernel(part, (1, 1), "VALID"))
    return y[:, :: strides[0], :: strides[1]]


def _same(size: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
    """What SAME padding adds before and after."""
    covered = (-(-size // stride) - 1) * stride + (window - 1) * dilation + 1
    total = max(covered - size, 0)
    return total // 2, total - total // 2


def _with_bias(y: Any, values: list[Any], slot: int) -> Any:
    bias = values[slot] if len(values) > slot else None
    return y if bias is None else tf.nn.bias_add(y, bias)
