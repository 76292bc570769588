"""A ``.tflite`` flatbuffer as tensors and ops, read and written without loss."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgekd_converters.errors import LoadError

_TYPE_NAMES = {value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")}
_OP_NAMES = {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
_NUMPY_TYPES = {
    **{name.upper(): np.dtype(name) for name in ("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32")},
    **{name.upper(): np.dtype(name) for name in ("int64", "uint64", "float16", "float32", "float64")},
}
_ALIGNMENT = 16  # the schema's force_align of buffers, which the generated Python code does not know


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
    """``name`` is the builtin's name, or the custom op's own.

    ``slots`` are the inputs by position, None where an optional one is absent; ``inputs`` leaves those out. ``options``
    is the schema's object (``Conv2DOptionsT``, …), not to be changed; None where an op has none.
    """

    index: int
    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    slots: tuple[Tensor | None, ...] = ()
    options: Any = field(default=None, compare=False, repr=False)
    subgraph: int = 0

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
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def main(self) -> tuple[Op, ...]:
        """The main subgraph's ops, in an order in which they can run."""
        return tuple(op for op in self.ops if op.subgraph == 0)

    @property
    def results(self) -> tuple[Tensor, ...]:
        """The outputs in the order of the signature, which is the one that users see."""
        by_name = {tensor.name: tensor for tensor in self.outputs}
        return tuple(by_name[name] for name in self.signature.outputs.values())

    def constant(self, tensor: Tensor) -> npt.NDArray[Any]:
        """The stored value of a constant of the main subgraph, read-only. Raises ``LoadError`` if it is damaged."""
        dtype = _NUMPY_TYPES.get(tensor.dtype)
        if dtype is None or not tensor.is_constant:
            raise LoadError(f"tensor {tensor.name!r} of type {tensor.dtype} is not a constant that can be read")
        data = self._model.buffers[self._model.subgraphs[0].tensors[tensor.index].buffer].data
        try:
            array: npt.NDArray[Any] = np.frombuffer(np.asarray(data, np.uint8).tobytes(), dtype).reshape(tensor.shape)
        except ValueError as error:
            raise LoadError(f"constant {tensor.name!r} does not fill its shape {list(tensor.shape)}") from error
        return array

    def _by_ownership(
        self, operands: Mapping[tuple[int, int], npt.NDArray[Any]]
    ) -> tuple[dict[int, npt.NDArray[Any]], dict[tuple[int, int], npt.NDArray[Any]]]:
        """Those whose constant serves this op alone, by tensor; and those who need one of their own."""
        uses = Counter(tensor.index for op in self.main for tensor in op.inputs)
        owned, borrowed = {}, {}
        for (op, position), value in operands.items():
            tensor = self.main[op].slots[position]
            if tensor is not None and uses[tensor.index] == 1:
                owned[tensor.index] = value
            else:
                borrowed[op, position] = value
        return owned, borrowed

    @cached_property
    def _model(self) -> Any:
        return schema.ModelT.InitFromObj(schema.Model.GetRootAs(self.content, 0))

    def edited(
        self,
        constants: Mapping[int, npt.NDArray[Any]],
        shapes: Mapping[int, tuple[int, ...]],
        operands: Mapping[tuple[int, int], npt.NDArray[Any]] | None = None,
    ) -> Graph:
        """A graph with other constants and shapes of the main subgraph's tensors; all else stays as it is.

        Args:
            constants: tensor index → new value, in the tensor's dtype; the shape follows the value.
            shapes: tensor index → new shape of an activation.
            operands: (op index, input position) → value for that op alone, also where the constant serves several.
        """
        owned, borrowed = self._by_ownership(operands or {})
        model = copy.copy(self._model)
        model.buffers = list(model.buffers)
        main = copy.copy(model.subgraphs[0])
        main.tensors = [copy.copy(tensor) for tensor in main.tensors]
        main.operators = [copy.copy(operator) for operator in main.operators]
        model.subgraphs = [main, *model.subgraphs[1:]]
        for index, shape in shapes.items():
            _set_shape(main.tensors[index], shape)
        for index, value in {**constants, **owned}.items():
            _set_value(model, main.tensors[index], value)
        for (op, position), value in borrowed.items():
            operator = main.operators[op]
            own = copy.copy(main.tensors[operator.inputs[position]])
            own.name = f"{_text(own.name)};op{op}.{position}"
            _set_value(model, own, value)
            operator.inputs = np.array(operator.inputs, np.int32)
            operator.inputs[position] = len(main.tensors)
            main.tensors.append(own)
        for operator in main.operators:
            _follow_sizes(main, operator, set(shapes))
        _drop_unused(model)
        return read_graph(write_model(model))


