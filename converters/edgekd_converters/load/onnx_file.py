"""An ``.onnx`` file as a protobuf, read without trust: nothing is allocated or opened because the file says so."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import numpy_helper

from edgekd_converters.errors import LoadError, SourceNotFoundError

MOST_BYTES = (1 << 31) - (1 << 20)
"""Protobuf's own limit, less room for what preparing a model adds."""
MOST_FILLED = 1 << 30

_BITS = {
    **dict.fromkeys(("UINT8", "INT8", "BOOL", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ"), 8),
    **dict.fromkeys(("UINT16", "INT16", "FLOAT16", "BFLOAT16"), 16),
    **dict.fromkeys(("FLOAT", "INT32", "UINT32"), 32),
    **dict.fromkeys(("INT64", "UINT64", "DOUBLE", "COMPLEX64"), 64),
    **dict.fromkeys(("UINT4", "INT4", "FLOAT4E2M1"), 4),
    "COMPLEX128": 128,
}


def read_model(path: Path) -> onnx.ModelProto:
    """The model with all its weights inside it, those of files beside it included.

    Raises ``SourceNotFoundError``, or ``LoadError`` for a file that is not ONNX, is damaged, or claims what it has not.
    """
    if not path.is_file():
        raise SourceNotFoundError(f"{path}: no such file")
    size = path.stat().st_size
    if not size:
        raise LoadError(f"{path}: the file is empty")
    if size > MOST_BYTES:
        raise LoadError(f"{path}: {size:,} bytes; an ONNX file holds at most {MOST_BYTES:,}")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError has a home in every version, none of them typed
        raise LoadError(f"{path}: not an ONNX model, or cut short; export it again") from error
    if not model.ir_version or not model.graph.output:
        raise LoadError(f"{path}: not an ONNX model: it holds no graph with outputs")
    try:
        _settle_tensors(model, path.parent, size)
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from error
    return model


def filled_bytes(model: onnx.ModelProto) -> int:
    """What constants take that the file only gives the sizes of. Raises ``LoadError`` where they are absurd."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    total = 0
    for node in model.graph.node:
        shape = stored.get(node.input[0]) if node.op_type == "ConstantOfShape" else None
        if shape is not None:
            total += 4 * math.prod(int(size) for size in numpy_helper.to_array(shape).ravel())
    if total > MOST_FILLED:
        raise LoadError(
            f"it fills {total:,} bytes with constants; at most {MOST_FILLED:,} can be made of so small a file"
        )
    return total


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own ops, whose domain has two names."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph and all those inside its nodes."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for attribute in (attribute for node in graph.node for attribute in node.attribute):
            waiting += [*attribute.graphs, *([attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else [])]


def node_lists(model: onnx.ModelProto) -> Iterator[list[onnx.NodeProto]]:
    """The nodes of every graph and of every function."""
    for graph in graphs(model):
        yield list(graph.node)
    for function in model.functions:
        yield list(function.node)


def constants(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All dense tensors that are stored in the model."""
    for graph in graphs(model):
        yield from graph.initializer
    for attribute in (attribute for nodes in node_lists(model) for node in nodes for attribute in node.attribute):
        yield from attribute.tensors
        if attribute.type == onnx.AttributeProto.TENSOR:
            yield attribute.t


def _settle_tensors(model: onnx.ModelProto, folder: Path, size: int) -> None:
    """Check every stored tensor against what it declares, and read in what stands in other files."""
    for tensor in constants(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            size += _declared_bytes(tensor)
            if size > MOST_BYTES:
                raise LoadError(f"the weights beside it need more than {MOST_BYTES:,} bytes, too much for one model")
            _read_external(tensor, folder)
        else:
            _check_size(tensor)
    for graph in graphs(model):
        if graph.sparse_initializer:
            name = graph.sparse_initializer[0].values.name
            raise LoadError(f"constant {name!r} is sparse; export the model with dense weights")


def _count(tensor: onnx.TensorProto) -> int:
    if any(size < 0 for size in tensor.dims):
        raise LoadError(f"constant {tensor.name!r} declares the sizes {list(tensor.dims)}")
    return math.prod(tensor.dims)


def _declared_bytes(tensor: onnx.TensorProto) -> int:
    bits = _BITS.get(_type_name(tensor))
    if bits is None:
        raise LoadError(f"constant {tensor.name!r} has the type {_type_name(tensor)}, which has no numbers")
    return (_count(tensor) * bits + 7) // 8


def _check_size(tensor: onnx.TensorProto) -> None:
    if tensor.HasField("raw_data"):
        declared, held, unit = _declared_bytes(tensor), len(tensor.raw_data), "bytes"
    else:
        name, declared, unit = _type_name(tensor), _count(tensor), "numbers"
        field = onnx.helper.tensor_dtype_to_field(tensor.data_type) if name in _FIELDS else ""
        held = len(getattr(tensor, field)) if field else declared
        if name.startswith("COMPLEX"):
            held //= 2
        elif _BITS.get(name) == 4:  # two in one
            declared = (declared + 1) // 2
    if declared != held:
        raise LoadError(f"constant {tensor.name!r} declares {declared:,} {unit} and holds {held:,}")


def _type_name(tensor: onnx.TensorProto) -> str:
    known = tensor.data_type in onnx.TensorProto.DataType.values()
    return str(onnx.TensorProto.DataType.Name(tensor.data_type)) if known else f"number {tensor.data_type}"


_FIELDS = {*_BITS, "STRING"}


def _read_external(tensor: onnx.TensorProto, folder: Path) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location, what = entries.get("location", ""), f"constant {tensor.name!r}"
    root = folder.resolve()
    path = (root / location).resolve()
    if not location or not path.is_relative_to(root) or path == root:
        raise LoadError(f"{what} points to {location!r}, outside the model's folder; such a file is not read")
    if not path.is_file():
        raise LoadError(f"{what} is stored in {location!r}, which is not there; put it beside the model")
    declared = _declared_bytes(tensor)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", declared))
    except ValueError as error:
        raise LoadError(f"{what} has a damaged reference to {location!r}") from error
    if length != declared or offset < 0 or offset + length > path.stat().st_size:
        raise LoadError(f"{what} declares {declared:,} bytes, which {location!r} does not hold at {offset:,}")
    with path.open("rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
