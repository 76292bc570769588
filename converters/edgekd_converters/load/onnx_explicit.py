"""What ONNX lets a node leave out, said outright: converters read some of it wrongly or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from edgekd_converters.load.onnx_edit import copied, set_nodes
from edgekd_converters.load.onnx_file import opset_of

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_WINDOWS = ("Conv", "MaxPool", "AveragePool", "LpPool")
_END = np.iinfo(np.int32).max
_Shapes = dict[str, tuple[int, ...]]


def explicit(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with kernel sizes, paddings and reduced axes in place, as far as sizes of inner results are known.

    Forms of nodes that TensorFlow, or onnx2tf's way to it, does not have become several nodes.
    """
    model = copied(model)
    shapes = _shapes(model.graph)
    opset = opset_of(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        _name_kernel(node, shapes)
        _name_padding(node, shapes)
        _name_axes(node, shapes, opset, model.graph)
        parts = _strided_after(node, model.graph)
        nodes += [part for one in parts for part in _last_by_reversing(one, shapes, model.graph)]
    set_nodes(model.graph, nodes)
    return model


def _shapes(graph: onnx.GraphProto) -> _Shapes:
    """Of all tensors whose every size is known."""
    shapes: _Shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.output, *graph.value_info):
        kind = value.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.shape.dim]
        if kind.HasField("shape") and min(sizes, default=0) >= 0:
            shapes[value.name] = tuple(sizes)
    return shapes


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _replace(node: onnx.NodeProto, drop: str, **values: Any) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name not in (drop, *values)]
    made = [onnx.helper.make_attribute(name, value) for name, value in values.items()]
    whole = onnx.NodeProto(attribute=[*kept, *made])
    del node.attribute[:]
    node.attribute.extend(whole.attribute)


def _name_kernel(node: onnx.NodeProto, shapes: _Shapes) -> None:
    if node.op_type in _CONVOLUTIONS and node.input[1] in shapes and "kernel_shape" not in _attributes(node):
        _replace(node, "", kernel_shape=shapes[node.input[1]][2:])


def _name_padding(node: onnx.NodeProto, shapes: _Shapes) -> None:
    given = _attributes(node)
    how, sizes = given.get("auto_pad", b""), shapes.get(node.input[0]) if node.input else None
    if node.op_type not in _WINDOWS or how not in (b"SAME_UPPER", b"SAME_LOWER") or not sizes:
        return
    kernel = given.get("kernel_shape", [])
    ones = [1] * len(kernel)
    strides, dilations = given.get("strides", ones), given.get("dilations", ones)
    totals = [
        max((-(-size // stride) - 1) * stride + (width - 1) * dilation + 1 - size, 0)
        for size, width, stride, dilation in zip(sizes[2:], kernel, strides, dilations, strict=True)
    ]
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    _replace(node, "auto_pad", pads=[*less, *more] if how == b"SAME_UPPER" else [*more, *less])


def _name_axes(node: onnx.NodeProto, shapes: _Shapes, opset: int, graph: onnx.GraphProto) -> None:
    """A reduction without axes goes over all of them."""
    given = _attributes(node)
    absent = len(node.input) < 2 or not node.input[1]
    if not node.op_type.startswith("Reduce") or "axes" in given or not absent or given.get("noop_with_empty_axes"):
        return
    if node.input[0] in shapes:
        axes = list(range(len(shapes[node.input[0]])))
        if opset >= (13 if node.op_type == "ReduceSum" else 18):
            node.input[:] = [node.input[0], _constant(graph, node, "axes", axes)]
        else:
            _replace(node, "", axes=axes)


def _strided_after(node: onnx.NodeProto, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """A convolution both dilated and strided, which TensorFlow refuses, as a dilated one of whose results some stay."""
    given = _attributes(node)
    strides = given.get("strides", [])
    if node.op_type != "Conv" or max(strides, default=1) < 2 or max(given.get("dilations", [1])) < 2:
        return [node]
    made, dense = node.output[0], f"{node.output[0]}_dense"
    _replace(node, "strides")
    node.output[0] = dense
    count = len(strides)
    parts = {"starts": [0] * count, "ends": [_END] * count, "axes": range(2, 2 + count), "steps": strides}
    names = [_constant(graph, node, name, values) for name, values in parts.items()]
    return [node, onnx.helper.make_node("Slice", [dense, *names], [made], f"{node.name}_strides")]


def _last_by_reversing(node: onnx.NodeProto, shapes: _Shapes, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Of equal extremes the last: that is the first of the reversed axis. onnx2tf fails at such nodes."""
    given = _attributes(node)
    if node.op_type not in ("ArgMax", "ArgMin") or not given.get("select_last_index") or node.input[0] not in shapes:
        return [node]
    axis, made = given.get("axis", 0), node.output[0]
    size, turned, found = shapes[node.input[0]][axis], f"{made}_turned", f"{made}_found"
    order = _constant(graph, node, "order", range(size)[::-1])
    last = _constant(graph, node, "last", [size - 1])
    make = onnx.helper.make_node
    parts = [make("Gather", [node.input[0], order], [turned], f"{node.name}_turned", axis=axis), node]
    _replace(node, "select_last_index")
    node.input[0], node.output[0] = turned, found
    return [*parts, make("Sub", [last, found], [made], f"{node.name}_last")]


def _constant(graph: onnx.GraphProto, node: onnx.NodeProto, name: str, values: Sequence[int]) -> str:
    label = f"{node.output[0]}_{name}"
    graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), label))
    return label
