"""GELU as exporters write it, five nodes around an Erf, made one again: TFLite has a GELU and no Erf."""

from __future__ import annotations

import math

import onnx
from onnx import numpy_helper

from edgekd_converters.load.onnx_edit import set_nodes
from edgekd_converters.load.onnx_prepare import inferred, of_opset

_OPSET = 20
"""The first that has a Gelu."""


def with_gelus(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with ``0.5 · x · (1 + erf(x / √2))``, its factors in any order, as one Gelu."""
    newer = of_opset(model, _OPSET) if _found(model) else model
    if newer is model:
        return model
    found = _found(newer)  # in the new model's own nodes
    for last, source in found:
        last.CopyFrom(onnx.helper.make_node("Gelu", [source], list(last.output), last.name))
    _drop_unused(newer.graph)
    return inferred(newer)


def _found(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, str]]:
    """The last node of every GELU, and its input."""
    finder = _Finder(model.graph)
    return [gelu for node in model.graph.node if node.op_type == "Erf" and (gelu := finder.around(node))]


class _Finder:
    """Who makes and who uses what, and the numbers that are known."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._maker = {name: node for node in graph.node for name in node.output}
        self._users: dict[str, list[onnx.NodeProto]] = {value.name: [] for value in graph.output}
        for node in graph.node:
            for name in node.input:
                self._users.setdefault(name, []).append(node)
        self._outputs = {value.name for value in graph.output}
        stored = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                stored[node.output[0]] = node.attribute[0].t
        self._scalars = {
            name: float(numpy_helper.to_array(tensor).item())
            for name, tensor in stored.items()
            if math.prod(tensor.dims) == 1
        }

    def around(self, erf: onnx.NodeProto) -> tuple[onnx.NodeProto, str] | None:
        """The last node of the GELU that this Erf belongs to, and the GELU's input."""
        root = self._maker.get(erf.input[0])
        source = root and (
            self._scaled(root, "Div", math.sqrt(2)) or self._scaled(root, "Mul", math.sqrt(0.5))
        )  # the Erf's argument is x / √2
        plus_one = self._only_user(erf)
        if not source or plus_one is None or not self._scaled(plus_one, "Add", 1.0):
            return None
        last, halved, multiplied = plus_one, False, False
        while not (halved and multiplied):
            node = self._only_user(last)
            if node is None or node.op_type != "Mul":
                return None
            other = next((name for name in node.input if name != last.output[0]), "")
            if self._halves(other, source) and not (halved or multiplied):
                halved = multiplied = True
            elif self._is(other, 0.5) and not halved:
                halved = True
            elif other == source and not multiplied:
                multiplied = True
            else:
                return None
            last = node
        return last, source

    def _halves(self, name: str, source: str) -> bool:
        maker = self._maker.get(name)
        return maker is not None and self._scaled(maker, "Mul", 0.5) == source

    def _scaled(self, node: onnx.NodeProto, op: str, number: float) -> str | None:
        """The other operand of ``op`` with this number."""
        if node.op_type != op:
            return None
        pairs = [(node.input[0], node.input[1])] + ([] if op == "Div" else [(node.input[1], node.input[0])])
        return next((name for name, constant in pairs if self._is(constant, number)), None)

    def _is(self, name: str, number: float) -> bool:
        return math.isclose(self._scalars.get(name, math.nan), number, rel_tol=1e-4)

    def _only_user(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        users = self._users.get(node.output[0], [])
        return users[0] if len(users) == 1 and node.output[0] not in self._outputs else None


def _drop_unused(graph: onnx.GraphProto) -> None:
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output) or any(a.type == onnx.AttributeProto.GRAPH for a in node.attribute):
            needed |= set(node.input)
            kept.append(node)
    set_nodes(graph, kept[::-1])
