"""A float32 graph → ONNX, SavedModel or ``.tflite``, each run on samples against the graph before it counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.errors import ExportError, RunError, one_line
from edgekd_converters.graph import Graph, Tensor
from edgekd_converters.load.columns import BATCH, Outputs, in_batches
from edgekd_converters.load.equivalence import Equivalence, Layouts, compare, to_source
from edgekd_converters.load.naming import unique
from edgekd_converters.observe import Columns, Feed, Observer
from edgekd_converters.ops.lazy import tf
from edgekd_converters.program import Program
from edgekd_converters.quiet import quiet
from edgekd_converters.to_onnx import write_onnx

TARGETS = ("onnx", "savedmodel", "tflite")
_SIGNATURE = "serving_default"
_RANDOM_ROWS = 8
_INDEXING = {"GATHER": (1, 0), "EMBEDDING_LOOKUP": (0, 1)}  # op → slots of the indices and of the table


@dataclass(frozen=True)
class Export:
    """``path``: the file or folder. ``batch``: None where any number of rows will do.

    ``names``: the graph's public inputs and outputs → what they are called there.
    """

    path: Path
    batch: int | None
    equivalence: Equivalence
    names: Mapping[str, str]


def export(graph: Graph, layouts: Layouts, columns: Columns, target: str, path: Path) -> Export:
    """Write the graph to ``path``, which must not exist, in the source's layout, but ``.tflite`` in the graph's.

    Args:
        layouts: as :class:`~edgekd_converters.load.source.Source` has them.
        columns: samples in the source's layout.
        target: one of ``TARGETS``.

    Raises ``ExportError`` when what was written does not compute what the graph does, ``UnsupportedOpError`` when it
    cannot be written.
    """
    made = {"onnx": _export_onnx, "savedmodel": _export_savedmodel, "tflite": _export_tflite}[target]
    result = made(graph, layouts, columns, path)
    worst = result.equivalence.worst
    if not result.equivalence.equal:
        raise ExportError(
            f"the {target} that was written gives another output {worst.name!r}: it differs by up to "
            f"{worst.max_difference:.2g} (row {worst.worst_row})"
        )
    return result


def draw_columns(graph: Graph, layouts: Layouts, seed: int = 0) -> Columns:
    """Random samples in the source's layout: normal floats, and integers that every table has a row for."""
    rng, tensors = np.random.default_rng(seed), {tensor.name: tensor for tensor in graph.tensors}
    most = _rows_of_tables(graph)
    drawn = {name: _draw(rng, tensors[tensor], most) for name, tensor in graph.signature.inputs.items()}
    return to_source(drawn, layouts)


def _rows_of_tables(graph: Graph) -> int:
    """The fewest rows of any constant table that is looked up in; 2 where there is none."""
    tables = [op.slots[_INDEXING[op.name][1]] for op in graph.main if op.name in _INDEXING]
    return min((table.shape[0] for table in tables if table and table.is_constant and table.shape), default=2)


def _draw(rng: np.random.Generator, tensor: Tensor, most: int) -> npt.NDArray[Any]:
    shape, dtype = (_RANDOM_ROWS, *tensor.shape[1:]), np.dtype(tensor.dtype.lower())
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 2 if dtype.kind == "b" else 256 if dtype == np.uint8 else most, shape).astype(dtype)


def _export_onnx(graph: Graph, layouts: Layouts, columns: Columns, path: Path) -> Export:
    """With an open batch where the rows of several samples then come out as they do alone."""
    ends = [*graph.inputs, *graph.outputs]
    if all(tensor.shape[:1] == (1,) for tensor in ends) and len(next(iter(columns.values()))) > 1:
        try:
            made = _try_onnx(graph, layouts, columns, path, dynamic=True)
            if made.equivalence.equal:
                return made
        except RunError:
            pass  # some size in it was made for one row
    return _try_onnx(graph, layouts, columns, path, dynamic=False)


