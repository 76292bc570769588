"""Ops replaced by others, which ``Graph.edited``, made for other values and sizes, cannot do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgekd_converters.graph import Graph, Op, new_buffer, read_graph, write_model

ABSENT = -1
"""In place of a tensor's index: an optional operand that is not there."""


class Draft:
    """The main subgraph written anew, op by op in run order. Tensors are referred to by their index.

    What stays keeps its name. Whatever nothing uses any more, tensors and constants, is left out at the end.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(graph.content, 0))
        self._main = self._model.subgraphs[0]
        self._old, self._main.operators = self._main.operators, []
        self._names = {tensor.name for tensor in graph.tensors}
        self._stem = ""
        self._changed = False
        self._instead: dict[int, int] = {}

    def begin(self, op: Op) -> None:
        """What comes now stands for this op; new tensors are named after it."""
        self._stem = op.outputs[0].name if op.outputs else op.name

    def keep(self, op: Op, options: Any = None) -> None:
        """The op as it was, but for what has been passed on and for ``options``, which are of the same kind."""
        kept = self._old[op.index]
        if options is not None:
            kept.builtinOptions, self._changed = options, True
        kept.inputs = np.array([self._instead.get(k, k) for k in _indices(kept, "inputs")], np.int32)
        self._main.operators.append(kept)

    def pass_on(self, old: int, new: int) -> None:
        """What reads the tensor ``old`` from now on reads ``new``."""
        self._instead[old] = self._instead.get(new, new)
        self._changed = True

    def constant(self, value: npt.NDArray[Any]) -> int:
        """A new constant, float32 or int32."""
        self._model.buffers.append(new_buffer(value))
        return self._tensor("constant", value.shape, str(value.dtype), len(self._model.buffers) - 1)

    def tensor(self, shape: Sequence[int]) -> int:
        """A new float32 tensor, for ``write`` to make, or to be an input."""
        return self._tensor("raw", shape, "float32", 0)

    def stand_in(self, old: int, new: int) -> None:
        """An input or output of the graph from now on, in place of another that stays within it.

        Its public name remains: a file without a signature, whose tensors' names are the public ones, is given one.
        """
        main = self._main
        self._model.signatureDefs = self._model.signatureDefs or [_signature_of(self._graph)]
        main.inputs, main.outputs = (
            np.array([new if k == old else k for k in _indices(main, ends)], np.int32) for ends in ("inputs", "outputs")
        )
        for signature in self._model.signatureDefs:
            for entry in (*signature.inputs, *signature.outputs):
                if entry.tensorIndex == old:
                    entry.tensorIndex = new
        self._changed = True

    def call(self, name: str, inputs: Sequence[int], shape: Sequence[int], options: Any = None) -> int:
        """An op that makes one new float32 tensor."""
        return self.calls(name, inputs, [shape], options)[0]

    def calls(
        self, name: str, inputs: Sequence[int], shapes: Sequence[Sequence[int]], options: Any = None
    ) -> list[int]:
        """An op that makes several."""
        outputs = [self._tensor(name.lower(), shape, "float32", 0) for shape in shapes]
        self.write(name, inputs, outputs, options)
        return outputs

    def write(self, name: str, inputs: Sequence[int], outputs: Sequence[int], options: Any = None) -> None:
        """An op that makes tensors which are already there."""
        op = schema.OperatorT()
        op.opcodeIndex = self._opcode(getattr(schema.BuiltinOperator, name))
        op.inputs = np.array([self._instead.get(k, k) for k in inputs], np.int32)
        op.outputs = np.array(outputs, np.int32)
        if options is not None:
            op.builtinOptions = options
            op.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self._main.operators.append(op)
        self._changed = True

    def name(self, index: int) -> str:
        """Of a tensor, an old or a new one."""
        name: str | bytes = self._main.tensors[index].name
        return name.decode() if isinstance(name, bytes) else name

    def finish(self) -> Graph:
        """The graph as written; the very same one if all was kept."""
        if not self._changed:
            return self._graph
        drop_unused_tensors(self._model)
        return read_graph(write_model(self._model)).edited({}, {})  # which empties the buffers left behind

    def _tensor(self, kind: str, shape: Sequence[int], dtype: str, buffer: int) -> int:
        tensor, index = schema.TensorT(), len(self._main.tensors)
        tensor.name = f"{self._stem};{kind}{index}"
        while tensor.name in self._names:  # the quantiser tells tensors apart by name
            tensor.name += "_"
        self._names.add(tensor.name)
        tensor.shape, tensor.buffer = np.array(shape, np.int32), buffer
        tensor.type = getattr(schema.TensorType, dtype.upper())
        self._main.tensors.append(tensor)
        return index

    def _opcode(self, builtin: int) -> int:
        codes = self._model.operatorCodes
        for index, code in enumerate(codes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
        codes.append(code)
        return len(codes) - 1


Rule = Callable[[Draft, Graph, Op], bool]
"""Writes what stands for an op; False, with nothing written, if it is fine as it is."""


def rewritten(graph: Graph, rules: Mapping[str, Rule]) -> Graph:
    """Each op by the rule of its name; the very same graph if none was applied."""
    if not any(op.name in rules for op in graph.main):
        return graph
    draft = Draft(graph)
    for op in graph.main:
        draft.begin(op)
        if op.name not in rules or not rules[op.name](draft, graph, op):
            draft.keep(op)
    return draft.finish()


def _signature_of(graph: Graph) -> Any:
    made, index_of = schema.SignatureDefT(), {tensor.name: tensor.index for tensor in graph.tensors}
    made.signatureKey, made.subgraphIndex = graph.signature.key or "serving_default", 0
    made.inputs, made.outputs = [], []
    for entries, names in ((made.inputs, graph.signature.inputs), (made.outputs, graph.signature.outputs)):
        for public, tensor in names.items():
            entry = schema.TensorMapT()
            entry.name, entry.tensorIndex = public, index_of[tensor]
            entries.append(entry)
    return made


def drop_unused_tensors(model: Any) -> None:
    """Renumber the main subgraph's tensors without those that nothing refers to any more."""
    main = model.subgraphs[0]
    lists = [(main, "inputs"), (main, "outputs")]
    lists += [(op, name) for op in main.operators for name in ("inputs", "outputs", "intermediates")]
    indices = [_indices(owner, name) for owner, name in lists]
    entries = [
        entry
        for signature in model.signatureDefs or []
        if signature.subgraphIndex == 0
        for entry in (*signature.inputs, *signature.outputs)
    ]
    used = sorted({k for one in indices for k in one if k != ABSENT} | {entry.tensorIndex for entry in entries})
    number = {ABSENT: ABSENT, **{old: new for new, old in enumerate(used)}}
    for (owner, name), one in zip(lists, indices, strict=True):
        setattr(owner, name, np.array([number[k] for k in one], np.int32))
    for entry in entries:
        entry.tensorIndex = number[entry.tensorIndex]
    main.tensors = [main.tensors[old] for old in used]


def _indices(owner: Any, name: str) -> list[int]:
    values = getattr(owner, name)
    return [] if values is None else [int(value) for value in values]
