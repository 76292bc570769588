"""Graphs of a single op, written straight into a flatbuffer: any options, in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import strategies as st

from edgekd_converters.graph import Graph, read_graph, write_model
from edgekd_converters.quiet import quiet

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Given:
    """An operand that is an input of the graph; samples are drawn between ``low`` and ``high``."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: float = -2
    high: float = 2

    def sample(self, rng: np.random.Generator) -> Array:
        if self.dtype == "bool":
            return rng.random(self.shape) < 0.5
        values = rng.uniform(self.low, self.high, self.shape)
        return np.asarray(np.floor(values) if self.dtype.startswith("int") else values).astype(self.dtype)


@dataclass(frozen=True)
class State:
    """An operand that the op keeps for itself from step to step."""

    shape: tuple[int, ...]


Operand = Given | State | Array | None


@dataclass(frozen=True)
class Case:
    """One op with its options (a schema object) and operands; an array is a constant, None is absent."""

    options: Any
    operands: tuple[Operand, ...]
    outputs: tuple[str, ...] = ("float32",)

    def sample(self, rng: np.random.Generator) -> dict[str, Array]:
        """A feed of the graph that :func:`build` makes of it."""
        return {f"x{i}": one.sample(rng) for i, one in enumerate(self.operands) if isinstance(one, Given)}


Draw = Callable[[st.SearchStrategy[Any]], Any]
Maker = Callable[[Draw], Case]


def options(kind: str, **values: Any) -> Any:
    """A schema object; what is not stated stays as the schema has it."""
    made = getattr(schema, f"{kind}OptionsT")()
    for name, value in values.items():
        assert hasattr(made, name), name
        setattr(made, name, value)
    return made


def a_shape(draw: Draw, least: int = 1, most: int = 4) -> tuple[int, ...]:
    return tuple(draw(st.lists(st.integers(1, 4), min_size=least, max_size=most)))


def ints(*values: Any) -> Array:
    return np.array(values, np.int32)


def fixed(draw: Draw, given: Given) -> Array:
    """A constant instead of an input."""
    return given.sample(np.random.default_rng(draw(st.integers(0, 999))))


def either(draw: Draw, given: Given) -> Operand:
    return fixed(draw, given) if draw(st.booleans()) else given


_FIRST_VERSION = {"BROADCAST_TO": 2}


def build(name: str, case: Case) -> Graph:
    """The graph, its inputs called x0, x1, … by slot; the interpreter tells the shapes of its outputs."""
    draft = _write(name, case, [()] * len(case.outputs))
    with quiet():
        interpreter = Interpreter(
            model_content=draft, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        )
        interpreter.allocate_tensors()
    return read_graph(_write(name, case, [tuple(one["shape"]) for one in interpreter.get_output_details()]))


def _write(name: str, case: Case, shapes: Sequence[tuple[int, ...]]) -> bytes:
    model, graph, op = schema.ModelT(), schema.SubGraphT(), schema.OperatorT()
    model.version, model.subgraphs, model.buffers = 3, [graph], [schema.BufferT()]
    graph.tensors, graph.operators, graph.inputs = [], [op], []
    op.inputs = []
    for slot, operand in enumerate(case.operands):
        op.inputs.append(-1 if operand is None else len(graph.tensors))
        if operand is None:
            continue
        if isinstance(operand, Given):
            graph.inputs.append(len(graph.tensors))
            graph.tensors.append(_tensor(f"x{slot}", operand.shape, operand.dtype))
        elif isinstance(operand, State):
            graph.tensors.append(_tensor(f"x{slot}", operand.shape, "float32"))
            graph.tensors[-1].isVariable = True
        else:
            graph.tensors.append(_tensor(f"x{slot}", operand.shape, str(operand.dtype)))
            graph.tensors[-1].buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
            model.buffers[-1].data = np.frombuffer(np.ascontiguousarray(operand).tobytes(), np.uint8)
    op.outputs = [len(graph.tensors) + i for i in range(len(case.outputs))]
    graph.outputs = op.outputs
    graph.tensors += [_tensor(f"y{i}", shapes[i], dtype) for i, dtype in enumerate(case.outputs)]
    _say_what(model, op, name, case.options)
    return write_model(model)


def _say_what(model: Any, op: Any, name: str, options: Any) -> None:
    code = schema.OperatorCodeT()
    code.builtinCode, code.version = getattr(schema.BuiltinOperator, name), _FIRST_VERSION.get(name, 1)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    model.operatorCodes, op.opcodeIndex = [code], 0
    if options is not None:
        op.builtinOptions = options
        op.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))


def _tensor(name: str, shape: Sequence[int], dtype: str) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = name, np.array(shape, np.int32), 0
    tensor.type = getattr(schema.TensorType, dtype.upper())
    return tensor
