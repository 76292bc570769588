"""Padding before a maximum, as exporters write it: with the least float there is, which no int8 scale can hold."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekd_converters.graph import Graph, Op, Tensor
from edgekd_converters.rewrite import Draft

_LEAST = -1e30
_SYMMETRIC = 1
_ACTIVATION = schema.ActivationFunctionType


def bounded_pad(draft: Draft, graph: Graph, op: Op) -> bool:
    """The same maxima: zeros around what is never negative; else the edge mirrored, which every window holds anyway.

    A window that reaches out by p ≤ k / 2 of its k values covers, inside, the p values that the mirror repeats.
    False for any other PADV2.
    """
    source, pads, value = op.inputs
    if not pads.is_constant or not value.is_constant or value.dtype != "FLOAT32" or graph.constant(value) > _LEAST:
        return False
    users = [other for other in graph.main if op.outputs[0] in other.inputs]
    widths = graph.constant(pads)
    if op.outputs[0] in graph.outputs or not users or any(not _takes(user, widths) for user in users):
        return False
    if _never_negative(graph, source):
        draft.write("PAD", [source.index, pads.index], [op.outputs[0].index], schema.PadOptionsT())
        return True
    if (widths > np.array(source.shape)[:, None]).any():
        return False
    mirror = schema.MirrorPadOptionsT()
    mirror.mode = _SYMMETRIC
    draft.write("MIRROR_PAD", [source.index, pads.index], [op.outputs[0].index], mirror)
    return True


def _takes(user: Op, widths: np.ndarray[tuple[int, ...], np.dtype[np.int32]]) -> bool:
    if user.name != "MAX_POOL_2D" or user.options.padding != schema.Padding.VALID:
        return False
    window = np.array([1, user.options.filterHeight, user.options.filterWidth, 1])
    return bool((2 * widths <= window[:, None]).all() and not widths[[0, 3]].any())


def _never_negative(graph: Graph, tensor: Tensor) -> bool:
    maker = next((op for op in graph.main if tensor in op.outputs), None)
    fused = maker and getattr(maker.options, "fusedActivationFunction", _ACTIVATION.NONE)
    return maker is not None and (
        maker.name in ("RELU", "RELU6", "LOGISTIC", "SOFTMAX") or fused in (_ACTIVATION.RELU, _ACTIVATION.RELU6)
    )
