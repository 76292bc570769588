"""Cases of convolutions, matrix products, pools and what else works on ``(n, h, w, c)``."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from tests.converters.one_op import Case, Draw, Given, Maker, Operand, a_shape, either, fixed, ints, options

_SMALL = st.integers(1, 3)
_ACTIVATION = st.sampled_from([0, 1, 2, 3])
_SAME, _VALID = 0, 1


def _bias(draw: Draw, size: int) -> list[Operand]:
    """Or none."""
    return [fixed(draw, Given((size,)))] if draw(st.booleans()) else []


def _strides(draw: Draw) -> dict[str, int]:
    return {"strideH": draw(_SMALL), "strideW": draw(_SMALL)}


def _dilations(draw: Draw) -> dict[str, int]:
    one = st.sampled_from([1, 1, 2, 3])
    return {"dilationHFactor": draw(one), "dilationWFactor": draw(one)}


def _sizes(draw: Draw, height: int, width: int) -> tuple[int, int]:
    """At least as large as the window, so that VALID leaves something."""
    return draw(st.integers(height, height + 5)), draw(st.integers(width, width + 5))


def _conv_2d(draw: Draw) -> Case:
    height, width, groups, taken, made = (draw(_SMALL) for _ in range(5))
    dilations = _dilations(draw)
    sizes = _sizes(draw, *((k - 1) * d + 1 for k, d in zip((height, width), dilations.values(), strict=True)))
    padding, activation = draw(st.sampled_from([_SAME, _VALID])), draw(_ACTIVATION)
    stated = options("Conv2D", padding=padding, fusedActivationFunction=activation, **_strides(draw), **dilations)
    x = Given((draw(st.integers(1, 2)), *sizes, groups * taken))
    weights = fixed(draw, Given((groups * made, height, width, taken)))
    return Case(stated, (x, weights, fixed(draw, Given((groups * made,)))))


def _depthwise_conv_2d(draw: Draw) -> Case:
    height, width, channels, multiplier = (draw(_SMALL) for _ in range(4))
    dilations = _dilations(draw)
    sizes = _sizes(draw, *((k - 1) * d + 1 for k, d in zip((height, width), dilations.values(), strict=True)))
    stated = options(
        "DepthwiseConv2D",
        padding=draw(st.sampled_from([_SAME, _VALID])),
        fusedActivationFunction=draw(_ACTIVATION),
        depthMultiplier=multiplier,
        **_strides(draw),
        **dilations,
    )
    weights = fixed(draw, Given((1, height, width, channels * multiplier)))
    return Case(stated, (Given((1, *sizes, channels)), weights, fixed(draw, Given((channels * multiplier,)))))


def _transpose_conv(draw: Draw) -> Case:
    rows, taken, made = (draw(_SMALL) for _ in range(3))
    window, strides, padding = (draw(_SMALL), draw(_SMALL)), _strides(draw), draw(st.sampled_from([_SAME, _VALID]))
    sizes, large = (draw(_SMALL), draw(_SMALL)), []
    for size, k, stride in zip(sizes, window, strides.values(), strict=True):
        if padding == _SAME:
            large.append(size * stride - draw(st.integers(0, stride - 1)))
        else:
            large.append((size - 1) * stride + k + draw(st.integers(0, stride - 1)))
    # Larger ones crash XNNPACK, and are made smaller before it sees them.
    strides = {name: min(stride, size) for (name, stride), size in zip(strides.items(), large, strict=True)}
    stated = options("TransposeConv", padding=padding, fusedActivationFunction=draw(_ACTIVATION), **strides)
    weights = fixed(draw, Given((made, *window, taken)))
    shape = ints(rows, *large, made)
    return Case(stated, (shape, weights, Given((rows, *sizes, taken)), *_bias(draw, made)))


def _fully_connected(draw: Draw) -> Case:
    shape, made = a_shape(draw, 2), draw(_SMALL)
    keep = draw(st.booleans())
    taken = shape[-1] if keep or draw(st.booleans()) else int(np.prod(shape[1:]))
    stated = options("FullyConnected", keepNumDims=keep, fusedActivationFunction=draw(_ACTIVATION))
    bias = _bias(draw, made) or [None]
    return Case(stated, (Given(shape), fixed(draw, Given((made, taken))), *bias))


def _batch_matmul(draw: Draw) -> Case:
    a, b, c = (draw(_SMALL) for _ in range(3))
    lead = a_shape(draw, 0, 2)
    adj_x, adj_y = draw(st.booleans()), draw(st.booleans())
    # With x transposed and y broadcast the interpreter's own kernel (not XNNPACK's) reads memory that nobody wrote.
    other = lead if adj_x else tuple(draw(st.sampled_from([1, size])) for size in lead)
    left, right = (Given((*lead, b, a) if adj_x else (*lead, a, b)), Given((*other, c, b) if adj_y else (*other, b, c)))
    fed = draw(st.booleans())
    operands = (left, either(draw, right)) if fed else (either(draw, left), right)
    return Case(options("BatchMatMul", adjX=adj_x, adjY=adj_y), operands)


def _pool(draw: Draw) -> Case:
    height, width = draw(_SMALL), draw(_SMALL)
    stated = options(
        "Pool2D",
        padding=draw(st.sampled_from([_SAME, _VALID])),
        filterHeight=height,
        filterWidth=width,
        fusedActivationFunction=draw(_ACTIVATION),
        **_strides(draw),
    )
    return Case(stated, (Given((draw(st.integers(1, 2)), *_sizes(draw, height, width), draw(_SMALL))),))


def _local_response_normalization(draw: Draw) -> Case:
    stated = options("LocalResponseNormalization", radius=draw(_SMALL), bias=1.5, alpha=0.3, beta=0.75)
    return Case(stated, (Given((1, 2, 2, draw(st.integers(1, 6)))),))


def _resize(kind: str) -> Maker:
    def make(draw: Draw) -> Case:
        corners, centers = draw(st.sampled_from([(False, False), (True, False), (False, True)]))
        size = st.integers(1, 7)
        x = Given((draw(st.integers(1, 2)), draw(size), draw(size), 2))
        return Case(options(kind, alignCorners=corners, halfPixelCenters=centers), (x, ints(draw(size), draw(size))))

    return make


def _space_to_depth(draw: Draw) -> Case:
    block, (rows, height, width) = draw(st.integers(2, 3)), (draw(_SMALL) for _ in range(3))
    x = Given((rows, height * block, width * block, draw(_SMALL)))
    return Case(options("SpaceToDepth", blockSize=block), (x,))


def _depth_to_space(draw: Draw) -> Case:
    block, (rows, height, width) = draw(st.integers(2, 3)), (draw(_SMALL) for _ in range(3))
    x = Given((rows, height, width, draw(_SMALL) * block * block))
    return Case(options("DepthToSpace", blockSize=block), (x,))


def _space_to_batch_nd(draw: Draw) -> Case:
    blocks, before = [draw(_SMALL), draw(_SMALL)], [draw(st.integers(0, 2)), draw(st.integers(0, 2))]
    sizes = [draw(st.integers(1, 5)), draw(st.integers(1, 5))]
    paddings = [[a, -(a + size) % block] for a, size, block in zip(before, sizes, blocks, strict=True)]
    x = Given((draw(st.integers(1, 2)), *sizes, 2))
    return Case(options("SpaceToBatchND"), (x, ints(*blocks), ints(*paddings)))


def _batch_to_space_nd(draw: Draw) -> Case:
    blocks, sizes = [draw(_SMALL), draw(_SMALL)], [draw(_SMALL), draw(_SMALL)]
    crops = [[draw(st.integers(0, block - 1)), 0] for block in blocks]
    x = Given((draw(st.integers(1, 2)) * blocks[0] * blocks[1], *sizes, 2))
    return Case(options("BatchToSpaceND"), (x, ints(*blocks), ints(*crops)))


CASES: dict[str, Maker] = {
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "TRANSPOSE_CONV": _transpose_conv,
    "FULLY_CONNECTED": _fully_connected,
    "BATCH_MATMUL": _batch_matmul,
    "AVERAGE_POOL_2D": _pool,
    "MAX_POOL_2D": _pool,
    "L2_POOL_2D": _pool,
    "LOCAL_RESPONSE_NORMALIZATION": _local_response_normalization,
    "RESIZE_BILINEAR": _resize("ResizeBilinear"),
    "RESIZE_NEAREST_NEIGHBOR": _resize("ResizeNearestNeighbor"),
    "SPACE_TO_DEPTH": _space_to_depth,
    "DEPTH_TO_SPACE": _depth_to_space,
    "SPACE_TO_BATCH_ND": _space_to_batch_nd,
    "BATCH_TO_SPACE_ND": _batch_to_space_nd,
}
