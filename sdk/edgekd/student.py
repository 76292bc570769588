"""A student: the folder that ``edgekd distill`` writes, or a model of any format."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import DataError, UsageError
from edgekd_runtime.errors import PreprocessError
from edgekd_runtime.preprocess import Preprocess, load

_MODEL = "student.keras"
_RECORD = "distill.json"


@dataclass(frozen=True)
class Student:
    """A model with what turns raw text into its input and its output into labels.

    ``preprocess`` is None where the model takes tensors; ``labels`` is empty where nobody has named the classes.
    """

    model: Path
    preprocess: Preprocess | None
    labels: tuple[str, ...]


def open_student(path: Path, labels: Path | None = None) -> Student:
    """A model; or a folder with ``student.keras``, ``preprocess.json`` and ``labels.txt``, or the first of these.

    ``labels`` names the classes of a model; without it a ``labels.txt`` beside the file does, if there is one.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    is_student = path.is_dir() and not (path / "saved_model.pb").is_file()
    model = path / _MODEL if is_student else path
    if model.name != _MODEL:
        return Student(model, None, _named_classes(model, labels))
    if labels is not None:
        raise UsageError(f"--labels is for a model without names of its own; {path} has its labels.txt")
    return _open_folder(model)


def record_of(student: Student) -> dict[str, Any]:
    """What the student's ``distill.json`` says; nothing where it has none."""
    file = student.model.parent / _RECORD
    if student.model.name != _MODEL or not file.is_file():
        return {}
    content: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return content


def _open_folder(model: Path) -> Student:
    files = {name: model.parent / name for name in ("preprocess.json", "labels.txt")}
    for name, file in {"student.keras": model, **files}.items():
        if not file.is_file():
            raise UsageError(
                f"{file.parent}: {name} is missing; a student folder is what 'edgekd distill' writes, and a SavedModel "
                "folder holds saved_model.pb"
            )
    try:
        preprocess = load(json.loads(files["preprocess.json"].read_text("utf-8")))
        labels = _read_labels(files["labels.txt"])
        _check_whole(model.parent)
    except OSError as error:
        raise DataError(f"{model.parent}: {error.strerror or error}") from error
    except (ValueError, RecursionError, PreprocessError) as error:
        raise DataError(f"{model.parent}: {error}") from error
    return Student(model, preprocess, labels)


def _named_classes(model: Path, labels: Path | None) -> tuple[str, ...]:
    file = labels or model.parent / "labels.txt"
    if labels is None and not file.is_file():
        return ()
    try:
        return _read_labels(file)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: {error}") from error


def _read_labels(file: Path) -> tuple[str, ...]:
    labels = tuple(file.read_text("utf-8").splitlines())
    if not labels or len(set(labels)) != len(labels) or not all(labels):
        raise DataError(f"{file}: labels must be one to a line, none empty, none twice")
    return labels


def _check_whole(folder: Path) -> None:
    """Files that ``distill.json`` lists must be those it was written with; a folder without one is the user's own."""
    record = folder / _RECORD
    if not record.is_file():
        return
    content = json.loads(record.read_text("utf-8"))
    files = content.get("files", {}) if isinstance(content, dict) else None
    if not isinstance(files, dict):
        raise DataError(f"{record}: is not as 'edgekd distill' writes it; distil again, or remove it")
    for name, wanted in files.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != wanted:
            raise DataError(
                f"{folder}: {name} is not the one that distill.json was written with; distil again, or "
                "remove distill.json if you changed it on purpose"
            )
