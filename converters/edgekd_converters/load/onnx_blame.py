"""Which node of an ONNX model is at fault, and what helps."""

from __future__ import annotations

import re
from collections.abc import Mapping

import onnx

_POST = "export the model without its post-processing and do that on the device's CPU"
_UNROLL = "export it with a fixed number of steps, so that the loop is unrolled"
_TEXT = "take the text preprocessing out of the model"
_REMEDIES = {
    **dict.fromkeys(("NonMaxSuppression", "NonZero", "Unique", "Compress"), _POST),
    **dict.fromkeys(("Loop", "Scan"), _UNROLL),
    **dict.fromkeys(("StringNormalizer", "TfIdfVectorizer"), _TEXT),
    "If": "export the branch that is used",
}
_SIZED_BY_VALUES = ("NonMaxSuppression", "NonZero", "Unique", "Compress", "Loop")
_UNKNOWN = re.compile(r"(\S*?):?(\w+)\(-?\d+\) is not a registered function/op")
_MISSING = re.compile(r"Could not find an implementation for (\w+)\((\d+)\) node with name '([^']*)'")


def place(node: onnx.NodeProto | None, names: Mapping[str, str] | None = None) -> str:
    """``names``: node name → what the user knows it by."""
    if node is None:
        return "the model"
    return f"ONNX op {node.op_type} (node {(names or {}).get(node.name) or node.name or node.output[0]!r})"


def remedy(node: onnx.NodeProto | None, otherwise: str) -> str:
    return _REMEDIES.get(node.op_type if node else "", otherwise)


def unknown_op(model: onnx.ModelProto, said: str) -> str | None:
    """Of a complaint by onnxruntime that is about an op: what the op is, where, and what helps."""
    if found := _UNKNOWN.search(said):
        domain, op = found[1].rpartition(" ")[2], found[2]
        node = next((node for node in model.graph.node if node.op_type == op), None)
        origin = f"no op of domain {domain!r} that is known here" if domain not in ("", "ai.onnx") else "no op of ONNX"
        return f"{place(node)} is {origin}; export the model with ONNX's own ops in its place"
    if found := _MISSING.search(said):
        node = next((node for node in model.graph.node if (node.op_type, node.name) == (found[1], found[3])), None)
        return f"onnxruntime has no {found[1]} of opset {found[2]}, {place(node)}; export the model with opset 17"
    return None


def sized_by_values(model: onnx.ModelProto, output: str) -> str:
    """What is to be said of an output whose size is not known before the values are."""
    makers = {name: node for node in model.graph.node for name in node.output}
    waiting, seen = [output], {output}
    while waiting:
        node = makers.get(waiting.pop(0))
        if node is not None and node.op_type in _SIZED_BY_VALUES:
            return f"output {output!r} has a size that depends on the values, by {place(node)}; {remedy(node, '')}"
        new = [name for name in (node.input if node is not None else ()) if name not in seen]
        seen |= set(new)
        waiting += new
    return f"output {output!r} has a size that depends on the values; cut the model before it"
