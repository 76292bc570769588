"""Text data as people have it: CSV or JSON Lines, one column of text and one of labels."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.errors import DataError
from edgekd_runtime.errors import InputError
from edgekd_runtime.preprocess import TextNgram

_MAX_FIELD_CHARS = 1 << 20


@dataclass(frozen=True)
class TextData:
    """``texts[i]`` carries ``labels[i]``; ``labels`` is empty where the file was read without a label column."""

    path: Path
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    sha256: str

    def __len__(self) -> int:
        return len(self.texts)

    def classes(self) -> tuple[str, ...]:
        """The distinct labels, sorted."""
        return tuple(sorted(set(self.labels)))

    def targets(self, classes: tuple[str, ...]) -> npt.NDArray[np.int32]:
        """``(n,) int32`` indices into ``classes``. Raises ``DataError`` for a label that is not among them."""
        index = {label: i for i, label in enumerate(classes)}
        if unknown := sorted(set(self.labels) - set(index)):
            raise DataError(f"{self.path}: label {unknown[0]!r} does not occur in the training data")
        return np.array([index[label] for label in self.labels], np.int32)


def read_text_data(
    path: Path, text_column: str, label_column: str | None, *, labels_optional: bool = False
) -> TextData:
    """Read ``.csv``, ``.jsonl`` or ``.ndjson`` (by suffix). Raises ``DataError`` naming file, line and column.

    ``labels_optional``: a file whose first row has no ``label_column`` is read without labels.
    """
    suffix = path.suffix.lower()
    if suffix not in _ROWS:
        raise DataError(f"{path}: text data must be .csv or .jsonl, not {suffix or 'a file without a suffix'}")
    try:
        raw = path.read_bytes()
        content = raw.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    texts: list[str] = []
    labels: list[str] = []
    for line, row in _ROWS[suffix](path, content):
        if labels_optional and not texts and label_column not in row:
            label_column = None
        texts.append(_field(path, line, row, text_column))
        if label_column is not None:
            labels.append(_field(path, line, row, label_column))
    if not texts:
        raise DataError(f"{path}: the file holds no rows")
    return TextData(path, tuple(texts), tuple(labels), hashlib.sha256(raw).hexdigest())


def _field(path: Path, line: int, row: Mapping[str, Any], column: str) -> str:
    if column not in row:
        have = ", ".join(str(name) for name in row if name is not None)
        raise DataError(f"{path}, line {line}: there is no column {column!r}; the columns are: {have}")
    value = row[column]
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{path}, line {line}: column {column!r} is empty or not a text")
    if not is_unicode(value):
        raise DataError(f"{path}, line {line}: column {column!r} holds half a character (a lone surrogate)")
    return value.strip()


def is_unicode(text: str) -> bool:
    """Whether ``text`` can be written as UTF-8; JSON's ``\\ud800`` gives one that cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_ids(preprocess: TextNgram, texts: Sequence[str], source: Path, *, cut: bool = False) -> npt.NDArray[np.int32]:
    """``(n, length) int32`` ids. ``cut`` shortens texts longer than a server takes instead of refusing them.

    Raises ``DataError`` naming ``source`` and the text.
    """
    rows = []
    for text in texts:
        try:
            rows.append(preprocess(text[: preprocess.max_chars] if cut else text))
        except InputError as error:
            raise DataError(f"{source}: {text[:40]!r}: {error}") from error
    return np.stack(rows)


def _csv_rows(path: Path, content: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(_MAX_FIELD_CHARS)
    reader = csv.DictReader(io.StringIO(content, newline=""), strict=True)
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not CSV: {error}") from error


def _json_rows(path: Path, content: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(content.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: every line must be a JSON object")
        yield number, row


_ROWS = {".csv": _csv_rows, ".jsonl": _json_rows, ".ndjson": _json_rows}


def stratified_holdout(targets: npt.NDArray[np.int32], fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """``(n,) bool``, true for rows held out: ``fraction`` of each class, none of a class with a single row."""
    rng = np.random.default_rng(seed)
    held = np.zeros(len(targets), np.bool_)
    for target in np.unique(targets):
        rows = rng.permutation(np.flatnonzero(targets == target))
        held[rows[: min(len(rows) - 1, max(1, round(fraction * len(rows))))]] = True
    return held
