"""Pooling over depth, height and width as two poolings of two axes each: TFLite has none of three.

The largest of a box is the largest over its depth of the largest of its slices; the mean likewise, where padding counts
and where it does not, since what lies inside is a box as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgekd_converters.load.onnx_edit import copied, set_nodes
from edgekd_converters.load.onnx_prepare import inferred

_POOLS = ("MaxPool", "AveragePool")
_PLAIN = {"auto_pad": b"NOTSET", "ceil_mode": 0, "storage_order": 0}


def with_flat_pools(model: onnx.ModelProto) -> onnx.ModelProto:
    """Paddings and the sizes of inner results have to be known, see ``explicit`` and ``inferred``."""
    sizes = {value.name: value.type.tensor_type.shape.dim for value in (*model.graph.input, *model.graph.value_info)}
    shapes = {name: tuple(dim.dim_value for dim in dims) for name, dims in sizes.items()}
    if not any(_fits(node, shapes.get(node.input[0], ())) for node in model.graph.node if node.input):
        return model
    model = copied(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        shape = shapes.get(node.input[0], ()) if node.input else ()
        nodes += _flat(node, shape, model.graph) if _fits(node, shape) else [node]
    set_nodes(model.graph, nodes)
    return inferred(model)


def _stated(node: onnx.NodeProto) -> dict[str, Any]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def _fits(node: onnx.NodeProto, shape: tuple[int, ...]) -> bool:
    if node.op_type not in _POOLS or len(shape) != 5 or not all(shape) or len(node.output) > 1:
        return False
    stated = _stated(node)
    plain = all(stated.get(name, usual) in (usual, b"") for name, usual in _PLAIN.items())
    return plain and max(stated.get("dilations", [1])) == 1


def _flat(node: onnx.NodeProto, shape: tuple[int, ...], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    stated, (name,), label = _stated(node), node.output, node.name or node.output[0]
    kernel, strides = list(stated["kernel_shape"]), list(stated.get("strides", [1] * 3))
    pads = list(stated.get("pads", [0] * 6))
    made = [
        (size + pads[i] + pads[i + 3] - kernel[i]) // strides[i] + 1
        for i, size in enumerate(shape[2:])  # as pooling without ceil_mode has it
    ]
    rows, channels, depth, height, width = shape
    counted = {"count_include_pad": stated["count_include_pad"]} if "count_include_pad" in stated else {}

    def reshape(source: str, target: str, sizes: Sequence[int]) -> onnx.NodeProto:
        graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), f"{target}/sizes"))
        return onnx.helper.make_node("Reshape", [source, f"{target}/sizes"], [target], f"{label}/{target}")

    def pool(source: str, target: str, axes: Sequence[int | None]) -> onnx.NodeProto:
        """``axes``: of the three; None for one along which nothing is pooled."""
        return onnx.helper.make_node(
            node.op_type,
            [source],
            [target],
            f"{label}/{target}",
            kernel_shape=[1 if axis is None else kernel[axis] for axis in axes],
            strides=[1 if axis is None else strides[axis] for axis in axes],
            pads=[0 if axis is None else pads[axis + end] for end in (0, 3) for axis in axes],
            **counted,
        )

    return [
        reshape(node.input[0], f"{name}/slices", [rows, channels * depth, height, width]),
        pool(f"{name}/slices", f"{name}/pooled", [1, 2]),
        reshape(f"{name}/pooled", f"{name}/columns", [rows, channels, depth, made[1] * made[2]]),
        pool(f"{name}/columns", f"{name}/deep", [0, None]),
        reshape(f"{name}/deep", name, [rows, channels, *made]),
    ]