def read_graph(content: bytes) -> Graph:
    """Parse a flatbuffer. Raises ``LoadError`` when it is not a ``.tflite`` with at least one op."""
    if content[4:8] != b"TFL3":
        raise LoadError("not a .tflite file: the identifier TFL3 is missing")
    try:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        tensors_of = [_tensors(model, subgraph) for subgraph in model.subgraphs]
        ops = tuple(
            op
            for number, (subgraph, tensors) in enumerate(zip(model.subgraphs, tensors_of, strict=True))
            for op in _ops(model, number, subgraph, tensors)
        )
        signature = _signature(model, tensors_of[0])
        main = model.subgraphs[0]
        inputs, outputs = (tuple(tensors_of[0][k] for k in _sizes(ends)) for ends in (main.inputs, main.outputs))
    except Exception as error:  # the generated reader raises whatever a bad offset leads to
        raise LoadError(f"the .tflite file is damaged: {type(error).__name__}: {error}") from error
    if not ops:
        raise LoadError("the .tflite file holds no ops")
    return Graph(content, tensors_of[0], ops, signature, inputs, outputs)


class _Builder(flatbuffers.Builder):  # type: ignore[misc]
    def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:
        if elemSize == 1 and numElems >= _ALIGNMENT:
            alignment = _ALIGNMENT
        return super().StartVector(elemSize, numElems, alignment)


def write_model(model: Any) -> bytes:
    """A schema ``ModelT`` as the bytes of a ``.tflite`` file."""
    builder = _Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _follow_sizes(main: Any, operator: Any, changed: set[int]) -> None:
    """Options that repeat a size."""
    options, output = operator.builtinOptions, int(operator.outputs[0]) if len(operator.outputs) else -1
    if output not in changed:
        return
    shape = main.tensors[output].shape
    if isinstance(options, schema.ReshapeOptionsT) and options.newShape is not None:
        operator.builtinOptions = copy.copy(options)
        sizes = [-1 if old < 0 else new for old, new in zip(options.newShape, shape, strict=True)]
        operator.builtinOptions.newShape = np.array(sizes, np.int32)
    elif isinstance(options, schema.DepthwiseConv2DOptionsT):
        operator.builtinOptions = copy.copy(options)
        operator.builtinOptions.depthMultiplier = int(shape[3]) // int(main.tensors[operator.inputs[0]].shape[3])


def new_buffer(value: npt.NDArray[Any]) -> Any:
    """A schema ``BufferT`` that holds an array."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
    return buffer


def _drop_unused(model: Any) -> None:
    """Empty the buffers that nothing refers to any more; their numbers stay."""
    used = {tensor.buffer for subgraph in model.subgraphs for tensor in subgraph.tensors}
    used |= {entry.buffer for entry in model.metadata or []}
    model.buffers = [buffer if i in used else schema.BufferT() for i, buffer in enumerate(model.buffers)]


def _set_shape(tensor: Any, shape: tuple[int, ...]) -> None:
    unknown = _sizes(tensor.shapeSignature)
    tensor.shape = np.array(shape, np.int32)
    if unknown:
        tensor.shapeSignature = np.array(
            [-1 if old < 0 else new for old, new in zip(unknown, shape, strict=True)], np.int32
        )


def _set_value(model: Any, tensor: Any, value: npt.NDArray[Any]) -> None:
    dtype = _NUMPY_TYPES[_TYPE_NAMES[tensor.type]]
    tensor.shape, tensor.shapeSignature = np.array(value.shape, np.int32), None
    tensor.buffer = len(model.buffers)
    model.buffers.append(new_buffer(value.astype(dtype, copy=False)))


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


def _ops(model: Any, number: int, subgraph: Any, tensors: tuple[Tensor, ...]) -> list[Op]:
    ops = []
    for i, operator in enumerate(subgraph.operators or []):
        code = model.operatorCodes[operator.opcodeIndex]
        builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
        name = _text(code.customCode) if code.customCode else _OP_NAMES[builtin]
        slots = tuple(tensors[k] if k >= 0 else None for k in _sizes(operator.inputs))
        inputs = tuple(tensor for tensor in slots if tensor is not None)
        outputs = tuple(tensors[k] for k in _sizes(operator.outputs) if k >= 0)
        ops.append(Op(i, name, inputs, outputs, slots, operator.builtinOptions, number))
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
