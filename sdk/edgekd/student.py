"""A student folder, as ``edgekd distill`` writes it and ``edgekd convert`` reads it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from edgekd.errors import DataError, UsageError
from edgekd_runtime.errors import PreprocessError
from edgekd_runtime.preprocess import TextNgram, load


@dataclass(frozen=True)
class Student:
    """A Keras model with what turns raw text into its input and its output into labels."""

    model: Path
    preprocess: TextNgram
    labels: tuple[str, ...]


def open_student(path: Path) -> Student:
    """A folder with ``student.keras``, ``preprocess.json`` and ``labels.txt``, or the ``.keras`` file in it."""
    if path.is_dir():
        model = path / "student.keras"
    elif path.is_file():
        model = path
    else:
        raise UsageError(f"{path}: no such file or folder")
    files = {name: model.parent / name for name in ("preprocess.json", "labels.txt")}
    for name, file in {"student.keras": model, **files}.items():
        if not file.is_file():
            raise UsageError(f"{file.parent}: {name} is missing; a student folder is what 'edgekd distill' writes")
    try:
        preprocess = load(json.loads(files["preprocess.json"].read_text("utf-8")))
        labels = tuple(files["labels.txt"].read_text("utf-8").splitlines())
        _check_whole(model.parent)
    except OSError as error:
        raise DataError(f"{model.parent}: {error.strerror or error}") from error
    except (ValueError, RecursionError, PreprocessError) as error:
        raise DataError(f"{model.parent}: {error}") from error
    if len(set(labels)) != len(labels) or not all(labels):
        raise DataError(f"{files['labels.txt']}: labels must be one to a line, none empty, none twice")
    return Student(model, preprocess, labels)


def _check_whole(folder: Path) -> None:
    """Files that ``distill.json`` lists must be those it was written with; a folder without one is the user's own."""
    record = folder / "distill.json"
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
