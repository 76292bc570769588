"""Transposed convolutions that step farther than their output reaches, which makes XNNPACK write where it must not.

For each phase of the stride, ``xnn_indirection_init_subconv2d`` counts ``output size - phase`` positions, unsigned:
where the stride is larger than the output by two, it wraps around, and the process crashes or its heap is overwritten
(seen with LiteRT 2.1, in float; XNNPACK's integer deconvolutions are set up by the same function).
"""

from __future__ import annotations

import copy

from edgekd_converters.graph import Graph, Op
from edgekd_converters.rewrite import Draft, rewritten


def fit_strides(graph: Graph) -> Graph:
    """The same function, safe to run; the very same graph if it was."""
    return rewritten(graph, {"TRANSPOSE_CONV": fitting_strides})


def fitting_strides(draft: Draft, graph: Graph, op: Op) -> bool:
    """Strides no larger than the output. Where one was, the input has one position there, and no step is made."""
    _, height, width, _ = op.outputs[0].shape
    options = copy.copy(op.options)
    options.strideH, options.strideW = (
        min(stride, size) if size > 0 else stride  # a size that is not known yet
        for stride, size in ((options.strideH, height), (options.strideW, width))
    )
    if (options.strideH, options.strideW) == (op.options.strideH, op.options.strideW):
        return False
    draft.keep(op, options)
    return True
