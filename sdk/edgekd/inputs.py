"""What a conversion reads before it works: samples, held-out data, answers; checked, and as the model takes them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.archive import hash_files
from edgekd.arrays import ArrayData
from edgekd.columns import select
from edgekd.errors import DataError
from edgekd.fits import count_classes, public_inputs
from edgekd.metrics import Truth
from edgekd.options import ConvertOptions
from edgekd.samples import TextData, is_unicode, read_text_data, to_ids
from edgekd.sources import read_samples
from edgekd.student import Student, open_student
from edgekd.truth import truth_of
from edgekd_converters.graph import Graph
from edgekd_converters.observe import Columns
from edgekd_runtime.preprocess import TextNgram

Targets = npt.NDArray[np.int32]

_GOLDEN_FILES = 4
_GOLDEN_FILE_BYTES = 128 << 10


@dataclass(frozen=True)
class Inputs:
    """Columns are ``(n, …)`` by the model's public input names, in the graph's layout; targets are ``(n,) int32``.

    ``samples`` are at most ``max_samples`` rows; ``texts``, where the model takes text, are theirs, and so are
    ``paths``, where every sample is a file. ``training`` is all of the same file, read where there will be training;
    ``labels`` belong to it, ``sample_targets`` to ``samples``, ``targets`` to ``evaluation``; ``truth`` is all that is
    known of what is judged. ``class_names``: those that the data give to a model that has none. ``notes``: what was
    found while reading that people should know.
    """

    samples: Columns
    texts: tuple[str, ...]
    training: Columns | None
    labels: Targets | None
    evaluation: Columns | None
    targets: Targets | None
    truth: Truth
    out_of_scope: Columns | None
    answers: dict[str, dict[str, str]]
    files: dict[str, str]
    sample_targets: Targets | None = None
    paths: tuple[Path, ...] = ()
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def judged(self) -> Columns:
        """What float and int8 are compared on."""
        return self.samples if self.evaluation is None else self.evaluation


def count(columns: Columns) -> int:
    """Rows of columns, which all have the same number."""
    return len(next(iter(columns.values())))


def take(columns: Columns, rows: npt.NDArray[Any] | slice) -> Columns:
    """Those rows of every column, in memory; :func:`edgekd.columns.select` leaves them where they are."""
    return {name: column[rows] for name, column in columns.items()}


def golden_files(data: Inputs, rows: npt.NDArray[Any]) -> tuple[bytes, ...]:
    """The files that these samples were made of, to be packed with them: a few small ones, the others empty."""
    if not data.paths:
        return ()
    packed: list[bytes] = []
    for row in rows:
        path = data.paths[row]
        small = sum(map(bool, packed)) < _GOLDEN_FILES and path.stat().st_size <= _GOLDEN_FILE_BYTES
        packed.append(path.read_bytes() if small else b"")
    return tuple(packed) if any(packed) else ()


def read_inputs(
    options: ConvertOptions, student: Student, graph: Graph, layouts: Mapping[str, tuple[int, ...]] | None = None
) -> Inputs:
    """Raises ``DataError`` naming file, line, text or array.

    ``layouts``: the axes that take the source's inputs to the graph's, where the two differ.
    """
    if isinstance(student.preprocess, TextNgram):
        return _read_texts(options, student, student.preprocess, next(iter(graph.signature.inputs)))
    return _read_tensors(options, student, graph, layouts or {})


def _read_texts(options: ConvertOptions, student: Student, preprocess: TextNgram, name: str) -> Inputs:
    label_column = options.label_column if options.recover else None
    samples = read_text_data(_file(options.samples), options.text_column, label_column, labels_optional=True)
    evaluation, foreign = None, None
    if options.evaluation:
        column = None if options.metric == "agreement" else options.label_column
        evaluation = read_text_data(_file(options.evaluation), options.text_column, column)
    if options.out_of_scope:
        foreign = read_text_data(_file(options.out_of_scope), options.text_column, None)
    chosen = tuple(samples.texts[i] for i in _choose(len(samples), options))
    # Training rows are the caller's own: they may be longer than what a server takes from strangers.
    training = {name: to_ids(preprocess, samples.texts, samples.path, cut=True)} if options.recover else None
    targets = _targets(student, evaluation) if evaluation and evaluation.labels else None
    return Inputs(
        samples={name: to_ids(preprocess, chosen, samples.path)},
        texts=chosen,
        training=training,
        labels=_targets(student, samples) if samples.labels else None,
        evaluation={name: to_ids(preprocess, evaluation.texts, evaluation.path)} if evaluation else None,
        targets=targets,
        truth=Truth(classes=targets),
        out_of_scope={name: to_ids(preprocess, foreign.texts, foreign.path)} if foreign else None,
        answers=_answers(options.answers, student),
        files=_hashes(options, student, samples, evaluation, foreign),
    )


def _file(source: Path | Iterable[Any]) -> Path:
    if isinstance(source, Path):
        return source
    raise DataError("a model of texts takes a .csv or .jsonl file, not an iterable")


def _read_tensors(
    options: ConvertOptions, student: Student, graph: Graph, layouts: Mapping[str, tuple[int, ...]]
) -> Inputs:
    inputs, classes = public_inputs(graph), count_classes(graph)
    how: dict[str, Any] = {"layouts": layouts, "preprocess": student.preprocess}
    samples = read_samples(options.samples, inputs, classes, labels=student.labels, **how)
    names = student.labels or samples.classes
    evaluation, foreign = None, None
    if options.evaluation:
        labelled = options.metric != "agreement"
        evaluation = read_samples(
            options.evaluation, inputs, classes, labels=names, labelled=labelled, values=True, **how
        )
        if labelled and evaluation.labels is None and classes is not None:
            raise DataError(
                f"{evaluation.path}: --eval needs labels, an array 'y' of {classes} classes; --metric agreement goes "
                "without"
            )
    if options.out_of_scope:
        foreign = read_samples(options.out_of_scope, inputs, None, **how)
    chosen = _choose(count(samples.columns), options)
    taken = select(samples.columns, chosen)
    parts = [part for part in (samples, evaluation, foreign) if part]
    return Inputs(
        samples=taken,
        texts=(),
        training=samples.columns if options.recover else None,
        labels=samples.labels if options.recover else None,
        evaluation=evaluation.columns if evaluation else None,
        targets=evaluation.labels if evaluation else None,
        truth=truth_of(
            graph,
            evaluation.columns if evaluation else taken,
            evaluation.labels if evaluation else None,
            evaluation.values if evaluation else None,
            evaluation.path if evaluation else samples.path,
            layouts.get(next(iter(graph.signature.outputs))),
        ),
        out_of_scope=foreign.columns if foreign else None,
        answers=_answers(options.answers, student),
        files=_hashes(options, student, samples, evaluation, foreign),
        sample_targets=None if samples.labels is None else samples.labels[chosen],
        paths=tuple(samples.files[row] for row in chosen) if samples.files else (),
        class_names=() if student.labels else samples.classes or (evaluation.classes if evaluation else ()),
        notes=tuple(dict.fromkeys(note for part in parts for note in part.notes)),
    )


def _choose(rows: int, options: ConvertOptions) -> npt.NDArray[np.int64]:
    """``max_samples`` of the row numbers at most, in order."""
    if rows <= options.max_samples:
        return np.arange(rows)
    return np.sort(np.random.default_rng(options.seed).choice(rows, options.max_samples, replace=False))


def _hashes(
    options: ConvertOptions,
    student: Student,
    samples: TextData | ArrayData,
    evaluation: TextData | ArrayData | None,
    foreign: TextData | ArrayData | None,
) -> dict[str, str]:
    """Role → SHA-256 of every file that the result hangs on."""
    used = {"samples": samples.sha256, "student": _hash_of(student.model)}
    for role, part in (("eval", evaluation), ("out_of_scope", foreign)):
        if part:
            used[role] = part.sha256
    teacher = options.teacher and open_student(options.teacher).model
    for role, path in (("answers", options.answers), ("labels", options.labels), ("teacher", teacher)):
        if path:
            used[role] = _hash_of(path)
    return used


def _hash_of(path: Path) -> str:
    """SHA-256 of a file; of a folder, of all its files by their names."""
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    return hash_files(path, files)


def _targets(student: Student, data: TextData) -> Targets:
    if unknown := sorted(set(data.labels) - set(student.labels)):
        raise DataError(f"{data.path}: the student has no label {unknown[0]!r}")
    return data.targets(student.labels)


def _answers(path: Path | None, student: Student) -> dict[str, dict[str, str]]:
    """``{label: {language: text}}``, checked. Labels without an answer are allowed, answers without a label are not."""
    if path is None:
        return {}
    try:
        answers = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(answers, dict) or not all(isinstance(texts, dict) for texts in answers.values()):
        raise DataError(f"{path}: must hold an object of label → language → text")
    for language, text in (pair for texts in answers.values() for pair in texts.items()):
        if not isinstance(text, str) or not is_unicode(language + text):
            raise DataError(f"{path}: every language and answer must be a text, of whole characters")
    if unknown := sorted(set(answers) - set(student.labels)):
        raise DataError(f"{path}: the student has no label {unknown[0]!r}")
    return answers
