"""An ONNX model rewritten without changing what it computes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx
import onnx.inliner
import onnx.parser
from onnx import numpy_helper

from edgekd_converters.load.onnx_file import constants, graphs, node_lists, opset_of

_FLOAT = onnx.TensorProto.FLOAT
_OTHER_FLOATS = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
_TYPE_ATTRIBUTES = ("to", "dtype", "stash_type")
_DOMAIN = "edgekd"
_FORMULAS = {
    "Acos": "a = Sub (one, x) b = Add (one, x) c = Div (a, b) d = Sqrt (c) e = Atan (d) y = Div (e, half)",
    "Asin": "a = Mul (x, x) b = Sub (one, a) c = Sqrt (b) d = Div (x, c) y = Atan (d)",
    "Acosh": "a = Mul (x, x) b = Sub (a, one) c = Sqrt (b) d = Add (x, c) y = Log (d)",
    "Asinh": "s = Sign (x) p = Abs (x) a = Mul (x, x) b = Add (a, one) c = Sqrt (b) d = Add (p, c) e = Log (d)"
    " y = Mul (s, e)",
    "Atanh": "a = Add (one, x) b = Sub (one, x) c = Div (a, b) d = Log (c) y = Mul (d, half)",
    "Cosh": "n = Neg (x) a = Exp (x) b = Exp (n) c = Add (a, b) y = Mul (c, half)",
    "Sinh": "n = Neg (x) a = Exp (x) b = Exp (n) c = Sub (a, b) y = Mul (c, half)",
    "Softsign": "a = Abs (x) b = Add (a, one) y = Div (x, b)",
    "Tan": "s = Sin (x) c = Cos (x) y = Div (s, c)",
}
"""Ops that TFLite has not."""


def copied(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of its own."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def set_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """``nodes``: new ones, and some of the graph's own, which are copied before the graph drops them."""
    whole = onnx.GraphProto(node=nodes)
    del graph.node[:]
    graph.node.extend(whole.node)


def as_float32(model: onnx.ModelProto) -> set[str]:
    """Turn all arithmetic in other floats into float32, in place. What it was in; empty where nothing changed."""
    found = set()
    for tensor in constants(model):
        if tensor.data_type in _OTHER_FLOATS:
            found.add(tensor.data_type)
            value = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    for graph in graphs(model):
        for value_info in (*graph.input, *graph.output, *graph.value_info):
            kind = value_info.type.tensor_type
            if kind.elem_type in _OTHER_FLOATS:
                found.add(kind.elem_type)
                kind.elem_type = _FLOAT
    for attribute in (attribute for nodes in node_lists(model) for node in nodes for attribute in node.attribute):
        if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _OTHER_FLOATS:
            found.add(attribute.i)
            attribute.i = _FLOAT
    return {onnx.TensorProto.DataType.Name(kind).lower() for kind in found}


def drop_initialised_inputs(model: onnx.ModelProto) -> None:
    """Before IR version 4 every constant was listed as an input too; it is none."""
    known = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in known]
    del model.graph.input[:]
    model.graph.input.extend(inputs)


def with_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """The model for these input sizes alone; every other size is found out anew."""
    model = copied(model)
    for value in model.graph.input:
        _set_shape(value, shapes[value.name])
    del model.graph.value_info[:]
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    return model


def with_output_shapes(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """Outputs declared as large as a run has shown them to be."""
    model = copied(model)
    for value in model.graph.output:
        _set_shape(value, shapes[value.name])
    return model


def without_outputs(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The model with all outputs but these."""
    model, dropped = copied(model), set(names)
    outputs = [value for value in model.graph.output if value.name not in dropped]
    del model.graph.output[:]
    model.graph.output.extend(outputs)
    return model


def expanded(model: onnx.ModelProto, ops: Iterable[tuple[str, str]]) -> onnx.ModelProto:
    """Nodes of these ops (domain, op) replaced by the plain ops that ONNX defines them by, where it can."""
    model = copied(model)
    named = {value.name for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    for tensor in model.graph.initializer:  # the inliner looks for types there alone
        if tensor.name not in named:
            kind = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.value_info.append(kind)
    try:
        return onnx.inliner.inline_selected_functions(model, list(ops), inline_schema_functions=True)
    except Exception:  # it raises where an optional input is absent
        return model


def with_formulas(model: onnx.ModelProto) -> onnx.ModelProto:
    """Functions that TFLite has not, written out in those that it has."""
    wanted = {node.op_type for node in model.graph.node if node.op_type in _FORMULAS and not node.domain}
    if not wanted:
        return model
    model = copied(model)
    for node in model.graph.node:
        if node.op_type in wanted and not node.domain:
            node.domain = _DOMAIN
    model.opset_import.append(onnx.helper.make_opsetid(_DOMAIN, 1))
    for op in wanted:
        known = "one = Constant <value = float {1.0}> () half = Constant <value = float {0.5}> ()"
        head = f'<domain: "{_DOMAIN}", opset_import: ["" : {opset_of(model)}]> {op} (x) => (y)'
        model.functions.append(onnx.parser.parse_function(f"{head} {{ {known} {_FORMULAS[op]} }}"))
    return onnx.inliner.inline_local_functions(model)


def with_plain_names(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The same with names that every tool takes as they are, and node name → what it was.

    Inputs become ``input_0``, …, outputs ``output_0``, …
    """
    model = copied(model)
    tensors = {value.name: f"input_{i}" for i, value in enumerate(model.graph.input)}
    tensors |= {value.name: f"output_{i}" for i, value in enumerate(model.graph.output)}
    taken = set(tensors.values())
    nodes: dict[str, str] = {}
    for graph in graphs(model):
        for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
            value.name = _plain(value.name, tensors, taken)
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [_plain(name, tensors, taken) if name else "" for name in names]
            plain = f"{node.op_type}_{len(nodes)}"
            nodes[plain] = node.name or next((old for old, new in tensors.items() if new in node.output[:1]), "")
            node.name = plain
    return model, nodes


def _plain(name: str, known: dict[str, str], taken: set[str]) -> str:
    if name not in known:
        known[name] = candidate = f"t_{re.sub(r'[^A-Za-z0-9_]+', '_', name)}"
        while known[name] in taken:
            known[name] = f"{candidate}_{len(taken)}"
        taken.add(known[name])
    return known[name]


def _set_shape(value: onnx.ValueInfoProto, sizes: Sequence[int]) -> None:
    shape = value.type.tensor_type.shape
    shape.ClearField("dim")
    for size in sizes:
        shape.dim.add().dim_value = size
    value.type.tensor_type.shape.SetInParent()  # a scalar has a shape too
