"""What "int8" means here: no Flex op, no float arithmetic, no tensor whose size is known only at run time."""

from __future__ import annotations

from edgekd_converters.errors import NotIntegerError
from edgekd_converters.graph import Graph, Op

_FLOATS = frozenset({"FLOAT16", "BFLOAT16", "FLOAT32", "FLOAT64", "COMPLEX64", "COMPLEX128"})

# Ops whose output size hangs on the value of an operand: op → position of that operand.
_SIZE_OPERAND = {
    "RESHAPE": 1,
    "FILL": 0,
    "BROADCAST_TO": 1,
    "TILE": 1,
    "EXPAND_DIMS": 1,
    "RESIZE_BILINEAR": 1,
    "RESIZE_NEAREST_NEIGHBOR": 1,
    "TRANSPOSE_CONV": 0,
    "PAD": 1,
    "PADV2": 1,
    "MIRROR_PAD": 1,
    "SLICE": 2,
    "STRIDED_SLICE": 2,
    "TOPK_V2": 1,
    "ONE_HOT": 1,
    "RANGE": 1,
}
# Ops whose output size hangs on the data themselves.
_DATA_SIZED = frozenset({"WHERE", "UNIQUE", "NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5"})


def integer_fraction(graph: Graph) -> float:
    """Ops that touch no float tensor, as a fraction of all ops."""
    return sum(_float_reason(op) is None for op in graph.ops) / len(graph.ops)


def require_integer(graph: Graph) -> None:
    """Return only if every op computes in integers on sizes known beforehand; else raise ``NotIntegerError``."""
    # The quantiser puts (de)quantise ops around what it cannot do; the op between them is the one to name.
    suspects = sorted(graph.ops, key=lambda op: op.name in ("QUANTIZE", "DEQUANTIZE"))
    if reasons := [reason for op in suspects for reason in [_reason(op)] if reason]:
        raise NotIntegerError(reasons)


def _reason(op: Op) -> str | None:
    if op.name.startswith("Flex"):
        return f"{op} is a TensorFlow op, which the device's interpreter does not have; write it with builtin ops"
    return _float_reason(op) or _dynamic_reason(op)


def _float_reason(op: Op) -> str | None:
    for tensor in (*op.inputs, *op.outputs):
        if tensor.dtype in _FLOATS:
            return f"{op} works on {tensor.dtype} tensor {tensor.name!r}; the quantiser has no integer form for it"
    return None


def _dynamic_reason(op: Op) -> str | None:
    for tensor in (*op.inputs, *op.outputs):
        if tensor.is_dynamic:
            return f"{op} has tensor {tensor.name!r} of unknown size {list(tensor.shape)}; fix the model's input shape"
    if op.name in _DATA_SIZED:
        return f"{op} gives a tensor whose size depends on the data"
    position = _SIZE_OPERAND.get(op.name)
    if position is not None and position < len(op.inputs) and not op.inputs[position].is_constant:
        return f"{op} takes its output's size from tensor {op.inputs[position].name!r} at run time"
    return None


def precision_of(graph: Graph) -> str:
    """What a graph computes in, by its tensors alone: ``float32`` or one of the names that a conversion gives.

    ``int8`` is full integer; ops that turn the graph's own inputs and outputs from and into reals do not count.
    """
    ends = {tensor.index for tensor in (*graph.inputs, *graph.outputs)}
    inner = [op for op in graph.main if not _is_end(op, ends)]
    activations = {tensor.dtype for op in inner for tensor in op.outputs}
    constants = {tensor.dtype for op in inner for tensor in op.inputs if tensor.is_constant}
    if not {"INT8", "INT16", "UINT8"} & (activations | constants):
        return "float32"
    if "INT16" in activations:
        return "int8-int16"
    if all(_float_reason(op) is None for op in inner):
        return "int8"
    return "int8-float" if "INT8" in activations else "dynamic-int8"


def _is_end(op: Op, ends: set[int]) -> bool:
    enters = op.name == "QUANTIZE" and op.inputs[0].index in ends
    return enters or (op.name == "DEQUANTIZE" and op.outputs[0].index in ends)
