"""Files that the command line is given to run: pictures and sounds as they are, tensors from ``.npz`` and ``.npy``."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_runtime.backend import TensorSpec
from edgekd_runtime.engine import Arrays
from edgekd_runtime.errors import InputError

TENSOR_SUFFIXES = (".npz", ".npy")
MAX_BYTES = 256 << 20
_ANY_INPUT = "x"
# What numpy and zipfile raise, depending on where an array file is broken.
DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, struct.error, tokenize.TokenError, EOFError, ValueError, SyntaxError),
    *(OverflowError, KeyError, RuntimeError, MemoryError, TypeError),
)


def read_bytes(path: Path) -> bytes:
    """The whole file. Raises ``InputError`` where it cannot be read or is larger than ``MAX_BYTES``."""
    try:
        _check_size(path)
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def read_tensors(path: Path, specs: Sequence[TensorSpec]) -> Arrays:
    """The model's inputs by name; of a single input, ``x`` or a ``.npy`` will do. Nothing in the file is ever run.

    Floats are taken as float32; of all else the dtype must be the model's own. Raises ``InputError``.
    """
    try:
        arrays = _arrays(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except DAMAGED as error:
        raise InputError(f"{path}: not an array file that can be read: {' '.join(str(error).split())[:200]}") from error
    if len(specs) == 1 and specs[0].name not in arrays and _ANY_INPUT in arrays:
        arrays[specs[0].name] = arrays[_ANY_INPUT]
    if missing := [spec.name for spec in specs if spec.name not in arrays]:
        raise InputError(f"{path}: there is no array {missing[0]!r}; the arrays are: {', '.join(arrays) or 'none'}")
    taken = {spec.name: arrays[spec.name] for spec in specs}
    return {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in taken.items()}


def _check_size(path: Path) -> None:
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path}: larger than {MAX_BYTES} bytes")


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    _check_size(path)
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {_ANY_INPUT: loaded}
    with loaded as archive:
        if sum(info.file_size for info in archive.zip.infolist()) > MAX_BYTES:
            raise InputError(f"{path}: unpacks to more than {MAX_BYTES} bytes")
        arrays = {name: archive[name] for name in archive.files}
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
