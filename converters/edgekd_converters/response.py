"""Local response normalisation (AlexNet, GoogLeNet) as plain ops: it has no integer kernel anywhere."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekd_converters.graph import Graph, Op
from edgekd_converters.rewrite import Draft

_BETAS = {0.5: (1, 0), 0.75: (1, 1), 1.0: (2, 0)}
"""Exponent → how often 1/√s and how often 1/√√s make s^-exponent."""


def plain_response(draft: Draft, graph: Graph, op: Op) -> bool:
    """x · s^-β for s = bias + α · Σ x² over neighbouring channels, ``(b, h, w, c)``.

    The sum with its bias is a 1×1 convolution; of all powers, only the inverse square root has kernels in both of the
    device's runtimes. False where s may reach 0 or β is a rarer one.
    """
    options, source = op.options, op.inputs[0]
    beta = round(float(options.beta), 4)
    if beta not in _BETAS or options.bias <= 0 or options.alpha < 0:
        return False
    channels = np.arange(source.shape[3])
    near = np.abs(channels[:, None] - channels) <= options.radius
    weights = (options.alpha * near)[:, None, None].astype(np.float32)
    bias = np.full(len(channels), options.bias, np.float32)

    def product(one: int, other: int) -> int:
        return draft.call("MUL", [one, other], source.shape, schema.MulOptionsT())

    def inverse_root(of: int) -> int:
        return draft.call("RSQRT", [of], source.shape)

    convolution = schema.Conv2DOptionsT()
    convolution.strideH = convolution.strideW = 1
    squares = product(source.index, source.index)
    operands = [squares, draft.constant(weights), draft.constant(bias)]
    sums = draft.call("CONV_2D", operands, source.shape, convolution)
    root = inverse_root(sums)
    halves, quarters = _BETAS[beta]
    factors = [root] * halves + ([inverse_root(product(sums, root))] if quarters else [])
    made = source.index
    for factor in factors[:-1]:
        made = product(made, factor)
    draft.write("MUL", [made, factors[-1]], [op.outputs[0].index], schema.MulOptionsT())
    return True
