"""What a conversion reads before it works: samples, held-out data, answers; checked, and turned into ids."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgekd.errors import DataError
from edgekd.options import ConvertOptions
from edgekd.samples import TextData, is_unicode, read_text_data, to_ids
from edgekd.student import Student


@dataclass(frozen=True)
class Inputs:
    """Ids are ``(n, length) int32``; ``targets`` ``(n,) int32`` belong to ``evaluation``."""

    samples: npt.NDArray[np.int32]
    texts: tuple[str, ...]
    evaluation: npt.NDArray[np.int32] | None
    targets: npt.NDArray[np.int32] | None
    out_of_scope: npt.NDArray[np.int32] | None
    answers: dict[str, dict[str, str]]
    files: dict[str, str]


def read_inputs(options: ConvertOptions, student: Student) -> Inputs:
    """Raises ``DataError`` naming file, line or text."""
    samples = read_text_data(options.samples, options.text_column, None)
    chosen = samples.texts
    if len(chosen) > options.max_samples:
        rows = np.random.default_rng(options.seed).choice(len(chosen), options.max_samples, replace=False)
        chosen = tuple(chosen[i] for i in sorted(rows))
    evaluation = options.evaluation and read_text_data(options.evaluation, options.text_column, options.label_column)
    foreign = options.out_of_scope and read_text_data(options.out_of_scope, options.text_column, None)
    used = {"samples": samples.sha256, "student": hashlib.sha256(student.model.read_bytes()).hexdigest()}
    for role, part in (("eval", evaluation), ("out_of_scope", foreign)):
        if part:
            used[role] = part.sha256
    answers = _answers(options.answers, student)
    if options.answers:
        used["answers"] = hashlib.sha256(options.answers.read_bytes()).hexdigest()
    return Inputs(
        samples=to_ids(student.preprocess, chosen, samples.path),
        texts=chosen,
        evaluation=to_ids(student.preprocess, evaluation.texts, evaluation.path) if evaluation else None,
        targets=_targets(student, evaluation) if evaluation else None,
        out_of_scope=to_ids(student.preprocess, foreign.texts, foreign.path) if foreign else None,
        answers=answers,
        files=used,
    )


def _targets(student: Student, evaluation: TextData) -> npt.NDArray[np.int32]:
    if unknown := sorted(set(evaluation.labels) - set(student.labels)):
        raise DataError(f"{evaluation.path}: the student has no label {unknown[0]!r}")
    return evaluation.targets(student.labels)


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
