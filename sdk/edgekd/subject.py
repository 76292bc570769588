"""A model at any stage, from a student's folder to a bundle, opened to be scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.errors import DataError, UsageError
from edgekd.fits import count_classes, public_inputs
from edgekd.metrics import Truth
from edgekd.preprocessing import preprocess_for
from edgekd.report.read import REPORT, read_report
from edgekd.samples import read_text_data, to_ids
from edgekd.sources import read_samples
from edgekd.stages import Stages
from edgekd.student import open_student
from edgekd.truth import truth_of
from edgekd_converters.cost import count_macs
from edgekd_converters.errors import LoadError
from edgekd_converters.graph import Graph, Signature, Tensor, read_graph
from edgekd_converters.integer import precision_of
from edgekd_converters.load import open_model
from edgekd_converters.load.source import LoadOptions
from edgekd_converters.observe import Columns
from edgekd_converters.simulate import grids_of
from edgekd_runtime.bundle import Bundle, load_bundle
from edgekd_runtime.preprocess import Preprocess, TextNgram

_BUNDLE = ".edgekd"


@dataclass(frozen=True)
class Subject:
    """``graph`` is what runs; ``layouts`` take the arrays of callers to it. ``kind``: what was opened."""

    path: Path
    kind: str
    precision: str
    graph: Graph
    preprocess: Preprocess | None
    labels: tuple[str, ...]
    layouts: Mapping[str, tuple[int, ...]]

    def describe(self) -> dict[str, Any]:
        """For a report."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "precision": self.precision,
            "bytes": len(self.graph.content),
            "macs": count_macs(self.graph),
        }

    def to_source(self, outputs: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The graph's first outputs in the layout that callers see."""
        axes = self.layouts.get(next(iter(self.graph.signature.outputs)))
        return outputs.transpose(np.argsort(axes)) if axes else outputs


@dataclass(frozen=True)
class Data:
    """What a subject is scored on: its inputs, and what is known of them."""

    columns: Columns
    truth: Truth
    sha256: str


def open_subject(
    path: Path,
    stages: Stages,
    load: LoadOptions,
    labels: Path | None = None,
    preprocess: Mapping[str, object] | None = None,
) -> Subject:
    """A bundle; a build folder, for its bundle; a ``.tflite`` of any precision; or whatever ``convert`` takes.

    A ``.tflite`` in a build folder takes its preprocessing and labels from the bundle beside it.
    Raises ``UsageError``, ``DataError``, ``StageError``.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    with stages.stage(f"open {path.name}"):
        if path.suffix == _BUNDLE:
            subject = _of_bundle(path, load_bundle(path), "bundle")
        elif path.is_dir() and (path / REPORT).is_file():
            subject = _of_bundle(path, load_bundle(_beside(path)), "build")
        elif path.suffix == ".tflite" and path.is_file() and _is_quantised(path):
            subject = _of_tflite(path, read_graph(path.read_bytes()))
        else:
            subject = _of_model(path, load, labels)
    if preprocess is not None:
        made = preprocess_for(preprocess, real_inputs(subject.graph))
        subject = replace(subject, preprocess=made)
    return subject


def _of_bundle(path: Path, bundle: Bundle, kind: str) -> Subject:
    graph = replace(read_graph(bundle.model), signature=Signature("", bundle.inputs, bundle.outputs))
    return Subject(path, kind, bundle.precision, graph, bundle.preprocess, bundle.labels, bundle.layouts)


def _of_tflite(path: Path, graph: Graph) -> Subject:
    subject = Subject(path, "tflite", precision_of(graph), graph, None, open_student(path).labels, {})
    return _as_built(subject)


def _of_model(path: Path, load: LoadOptions, labels: Path | None) -> Subject:
    student = open_student(path, labels)
    with open_model(student.model, load) as opened:
        kind = "student" if student.preprocess else opened.format
        subject = Subject(
            path, kind, precision_of(opened.graph), opened.graph, student.preprocess, student.labels, opened.layouts
        )
    return _as_built(subject) if path.suffix == ".tflite" else subject


def _as_built(subject: Subject) -> Subject:
    """With what belongs to it, where it lies in a build folder."""
    folder = subject.path.parent
    if not (folder / REPORT).is_file():
        return subject
    bundle = load_bundle(_beside(folder))
    if list(bundle.inputs) != list(subject.graph.signature.inputs):
        return subject
    layouts = bundle.layouts or subject.layouts
    return replace(subject, preprocess=bundle.preprocess, labels=bundle.labels or subject.labels, layouts=layouts)


def _beside(folder: Path) -> Path:
    return folder / f"{read_report(folder)['name']}{_BUNDLE}"


def _is_quantised(path: Path) -> bool:
    try:
        return precision_of(read_graph(path.read_bytes())) != "float32"
    except LoadError as error:
        raise DataError(f"{path}: {error}") from error


def real_inputs(graph: Graph) -> dict[str, Tensor]:
    """The public inputs as callers send them: quantised ones as ``FLOAT32``."""
    grids = grids_of(graph)
    return {
        name: replace(tensor, dtype="FLOAT32") if tensor.name in grids else tensor
        for name, tensor in public_inputs(graph).items()
    }


def read_data(path: Path, subject: Subject, text_column: str, label_column: str) -> Data:
    """Rows with their labels, if they have any. Raises ``DataError``."""
    if not path.exists():
        raise DataError(f"{path}: No such file or directory")
    graph = subject.graph
    if isinstance(subject.preprocess, TextNgram):
        (name,) = graph.signature.inputs
        texts = read_text_data(path, text_column, label_column, labels_optional=True)
        if unknown := sorted(set(texts.labels) - set(subject.labels)):
            raise DataError(f"{path}: {subject.path} has no label {unknown[0]!r}")
        targets = texts.targets(subject.labels) if texts.labels else None
        return Data({name: to_ids(subject.preprocess, texts.texts, path)}, Truth(classes=targets), texts.sha256)
    read = read_samples(
        path,
        real_inputs(graph),
        count_classes(graph),
        labels=subject.labels,
        layouts=subject.layouts,
        preprocess=subject.preprocess,
        values=True,
    )
    axes = subject.layouts.get(next(iter(graph.signature.outputs)))
    return Data(read.columns, truth_of(graph, read.columns, read.labels, read.values, path, axes), read.sha256)
