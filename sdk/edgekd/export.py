"""``edgekd export`` on one screen: load → read samples → check the float graph → write, checked → put in place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekd.errors import DataError, UsageError
from edgekd.fits import public_inputs
from edgekd.inputs import count
from edgekd.report import SCHEMA_VERSION
from edgekd.samples import read_text_data, to_ids
from edgekd.sources import read_samples
from edgekd.stages import Stages
from edgekd.student import open_student
from edgekd.versions import versions
from edgekd_converters.export import Export, draw_columns, export
from edgekd_converters.graph import Graph
from edgekd_converters.load import Opened, open_model
from edgekd_converters.load.equivalence import Equivalence, check, to_source
from edgekd_converters.load.source import LoadOptions
from edgekd_converters.observe import Columns
from edgekd_runtime import atomic
from edgekd_runtime.preprocess import Preprocess, TextNgram

_SAVEDMODEL = "saved_model.pb"


@dataclass(frozen=True)
class ExportOptions:
    """``target``: ``onnx``, ``savedmodel`` or ``tflite``. Without ``samples`` random ones are drawn by ``seed``.

    ``load``: what the model itself leaves open.
    """

    student: Path
    target: str
    output: Path
    samples: Path | None = None
    text_column: str = "text"
    max_samples: int = 32
    load: LoadOptions = field(default_factory=LoadOptions)
    seed: int = 0

    def check(self) -> None:
        """Raise ``UsageError`` for what can be told before any work is done."""
        if self.samples is not None and not self.samples.exists():
            raise DataError(f"{self.samples}: No such file or directory")
        is_folder = self.target == "savedmodel"
        if is_folder and self.output.exists() and not (self.output / _SAVEDMODEL).is_file():
            raise UsageError(
                f"--output {self.output}: exists and is not a SavedModel folder; name another or remove it"
            )
        if not is_folder and self.output.is_dir():
            raise UsageError(f"--output {self.output}: is a folder; name the file to write")


@dataclass(frozen=True)
class ExportResult:
    path: Path
    report: dict[str, Any]


def export_student(options: ExportOptions, stages: Stages | None = None) -> ExportResult:
    """Any model that can be converted → ``options.output``. Nothing is written unless it computes the same.

    Raises ``UsageError``, ``DataError``, or ``StageError`` naming the stage.
    """
    stages = stages or Stages(quiet=True)
    options.check()
    student = open_student(options.student)
    with stages.held(open_model(student.model, options.load), "load") as opened:
        with stages.stage("read samples"):
            columns = _columns(options, opened, student.preprocess)
        with stages.stage("compare"):
            loaded = check(opened.graph, opened.layouts, columns, opened.run, opened.layers)
        with stages.stage("export"), tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
            made = export(opened.graph, opened.layouts, columns, options.target, Path(folder) / "made")
            _place(made.path, options.output)
    return ExportResult(options.output, _report(options, opened, columns, loaded, made, stages))


def _columns(options: ExportOptions, opened: Opened, preprocess: Preprocess | None) -> Columns:
    """In the source's layout."""
    graph, layouts = opened.graph, opened.layouts
    if options.samples is None:
        return draw_columns(graph, layouts, options.seed)
    if isinstance(preprocess, TextNgram):
        texts = read_text_data(options.samples, options.text_column, None).texts[: options.max_samples]
        return {next(iter(graph.signature.inputs)): to_ids(preprocess, texts, options.samples, cut=True)}
    read = read_samples(options.samples, public_inputs(graph), None, layouts=layouts, preprocess=preprocess)
    return to_source({name: column[: options.max_samples] for name, column in read.columns.items()}, layouts)


def _place(made: Path, output: Path) -> None:
    """Move into place at once; a SavedModel that was there before leaves at the same moment."""
    try:
        if made.is_file():
            atomic.write_bytes(output, made.read_bytes())
            return
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as beside:
            new, old = Path(beside) / "new", Path(beside) / "old"
            shutil.copytree(made, new)
            if output.exists():
                output.rename(old)
            new.rename(output)
    except OSError as error:
        raise UsageError(f"--output {output}: {error.strerror or error}") from error


def _report(
    options: ExportOptions, opened: Opened, columns: Columns, loaded: Equivalence, made: Export, stages: Stages
) -> dict[str, Any]:
    in_source = options.target != "tflite"
    return {
        "edgekd": "export",
        "schema_version": SCHEMA_VERSION,
        "format": opened.format,
        "target": options.target,
        "output": str(options.output),
        "batch": made.batch,
        "inputs": _ends(opened.graph, opened.graph.signature.inputs, opened.layouts if in_source else {}, made),
        "outputs": _ends(opened.graph, opened.graph.signature.outputs, opened.layouts if in_source else {}, made),
        "samples": {"file": str(options.samples) if options.samples else None, "rows": count(columns)},
        "equivalence": {"loaded": loaded.to_dict(), "written": made.equivalence.to_dict()},
        "notes": [*opened.notes, *_notes(options, opened, made)],
        "seconds": dict(stages.seconds),
        "versions": versions(),
    }


def _ends(
    graph: Graph, names: Mapping[str, str], layouts: Mapping[str, tuple[int, ...]], made: Export
) -> list[dict[str, Any]]:
    """Name, dtype and shape as they are in what was written; None for an open batch."""
    by_name, ends = {tensor.name: tensor for tensor in graph.tensors}, []
    for name, tensor in names.items():
        shape: list[int | None] = list(by_name[tensor].shape)
        if name in layouts:
            shape = [shape[layouts[name].index(axis)] for axis in range(len(shape))]
        if made.batch is None:
            shape[0] = None
        ends.append({"name": made.names[name], "dtype": by_name[tensor].dtype.lower(), "shape": shape})
    return ends


def _notes(options: ExportOptions, opened: Opened, made: Export) -> list[str]:
    notes = [f"{name!r} is called {there!r} in the SavedModel" for name, there in made.names.items() if name != there]
    if options.target == "tflite" and opened.layouts:
        notes.append(f"{', '.join(map(repr, opened.layouts))}: channels come last in the .tflite, not as in the model")
    return notes
