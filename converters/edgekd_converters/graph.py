"""A ``.tflite`` flatbuffer as tensors and ops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgekd_converters.errors import LoadError

_TYPE_NAMES = {value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
_OP_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


@dataclass(frozen=True)
class Tensor:
    """``dtype`` is the schema's name (``FLOAT32``, ``INT8``, …). A size known only at run time is -1 in ``shape``."""

    index: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    is_constant: bool

    @property
    def is_dynamic(self) -> bool:
        return any(size < 0 for size in self.shape)


@dataclass(frozen=True)
class Op:
    """``name`` is the builtin's name, or the custom op's own. Absent optional inputs are left out of ``inputs``."""

    index: int
    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def __str__(self) -> str:
        made = self.outputs[0].name if self.outputs else "nothing"
        return f"op {self.index} {self.name} (makes {made!r})"


@dataclass(frozen=True)
class Signature:
    """Public input and output name → tensor name, in the flatbuffer's order."""

    key: str
    inputs: dict[str, str]
    outputs: dict[str, str]


@dataclass(frozen=True)
class Graph:
    """The parsed model. ``ops`` holds all subgraphs' ops, ``tensors`` those of the main subgraph."""

    content: bytes
    tensors: tuple[Tensor, ...]
    ops: tuple[Op, ...]
    signature: Signature


def read_graph(content: bytes) -> Graph:
    """Parse a flatbuffer. Raises ``LoadError`` when it is not a ``.tflite`` with at least one op."""
    if content[4:8] != b"TFL3":
        raise LoadError("not a .tflite file: the identifier TFL3 is missing")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        tensors_of = [_tensors(model, subgraph) for subgraph in model.subgraphs]
        ops = tuple(
            op
            for subgraph, tensors in zip(model.subgraphs, tensors_of, strict=True)
            for op in _ops(model, subgraph, tensors)
        )
        signature = _signature(model, tensors_of[0])
    except Exception as error:  # the generated reader raises whatever a bad offset leads to
        raise LoadError(f"the .tflite file is damaged: {type(error).__name__}: {error}") from error
    if not ops:
        raise LoadError("the .tflite file holds no ops")
    return Graph(content, tensors_of[0], ops, signature)


def _text(value: bytes | str | None) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value or ""


def _sizes(values: npt.NDArray[Any] | list[int] | None) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) for value in values)


def _shape(tensor: Any) -> tuple[int, ...]:
    """``shapeSignature`` has -1 for unknown sizes, where the file has one; ``shape`` has 1 in their place."""
    signature = _sizes(tensor.shapeSignature)
    return signature if any(size < 0 for size in signature) else _sizes(tensor.shape)


def _tensors(model: Any, subgraph: Any) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(
            index=i,
            name=_text(tensor.name),
            dtype=_TYPE_NAMES[tensor.type],
            shape=_shape(tensor),
            is_constant=bool(np.size(model.buffers[tensor.buffer].data))
            if model.buffers[tensor.buffer].data is not None
            else False,
        )
        for i, tensor in enumerate(subgraph.tensors)
    )


def _ops(model: Any, subgraph: Any, tensors: tuple[Tensor, ...]) -> list[Op]:
    ops = []
    for i, operator in enumerate(subgraph.operators or []):
        code = model.operatorCodes[operator.opcodeIndex]
        builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
        name = _text(code.customCode) if code.customCode else _OP_NAMES[builtin]
        inputs = tuple(tensors[k] for k in _sizes(operator.inputs) if k >= 0)
        ops.append(Op(i, name, inputs, tuple(tensors[k] for k in _sizes(operator.outputs) if k >= 0)))
    return ops


def _signature(model: Any, tensors: tuple[Tensor, ...]) -> Signature:
    if model.signatureDefs:
        chosen = model.signatureDefs[0]
        return Signature(
            _text(chosen.signatureKey),
            {_text(entry.name): tensors[entry.tensorIndex].name for entry in chosen.inputs},
            {_text(entry.name): tensors[entry.tensorIndex].name for entry in chosen.outputs},
        )
    main = model.subgraphs[0]
    named = [{tensors[k].name: tensors[k].name for k in _sizes(ends)} for ends in (main.inputs, main.outputs)]
    return Signature("", named[0], named[1])
