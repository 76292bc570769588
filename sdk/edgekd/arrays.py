"""Tensor data as people have it: an ``.npz`` with one array for each input of the model, and ``y`` for the labels."""

from __future__ import annotations

import hashlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.errors import DataError
from edgekd_converters.graph import Tensor
from edgekd_converters.observe import Columns

LABELS = "y"
_ANY_INPUT = "x"
# What numpy and zipfile raise, depending on where a file is broken.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, EOFError, ValueError),
    *(OverflowError, KeyError, NotImplementedError, RuntimeError, OSError),
)


@dataclass(frozen=True)
class ArrayData:
    """``columns``: input name → ``(n, …)`` in the input's dtype. ``labels``: ``(n,) int32``, None if there are none."""

    path: Path
    columns: Columns
    labels: npt.NDArray[np.int32] | None
    sha256: str


def read_arrays(path: Path, inputs: Mapping[str, Tensor], classes: int | None) -> ArrayData:
    """Read arrays named as the model's ``inputs``; of a single input, ``x`` will do. Nothing in the file is ever run.

    Numbers are taken as they are, never rescaled: integers for a float32 input become the same numbers in float32.
    ``y`` is read only where the model is a classifier of ``classes`` and has no input of that name.

    Raises ``DataError`` naming file and array.
    """
    with _open(path) as archive:
        columns = {name: _column(path, archive, name, tensor, len(inputs) == 1) for name, tensor in inputs.items()}
        wanted = classes is not None and LABELS not in inputs and LABELS in archive.files
        labels = _read(path, archive, LABELS) if wanted else None
    counts = {name: len(column) for name, column in columns.items()}
    if labels is not None:
        counts[LABELS] = len(labels) if labels.ndim else 0
    if len(set(counts.values())) > 1:
        raise DataError(f"{path}: the arrays differ in rows: {', '.join(f'{n} has {k}' for n, k in counts.items())}")
    if not min(counts.values()):
        raise DataError(f"{path}: the file holds no rows")
    targets = None if labels is None or classes is None else _targets(path, labels, classes)
    with path.open("rb") as file:
        return ArrayData(path, columns, targets, hashlib.file_digest(file, "sha256").hexdigest())


def _open(path: Path) -> Any:
    """The archive, to be closed by the caller."""
    if path.suffix.lower() != ".npz":
        raise DataError(f"{path}: the model takes tensors, so its data must be .npz, not {path.suffix or 'this'}")
    try:
        archive = np.load(path, allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except _DAMAGED as error:
        raise DataError(f"{path}: not an .npz file, or a damaged one; write it with numpy.savez") from error
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise DataError(f"{path}: not an .npz file; write it with numpy.savez")
    return archive


def _read(path: Path, archive: Any, name: str) -> npt.NDArray[Any]:
    try:
        array = archive[name]
    except _DAMAGED as error:
        raise DataError(f"{path}: array {name!r} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: {name!r} is not an array of numbers")
    return array


def _column(path: Path, archive: Any, name: str, tensor: Tensor, single: bool) -> npt.NDArray[Any]:
    key = _ANY_INPUT if single and name not in archive.files and _ANY_INPUT in archive.files else name
    if key not in archive.files:
        hint = f" or {_ANY_INPUT!r}" if single else ""
        have = ", ".join(repr(one) for one in archive.files) or "none"
        raise DataError(f"{path}: there is no array {name!r}{hint} for the model's input; the arrays are: {have}")
    array = _read(path, archive, key)
    if array.shape[1:] != tensor.shape[1:] or array.ndim != len(tensor.shape):
        wanted = ", ".join(["n", *map(str, tensor.shape[1:])])
        raise DataError(f"{path}: {key!r} must have shape [{wanted}], not {list(array.shape)}")
    return _as_dtype(path, key, array, np.dtype(tensor.dtype.lower()))


def _as_dtype(path: Path, key: str, array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """The same numbers in the model's dtype. Raises ``DataError`` when that dtype cannot hold them."""
    if array.dtype != dtype and array.dtype.kind not in {"f": "fiu", "i": "iu", "u": "iu"}.get(dtype.kind, ""):
        raise DataError(f"{path}: {key!r} must be {dtype}, not {array.dtype}")
    if not array.size:
        return array.astype(dtype)
    low, high = array.min(), array.max()
    if dtype.kind == "f":
        limits: Any = np.finfo(dtype)
        if not np.isfinite([low, high]).all():
            raise DataError(f"{path}: {key!r} holds NaN or infinity")
    elif dtype.kind in "iu":
        limits = np.iinfo(dtype)
    else:
        return array
    if low < limits.min or high > limits.max:
        raise DataError(f"{path}: {key!r} holds numbers that {dtype} cannot ({low} to {high})")
    return array.astype(dtype, copy=False)


def _targets(path: Path, labels: npt.NDArray[Any], classes: int) -> npt.NDArray[np.int32]:
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{path}: {LABELS!r} must be integers of shape [n], not {labels.dtype} {list(labels.shape)}")
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"{path}: {LABELS!r} runs from {labels.min()} to {labels.max()}; the model's classes are 0 to {classes - 1}"
        )
    return labels.astype(np.int32)
