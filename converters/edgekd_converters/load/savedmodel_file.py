"""What a SavedModel's graphs hold, looked at before TensorFlow loads them, which runs some of their ops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd_converters.errors import LoadError
from edgekd_converters.quiet import import_tensorflow

_PYTHON = {"PyFunc": "tf.numpy_function", "PyFuncStateless": "tf.numpy_function", "EagerPyFunc": "tf.py_function"}
_OUTSIDE = frozenset(
    {
        "ReadFile",
        "WriteFile",
        "MatchingFiles",
        "FileSystemSetConfiguration",
        "ImmutableConst",
        "FixedLengthRecordReaderV2",
        "TextLineReaderV2",
        "TFRecordReaderV2",
        "WholeFileReaderV2",
        "TextLineDataset",
        "TFRecordDataset",
        "TFRecordDatasetV2",
        "FixedLengthRecordDataset",
        "FixedLengthRecordDatasetV2",
        "GeneratorDataset",
        "LoadDataset",
        "SaveDataset",
        "SaveDatasetV2",
        "DebugIdentityV2",
        "DebugNumericSummaryV2",
        "PrintV2",
        "WriteSummary",
        "CreateSummaryFileWriter",
        "RpcCall",
    }
)


@dataclass(frozen=True)
class SavedGraphs:
    """The parsed ``saved_model.pb``, whose first graph is the one for serving."""

    path: Path
    message: Any

    @property
    def signatures(self) -> list[str]:
        return sorted(key for key in self.message.meta_graphs[0].signature_def if not key.startswith("__"))

    def require_no_outside(self) -> None:
        """Raise ``LoadError`` for an op that reads or writes files: some run when the model is loaded."""
        for meta in self.message.meta_graphs:
            for where, nodes in [("", meta.graph_def.node), *_functions(meta).items()]:
                if found := next((node for node in nodes if node.op in _OUTSIDE), None):
                    reason = "which reaches out of the model; take it out, or say --trust"
                    raise LoadError(f"{self.path}: {_place(found, where)} is a {found.op}, {reason}")

    def require_no_python(self, signature: str) -> None:
        """Raise ``LoadError`` where a signature calls Python, which no SavedModel holds."""
        for where, node in self._reached(signature):
            if python := _PYTHON.get(node.op):
                reason = "whose Python code is not in the file; write it with TensorFlow ops"
                raise LoadError(f"{self.path}: {_place(node, where)} is a {python}, {reason}")

    def _reached(self, signature: str) -> Iterator[tuple[str, Any]]:
        """(name of the function or "", node) of what a signature computes with, functions included."""
        meta = self.message.meta_graphs[0]
        nodes, functions = {node.name: node for node in meta.graph_def.node}, _functions(meta)
        names = [tensor.name.split(":")[0] for tensor in meta.signature_def[signature].outputs.values()]
        waiting = [("", nodes[name]) for name in names if name in nodes]
        seen = set(names)
        while waiting:
            where, node = waiting.pop()
            yield where, node
            called = [name for name in _called(node) if name in functions]
            feeding = [] if where else [name.lstrip("^").split(":")[0] for name in node.input]
            waiting += [(name, inner) for name in called if name not in seen for inner in functions[name]]
            waiting += [("", nodes[name]) for name in feeding if name in nodes and name not in seen]
            seen.update(called, feeding)


def read_graphs(path: Path) -> SavedGraphs:
    """``path``: the folder. Raises ``LoadError`` when its ``saved_model.pb`` is damaged."""
    import_tensorflow()
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel()
    try:
        message.ParseFromString((path / "saved_model.pb").read_bytes())
    except Exception as error:  # protobuf's DecodeError, whose package is TensorFlow's to name
        raise LoadError(f"{path}: saved_model.pb is damaged or cut short: {error}") from error
    if not message.meta_graphs:
        raise LoadError(f"{path}: saved_model.pb holds no graph")
    return SavedGraphs(path, message)


def _functions(meta: Any) -> dict[str, Any]:
    return {function.signature.name: function.node_def for function in meta.graph_def.library.function}


def _called(node: Any) -> Iterator[str]:
    for attribute in node.attr.values():
        yield from (function.name for function in (attribute.func, *attribute.list.func) if function.name)


def _place(node: Any, function: str) -> str:
    return f"{node.name!r} in the function {function!r}" if function else f"{node.name!r}"
