"""Small ONNX models, written out node by node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Sizes = Sequence[int | str | None] | None
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def value(name: str, sizes: Sizes, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, sizes)


def write(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: dict[str, npt.NDArray[Any]] | None = None,
    *,
    opset: int = 17,
    ir: int = 9,
) -> Path:
    constants = [numpy_helper.from_array(np.asarray(array), name) for name, array in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    path.write_bytes(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir).SerializeToString()
    )
    return path


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """``inputs`` and ``outputs``: names with blanks between them. The node is named after its first output."""
    made = outputs.split()
    return helper.make_node(op, inputs.split(), made, name=f"/{made[0]}/{op}", **attributes)


def weights(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.3).astype(np.float32)


def image_net(path: Path, sizes: Sizes = (1, 3, 8, 8)) -> Path:
    """NCHW in, one output as an image and one as logits, in an order that is not alphabetical."""
    nodes = [
        node("Conv", "image w b", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "zz_map"),
        node("GlobalAveragePool", "zz_map", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f d e", "logits"),
    ]
    constants = {"w": weights(4, 3, 3, 3), "b": weights(4), "d": weights(4, 5), "e": weights(5)}
    outputs = [value("zz_map", None), value("logits", None)]
    return write(path, nodes, [value("image", sizes)], outputs, constants)
