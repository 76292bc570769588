"""The float graph with the ONNX model's own names, in its order, and a batch axis on every input and output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgekd_converters.graph import Graph, new_buffer, read_graph, write_model
from edgekd_converters.load.onnx_ports import Axes, Matched
from edgekd_converters.load.onnx_session import Port, with_batch
from edgekd_converters.load.to_tflite import SIGNATURE

Result = Matched | str | npt.NDArray[Any]
"""What an output is: a tensor of the graph, the input of that name, or a constant."""


def publish(
    graph: Graph | None,
    inputs: Sequence[Matched | Port],
    outputs: Mapping[str, Result],
) -> tuple[Graph, dict[str, Axes]]:
    """The graph as the public sees it, and its layouts.

    Args:
        graph: None where no output is computed.
        inputs: in the source's order; a bare port is one that nothing uses.
        outputs: in the source's order.
    """
    writer = _Writer(graph)
    layouts: dict[str, Axes] = {}
    given: dict[str, int] = {}
    for one in inputs:
        port = one.port if isinstance(one, Matched) else one
        given[port.name] = writer.add_input(one)
        if isinstance(one, Matched):
            layouts[port.name] = _public_axes(one)
    made: dict[str, int] = {}
    for name, result in outputs.items():
        if isinstance(result, str):
            made[name] = writer.copy(given[result])
            layouts[name] = layouts.get(result, ())
        elif isinstance(result, Matched):
            made[name] = writer.add_output(result, taken={*given.values(), *made.values()})
            layouts[name] = _public_axes(result)
        else:
            made[name] = writer.copy(writer.constant(with_batch(result)))
    return writer.finish(given, made), {name: axes for name, axes in layouts.items() if axes != tuple(range(len(axes)))}


def _public_axes(one: Matched) -> Axes:
    if one.axes is None:
        return ()
    return one.axes if one.port.has_batch else (0, *(axis + 1 for axis in one.axes))


class _Writer:
    """A schema model to which ops are added at both ends."""

    def __init__(self, graph: Graph | None) -> None:
        self._model = _empty() if graph is None else schema.ModelT.InitFromObj(schema.Model.GetRootAs(graph.content, 0))
        self._main = self._model.subgraphs[0]
        self._before: list[Any] = []

    def add_input(self, one: Matched | Port) -> int:
        if isinstance(one, Port):
            return self._tensor(one.public_shape, getattr(schema.TensorType, one.dtype.name.upper()))
        inner = self._main.tensors[one.index]
        if one.port.has_batch and one.axes is not None:
            return one.index
        outer = self._tensor(_public_sizes(one), inner.type)
        self._before.append(self._reshape(outer, one.index))
        return outer

    def add_output(self, one: Matched, taken: set[int]) -> int:
        """A tensor of its own: to be two outputs at once, or an input too, is more than some tools take."""
        inner = self._main.tensors[one.index]
        if one.port.has_batch and one.axes is not None and one.index not in taken:
            return one.index
        outer = self._tensor(_public_sizes(one), inner.type)
        self._main.operators.append(self._reshape(one.index, outer))
        return outer

    def copy(self, index: int) -> int:
        inner = self._main.tensors[index]
        made = self._tensor(_sizes(inner), inner.type)
        self._main.operators.append(self._reshape(index, made))
        return made

    def constant(self, value: npt.NDArray[Any]) -> int:
        kind = getattr(schema.TensorType, value.dtype.name.upper())
        return self._tensor(value.shape, kind, value)

    def finish(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Graph:
        main = self._main
        main.operators = [*self._before, *main.operators]
        main.inputs, main.outputs = (np.array(list(ends.values()), np.int32) for ends in (inputs, outputs))
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = SIGNATURE.encode(), 0
        signature.inputs, signature.outputs = ([_entry(*pair) for pair in ends.items()] for ends in (inputs, outputs))
        self._model.signatureDefs = [signature]
        names = {index: name for name, index in {**inputs, **outputs}.items()}
        taken = {tensor.name for i, tensor in enumerate(main.tensors) if i not in names}
        for index, name in names.items():
            label = name.encode()
            while label in taken:
                label += b"_"
            taken.add(label)
            main.tensors[index].name = label
        return read_graph(write_model(self._model))

    def _tensor(self, shape: Sequence[int], kind: int, value: npt.NDArray[Any] | None = None) -> int:
        tensor, buffers = schema.TensorT(), self._model.buffers
        tensor.name = f"edge;{len(self._main.tensors)}".encode()
        tensor.shape, tensor.type, tensor.buffer = np.array(shape, np.int32), kind, len(buffers)
        buffers.append(schema.BufferT() if value is None else new_buffer(value))
        self._main.tensors.append(tensor)
        return len(self._main.tensors) - 1

    def _reshape(self, source: int, target: int) -> Any:
        shape = np.array(_sizes(self._main.tensors[target]), np.int32)
        op, options = schema.OperatorT(), schema.ReshapeOptionsT()
        options.newShape = shape
        op.opcodeIndex = self._opcode()
        op.inputs = np.array([source, self._tensor(shape.shape, schema.TensorType.INT32, shape)], np.int32)
        op.outputs = np.array([target], np.int32)
        op.builtinOptions, op.builtinOptionsType = options, schema.BuiltinOptions.ReshapeOptions
        return op

    def _opcode(self) -> int:
        wanted = schema.BuiltinOperator.RESHAPE
        for index, code in enumerate(self._model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == wanted:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = wanted
        code.version = 1
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1


def _empty() -> Any:
    model, main = schema.ModelT(), schema.SubGraphT()
    main.tensors, main.operators = [], []
    model.version, model.subgraphs, model.operatorCodes, model.buffers = 3, [main], [], [schema.BufferT()]
    return model


def _public_sizes(one: Matched) -> tuple[int, ...]:
    shape = one.port.public_shape
    return tuple(shape[axis] for axis in _public_axes(one) or range(len(shape)))


def _entry(name: str, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.encode(), index
    return entry


def _sizes(tensor: Any) -> tuple[int, ...]:
    return () if tensor.shape is None else tuple(int(size) for size in tensor.shape)
