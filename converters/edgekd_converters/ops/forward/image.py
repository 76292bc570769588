"""Pools, resizing and rearranging of ``(n, h, w, c)``, row by row but for the two that trade space for batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgekd_converters.graph import Op
from edgekd_converters.ops.forward.common import known
from edgekd_converters.ops.forward.convolution import PADDING
from edgekd_converters.ops.lazy import tf


def average_pool_2d(op: Op, values: list[Any], batch: int) -> list[Any]:
    """Padding does not count in the average."""
    return [tf.nn.avg_pool2d(values[0], *_window(op))]


def max_pool_2d(op: Op, values: list[Any], batch: int) -> list[Any]:
    return [tf.nn.max_pool2d(values[0], *_window(op))]


def l2_pool_2d(op: Op, values: list[Any], batch: int) -> list[Any]:
    """The root of the mean square; padding does not count."""
    return [tf.sqrt(tf.nn.avg_pool2d(tf.square(values[0]), *_window(op)))]


def local_response_normalization(op: Op, values: list[Any], batch: int) -> list[Any]:
    options = op.options
    return [tf.nn.local_response_normalization(values[0], options.radius, options.bias, options.alpha, options.beta)]


def resize_bilinear(op: Op, values: list[Any], batch: int) -> list[Any]:
    return [_resize(tf.raw_ops.ResizeBilinear, op, values)]


def resize_nearest_neighbor(op: Op, values: list[Any], batch: int) -> list[Any]:
    return [_resize(tf.raw_ops.ResizeNearestNeighbor, op, values)]


def space_to_depth(op: Op, values: list[Any], batch: int) -> list[Any]:
    return [tf.nn.space_to_depth(values[0], op.options.blockSize)]


def depth_to_space(op: Op, values: list[Any], batch: int) -> list[Any]:
    return [tf.nn.depth_to_space(values[0], op.options.blockSize)]


def space_to_batch_nd(op: Op, values: list[Any], batch: int) -> list[Any]:
    """TensorFlow puts blocks before samples; here every sample keeps its own blocks together."""
    blocks, paddings = known(op, values[1]), known(op, values[2])
    y = tf.space_to_batch(values[0], blocks, np.reshape(paddings, (-1, 2)))
    return [_swap(y, math.prod(blocks), batch)]


def batch_to_space_nd(op: Op, values: list[Any], batch: int) -> list[Any]:
    blocks, crops = known(op, values[1]), known(op, values[2])
    x = _swap(values[0], batch, math.prod(blocks))
    return [tf.batch_to_space(x, blocks, np.reshape(crops, (-1, 2)))]


def _window(op: Op) -> tuple[tuple[int, int], tuple[int, int], str]:
    options = op.options
    return (options.filterHeight, options.filterWidth), (options.strideH, options.strideW), PADDING[options.padding]


def _resize(function: Any, op: Op, values: list[Any]) -> Any:
    options = op.options
    return function(
        images=values[0],
        size=known(op, values[1]),
        align_corners=options.alignCorners,
        half_pixel_centers=options.halfPixelCenters,
    )


def _swap(value: Any, first: int, second: int) -> Any:
    """``(first·second·a, …)`` → ``(second·first·a, …)``."""
    parted = tf.reshape(value, (first, second, -1, *value.shape[1:]))
    swapped = tf.transpose(parted, (1, 0, *range(2, len(parted.shape))))
    return tf.reshape(swapped, value.shape)
