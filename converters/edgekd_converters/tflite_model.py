"""A float32 ``.tflite`` as other tools write it → one with a batch of 1 and no size left to run time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgekd_converters.errors import LoadError, SourceNotFoundError
from edgekd_converters.graph import Graph, Op, new_buffer, read_graph, write_model
from edgekd_converters.load.shapes import settle
from edgekd_converters.quiet import quiet
from edgekd_converters.rewrite import drop_unused_tensors
from edgekd_converters.strides import fit_strides

_STEPS = ("INT2", "INT4", "INT8", "UINT8", "INT16")  # with a scale; without one they are plain integers
_Values = dict[int, npt.NDArray[Any]]
"""Tensor index → what the tensor holds."""


def load_tflite(path: Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
    """Read a ``.tflite`` whose weights and arithmetic are float32; a batch of unknown size becomes 1.

    ``shapes``: input name → all sizes, the batch included, for what the model leaves open.
    Raises ``SourceNotFoundError``, or ``LoadError`` for a file that is damaged, quantised or of another unknown size.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror or error}") from error
    try:
        graph = read_graph(content)
        require_float32(graph)
        sizes = _sizes_of_inputs(graph, shapes or {})
        if any(tensor.is_dynamic for tensor in graph.tensors):
            graph = with_fixed_sizes(graph, sizes)
        return fit_strides(graph)
    except LoadError as error:
        raise LoadError(f"{path}: {error}") from error


def require_float32(graph: Graph) -> None:
    """Raise ``LoadError`` for a graph that is quantised, wholly or in part, or of another precision."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(graph.content, 0))
    stored = model.subgraphs[0].tensors
    scaled = {i for i, tensor in enumerate(stored) if tensor.quantization and np.any(tensor.quantization.scale)}
    quantised = [tensor for tensor in graph.tensors if tensor.index in scaled and tensor.dtype in _STEPS]
    narrow = [tensor for tensor in graph.tensors if tensor.dtype in ("FLOAT16", "BFLOAT16", "FLOAT64")]
    if activations := [tensor for tensor in quantised if not tensor.is_constant]:
        reason = f"is quantised already: {activations[0].name!r} is {activations[0].dtype}"
    elif quantised:
        reason = (
            f"is a hybrid, with integer weights under float arithmetic: {quantised[0].name!r} is {quantised[0].dtype}"
        )
    elif narrow:
        reason = f"is not float32: {narrow[0].name!r} is {narrow[0].dtype}"
    else:
        return
    raise LoadError(f"the model {reason}; export it as float32, without quantisation or other optimisations")


def _sizes_of_inputs(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """Tensor index of an input → all its sizes."""
    by_name = {tensor.name: tensor for tensor in graph.inputs}
    public = {name: by_name[tensor] for name, tensor in graph.signature.inputs.items()}
    declared = {name: [None if size < 0 else size for size in tensor.shape] for name, tensor in public.items()}
    return {public[name].index: sizes for name, sizes in settle(declared, shapes).items()}


def with_fixed_sizes(graph: Graph, sizes: Mapping[int, tuple[int, ...]]) -> Graph:
    """The same model for inputs of these sizes: every shape known, and what was computed from shapes alone constant.

    ``sizes``: tensor index of an input → its sizes.
    """
    values = _one_run(graph, sizes)
    folded = _computed_from_shapes(graph)
    dropped = folded | _of_no_use(graph, folded)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(graph.content, 0))
    main = model.subgraphs[0]
    made = {tensor.index for i in folded for tensor in graph.main[i].outputs}
    for tensor in graph.tensors:
        if tensor.index not in values:
            continue
        stored, value = main.tensors[tensor.index], values[tensor.index]
        stored.shape, stored.shapeSignature = np.array(value.shape, np.int32), None
        if tensor.index in made:
            stored.buffer = len(model.buffers)
            model.buffers.append(new_buffer(value))
    main.operators = [operator for i, operator in enumerate(main.operators) if i not in dropped]
    _settle_reshapes(main, values)
    drop_unused_tensors(model)
    return read_graph(write_model(model))


def _one_run(graph: Graph, sizes: Mapping[int, tuple[int, ...]]) -> _Values:
    """All activations of a run on one row of zeros."""
    try:
        with quiet():
            interpreter = Interpreter(
                model_content=graph.content,
                experimental_preserve_all_tensors=True,
                experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            for tensor in graph.inputs:
                interpreter.resize_tensor_input(tensor.index, sizes.get(tensor.index, tensor.shape))
            interpreter.allocate_tensors()
            for detail in interpreter.get_input_details():
                interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
            interpreter.invoke()
    except (RuntimeError, ValueError) as error:
        raise LoadError(f"the model cannot run with a batch of 1: {' '.join(str(error).split())[:300]}") from error
    values = {tensor.index: np.array(interpreter.get_tensor(tensor.index)) for tensor in graph.inputs}
    for op in graph.main:
        try:
            values |= {tensor.index: np.array(interpreter.get_tensor(tensor.index)) for tensor in op.outputs}
        except ValueError as error:  # there is nothing in it
            raise LoadError(
                f"{op} gives nothing for zeros: its size depends on the values; cut the model there"
            ) from error
    return values


def _computed_from_shapes(graph: Graph) -> set[int]:
    """Ops of the main subgraph whose result is the same for every row: SHAPE, and what works on its output alone."""
    folded: set[int] = set()
    known: set[int] = set()
    given_out = {tensor.index for tensor in graph.outputs}
    for op in graph.main:
        if {tensor.index for tensor in op.outputs} & given_out:
            continue
        if op.name == "SHAPE" or _all_known(op, known):
            folded.add(op.index)
            known |= {tensor.index for tensor in op.outputs}
    return folded


def _of_no_use(graph: Graph, folded: set[int]) -> set[int]:
    """Ops that were there only for their output's shape. One without outputs works by its side effects."""
    needed = {tensor.index for tensor in graph.outputs}
    useless: set[int] = set()
    for op in reversed(graph.main):
        if op.outputs and not needed & {tensor.index for tensor in op.outputs}:
            useless.add(op.index)
        elif op.index not in folded:
            needed |= {tensor.index for tensor in op.inputs}
    return useless


def _all_known(op: Op, known: set[int]) -> bool:
    return any(tensor.index in known for tensor in op.inputs) and all(
        tensor.index in known or tensor.is_constant for tensor in op.inputs
    )


def _settle_reshapes(main: Any, values: Mapping[int, npt.NDArray[Any]]) -> None:
    for operator in main.operators:
        if isinstance(operator.builtinOptions, schema.ReshapeOptionsT):
            operator.builtinOptions.newShape = np.array(values[int(operator.outputs[0])].shape, np.int32)