def _try_onnx(graph: Graph, layouts: Layouts, columns: Columns, path: Path, *, dynamic: bool) -> Export:
    import onnxruntime

    path.write_bytes(write_onnx(graph, layouts, dynamic=dynamic))
    options, outputs = onnxruntime.SessionOptions(), list(graph.signature.outputs)
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no other root
        raise ExportError(f"onnxruntime refuses the ONNX that was written: {one_line(error)}") from error

    def call(feed: Feed) -> Outputs:
        try:
            return dict(zip(outputs, session.run(outputs, dict(feed)), strict=True))
        except Exception as error:
            raise RunError(f"onnxruntime cannot run the ONNX that was written: {one_line(error)}") from error

    return _checked(graph, layouts, columns, path, call, None if dynamic else 1)


def _export_tflite(graph: Graph, layouts: Layouts, columns: Columns, path: Path) -> Export:
    """In the graph's own layout; the reference kernels against the optimised ones."""
    path.write_bytes(graph.content)
    observer = Observer(graph)

    def call(feed: Feed) -> Outputs:
        observer.run(feed)
        return observer.outputs()

    inner = {
        name: np.transpose(column, layouts[name]) if name in layouts else column for name, column in columns.items()
    }
    return _checked(graph, {}, inner, path, call, 1)


def _export_savedmodel(graph: Graph, layouts: Layouts, columns: Columns, path: Path) -> Export:
    """One signature; TensorFlow takes only letters, digits and underscores in names."""
    ends = [*graph.signature.inputs, *graph.signature.outputs]
    names = dict(zip(ends, unique([_plain(name) for name in ends]), strict=True))
    module = tf.Module()
    with quiet():
        module.serve = _serving(graph, layouts, names)
        tf.saved_model.save(module, str(path), signatures={_SIGNATURE: module.serve})
        serve = tf.saved_model.load(str(path)).signatures[_SIGNATURE]

    def call(feed: Feed) -> Outputs:
        made = serve(**{names[name]: tf.constant(value) for name, value in feed.items()})
        return {name: made[names[name]].numpy() for name in graph.signature.outputs}

    return _checked(graph, layouts, columns, path, call, 1, names)


def _serving(graph: Graph, layouts: Layouts, names: Mapping[str, str]) -> Any:
    """A ``tf.function`` of one row."""
    program, tensors = Program(graph), {tensor.name: tensor for tensor in graph.tensors}
    specs = []
    for name, tensor in graph.signature.inputs.items():
        shape = np.array(tensors[tensor].shape)
        shape = shape[np.argsort(layouts[name])] if name in layouts else shape
        specs.append(tf.TensorSpec(shape.tolist(), tensors[tensor].dtype.lower(), name=names[name]))

    def serve(*values: Any) -> dict[str, Any]:
        fed = dict(zip(graph.signature.inputs, values, strict=True))
        fed |= {name: tf.transpose(fed[name], layouts[name]) for name in layouts if name in fed}
        made = program.outputs(program.run(fed))
        back = {name: np.argsort(layouts[name]) for name in layouts if name in made}
        made |= {name: tf.transpose(made[name], order) for name, order in back.items()}
        return {names[name]: value for name, value in made.items()}

    return tf.function(serve, input_signature=specs, autograph=False)


def _plain(name: str) -> str:
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return plain if plain[:1].isalpha() else f"x{plain}"


def _checked(
    graph: Graph,
    layouts: Layouts,
    columns: Columns,
    path: Path,
    call: Callable[[Feed], Outputs],
    batch: int | None,
    names: Mapping[str, str] | None = None,
) -> Export:
    dtypes = {name: column.dtype for name, column in columns.items()}
    equivalence = compare(graph, layouts, columns, lambda part: in_batches(call, part, dtypes, batch or BATCH))
    ends = (*graph.signature.inputs, *graph.signature.outputs)
    return Export(path, batch, equivalence, names or {name: name for name in ends})
