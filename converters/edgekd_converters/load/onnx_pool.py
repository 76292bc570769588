"""Average pooling whose padding does not count, where all windows have as much of it: padding, plain pooling, a factor.

TFLite cannot say it. onnx2tf corrects the edges where they differ from the middle, and forgets to where they do not.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import onnx
from onnx import numpy_helper

from edgekd_converters.load.onnx_edit import copied, set_nodes
from edgekd_converters.load.onnx_file import opset_of
from edgekd_converters.load.onnx_prepare import inferred

_OPSET = 11
"""Pad takes its widths as an operand."""


def with_plain_pools(model: onnx.ModelProto) -> onnx.ModelProto:
    """Paddings and the sizes of inner results have to be known, see ``explicit`` and ``inferred``."""
    if opset_of(model) < _OPSET or not any(_is_padded(node) for node in model.graph.node):
        return model
    model = copied(model)
    sizes = {value.name: value.type.tensor_type.shape.dim for value in (*model.graph.input, *model.graph.value_info)}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        shape = tuple(dim.dim_value for dim in sizes.get(node.input[0], ())) if node.op_type == "AveragePool" else ()
        nodes += (_plain(node, shape, model.graph) if all(shape) else None) or [node]
    set_nodes(model.graph, nodes)
    return inferred(model)


def _is_padded(node: onnx.NodeProto) -> bool:
    return node.op_type == "AveragePool" and any(one.name == "pads" and any(one.ints) for one in node.attribute)


def _plain(node: onnx.NodeProto, shape: tuple[int, ...], graph: onnx.GraphProto) -> list[onnx.NodeProto] | None:
    """None for a pool that is plain already, too odd, or whose windows differ."""
    stated = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    kernel, pads = list(stated.get("kernel_shape", ())), list(stated.get("pads", ()))
    rank = len(kernel)
    odd = stated.get("ceil_mode") or stated.get("count_include_pad") or max(stated.get("dilations", [1])) > 1
    if not any(pads) or odd or len(shape) != rank + 2 or stated.get("auto_pad", b"NOTSET") not in (b"", b"NOTSET"):
        return None
    strides = list(stated.get("strides", [1] * rank))
    factors = _factors(shape[2:], kernel, strides, pads)
    if len(factors) != 1:
        return None
    (name,) = node.output
    widths = np.array([0, 0, *pads[:rank], 0, 0, *pads[rank:]], np.int64)
    graph.initializer.extend(
        [
            numpy_helper.from_array(widths, f"{name}/widths"),
            numpy_helper.from_array(np.array(factors.pop(), np.float32), f"{name}/factor"),
        ]
    )
    make = onnx.helper.make_node
    return [
        make("Pad", [node.input[0], f"{name}/widths"], [f"{name}/padded"], f"{node.name or name}/pad"),
        make("AveragePool", [f"{name}/padded"], [f"{name}/sums"], node.name, kernel_shape=kernel, strides=strides),
        make("Mul", [f"{name}/sums", f"{name}/factor"], [name], f"{node.name or name}/factor"),
    ]


def _factors(sizes: tuple[int, ...], kernel: list[int], strides: list[int], pads: list[int]) -> set[float]:
    """Size of the window over how much of it lies inside, of all windows."""
    rank, counts = len(kernel), []
    for size, window, step, before, after in zip(sizes, kernel, strides, pads[:rank], pads[rank:], strict=True):
        starts = range(-before, size + after - window + 1, step)
        counts.append({min(start + window, size) - max(start, 0) for start in starts})
    return {math.prod(kernel) / math.prod(inside) for inside in itertools.product(*counts)}
