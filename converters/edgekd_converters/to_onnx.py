"""A float32 graph → ONNX, op by op along the table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgekd_converters.errors import ConverterError, UnsupportedOpError, one_line
from edgekd_converters.graph import Graph, Tensor
from edgekd_converters.ops.nodes.common import Node, Nodes, activate
from edgekd_converters.ops.table import TABLE

_OPSET, _IR = 18, 8
_BATCH = "batch"
_MOST_BYTES = (1 << 31) - (1 << 20)  # protobuf's limit


def write_onnx(graph: Graph, layouts: Mapping[str, tuple[int, ...]] | None = None, *, dynamic: bool = False) -> bytes:
    """The graph under its public names, as the bytes of an ``.onnx`` file.

    Args:
        layouts: for an input or output whose public axes have another order, the permutation from it to the graph's.
        dynamic: leave the batch open. Whether the graph computes each row for itself then is for the caller to check.

    Raises ``UnsupportedOpError`` naming the ops that cannot be written.
    """
    if unknown := sorted({op.name for op in graph.main if op.name not in TABLE}):
        raise UnsupportedOpError(f"no way is known to write these ops in ONNX: {', '.join(unknown)}")
    by_name = {tensor.name: tensor for tensor in graph.tensors}
    inputs = {name: by_name[tensor] for name, tensor in graph.signature.inputs.items()}
    outputs = {name: by_name[tensor] for name, tensor in graph.signature.outputs.items()}
    layouts = layouts or {}
    nodes = Nodes(prefix=_prefix({*inputs, *outputs}))
    values = _write_ops(nodes, graph, {t.index: _entered(nodes, name, layouts) for name, t in inputs.items()})
    made = {name: _left(nodes, values[tensor.index], layouts.get(name)) for name, tensor in outputs.items()}
    kept = _named(_needed(nodes, set(made.values())), made, set(nodes.constants) | set(inputs))
    return _serialised(
        helper.make_graph(
            [_node(node) for node in kept],
            "edgekd",
            [_port(name, tensor, layouts.get(name), dynamic) for name, tensor in inputs.items()],
            [_port(name, tensor, layouts.get(name), dynamic) for name, tensor in outputs.items()],
            [numpy_helper.from_array(nodes.constants[name], name) for name in _read(kept, nodes)],
        )
    )


def _prefix(public: set[str]) -> str:
    """Something that no public name begins with."""
    prefix = "_"
    while any(name.startswith(prefix) for name in public):
        prefix += "_"
    return prefix


def _entered(nodes: Nodes, name: str, layouts: Mapping[str, tuple[int, ...]]) -> str:
    return nodes.permute(name, layouts[name]) if name in layouts else name


def _left(nodes: Nodes, name: str, layout: tuple[int, ...] | None) -> str:
    """From the graph's order of axes to the public one."""
    return name if layout is None else nodes.permute(name, np.argsort(layout).tolist())


def _write_ops(nodes: Nodes, graph: Graph, values: dict[int, str]) -> dict[int, str]:
    """Tensor index → name, for all tensors."""
    for op in graph.main:
        for tensor in op.inputs:
            if tensor.index not in values and tensor.is_constant:
                values[tensor.index] = nodes.constant(graph.constant(tensor))
        for output in op.outputs:
            if output.is_dynamic:
                raise UnsupportedOpError(
                    f"{op}: its output's size is known at run time only; it cannot be written in ONNX"
                )
        names = ["" if slot is None else values.get(slot.index, "") for slot in op.slots]
        made = [activate(nodes, op, name) for name in TABLE[op.name].nodes(nodes, op, names)]
        values |= {tensor.index: name for tensor, name in zip(op.outputs, made, strict=True)}
    return values


def _needed(nodes: Nodes, wanted: set[str]) -> list[Node]:
    """Those that lead to a wanted name; transposes that others have made superfluous stay behind."""
    kept = []
    for node in reversed(nodes.nodes):
        if wanted & set(node.outputs):
            kept.append(node)
            wanted = wanted | set(node.inputs)
    return kept[::-1]


def _named(kept: list[Node], made: Mapping[str, str], fixed: set[str]) -> list[Node]:
    """Give outputs their public names; one that is an input, a constant, or another output too gets a copy."""
    renamed: dict[str, str] = {}
    copies = []
    for public, name in made.items():
        if name in fixed or name in renamed:
            copies.append(Node("Identity", (renamed.get(name, name),), (public,), {}))
        else:
            renamed[name] = public
    named = [
        Node(
            node.kind,
            tuple(renamed.get(name, name) for name in node.inputs),
            tuple(renamed.get(name, name) for name in node.outputs),
            node.attributes,
        )
        for node in kept
    ]
    return [*named, *copies]


def _read(kept: list[Node], nodes: Nodes) -> list[str]:
    read = {name for node in kept for name in node.inputs}
    return [name for name in nodes.constants if name in read]


def _node(node: Node) -> Any:
    attributes = {key: _attribute(value) for key, value in node.attributes.items()}
    return helper.make_node(node.kind, node.inputs, node.outputs, node.outputs[0], **attributes)


def _attribute(value: Any) -> Any:
    if isinstance(value, np.dtype):
        return helper.np_dtype_to_tensor_dtype(value)
    if isinstance(value, np.ndarray):
        return numpy_helper.from_array(value)
    return int(value) if isinstance(value, bool) else value


def _port(name: str, tensor: Tensor, layout: tuple[int, ...] | None, dynamic: bool) -> Any:
    sizes: list[int | str] = list(tensor.shape)
    if layout is not None:
        sizes = [sizes[axis] for axis in np.argsort(layout)]
    if dynamic:
        sizes[0] = _BATCH
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype.lower())), sizes)


def _serialised(graph: Any) -> bytes:
    model = helper.make_model(
        graph, producer_name="edgekd", opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR
    )
    if model.ByteSize() > _MOST_BYTES:
        raise ConverterError(f"the model has {model.ByteSize():,} bytes, more than one ONNX file can hold")
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise ConverterError(f"the ONNX that was written is not valid: {one_line(error)}") from error
    content: bytes = model.SerializeToString()
    return content
