"""Which format a file is in: told from its content, never from its name."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import BinaryIO

from edgekd_converters.errors import LoadError, SourceNotFoundError
from edgekd_converters.load import torch_guard

_TAKEN = ".keras, Keras .h5, a SavedModel folder, .onnx, PyTorch .pt2 or module, .tflite"
_ONNX_FIELDS = {1: 0, 2: 2, 3: 2, 4: 2, 5: 0, 6: 2, 7: 2, 8: 2, 14: 2, 20: 2, 25: 2, 26: 2}  # ModelProto: wire types
_ONNX_GRAPH, _ONNX_OPSETS = 7, 8


def detect(path: Path) -> str:
    """``keras``, ``h5``, ``savedmodel``, ``onnx``, ``pt2`` (torch.export), ``torch`` (a module) or ``tflite``.

    Raises ``SourceNotFoundError``, or ``LoadError`` that says what was found instead.
    """
    try:
        if path.is_dir():
            return _detect_folder(path)
        with path.open("rb") as file:
            return _detect_file(path, file)
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"{path}: no such file") from error
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror or error}") from error


def _detect_folder(path: Path) -> str:
    if (path / "saved_model.pb").is_file():
        return "savedmodel"
    found = sorted(entry.name for entry in path.iterdir())
    inside = f"it holds {_few(found)}" if found else "it is empty"
    raise LoadError(f"{path}: not a SavedModel folder, which holds saved_model.pb; {inside}")


def _detect_file(path: Path, file: BinaryIO) -> str:
    head = file.read(64)
    if not head:
        raise LoadError(f"{path}: the file is empty")
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "h5"
    if head.startswith(b"PK"):
        return _detect_zip(path)
    if head.startswith(torch_guard.MAGIC):
        return "torch"
    if _is_onnx(file):
        return "onnx"
    raise LoadError(f"{path}: no model that can be opened ({_TAKEN}): {_describe(head)}")


def _detect_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise LoadError(f"{path}: the zip archive is damaged or cut short: {error}") from error
    if "config.json" in names and {"metadata.json", "model.weights.h5"} & set(names):
        return "keras"
    if torch_guard.is_program(names):
        return "pt2"
    if any(name.partition("/")[2] == "data.pkl" for name in names):  # torch.save puts all into one folder
        return "torch"
    raise LoadError(f"{path}: a zip archive, but of no model that can be opened ({_TAKEN}); it holds {_few(names)}")


def _is_onnx(file: BinaryIO) -> bool:
    """Whether the fields on top are ModelProto's, as far as the graph or to the end; ONNX has no magic number."""
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    seen = set()
    while file.tell() < size:
        tag = _varint(file)
        field, wire = tag >> 3, tag & 7
        if _ONNX_FIELDS.get(field) != wire:
            return False
        seen.add(field)
        if field == _ONNX_GRAPH:
            return len(seen) > 1 or size > 1000
        length = _varint(file)
        if wire:  # length-delimited
            file.seek(length, os.SEEK_CUR)
    return _ONNX_OPSETS in seen


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            break
    return value


def _describe(head: bytes) -> str:
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        return "it is a Python pickle, which is code; save the model itself"
    if head.startswith(b"\x08\x01\x12"):
        return "it is the saved_model.pb of a SavedModel; give the folder that holds it"
    if all(31 < byte < 127 or byte in b"\t\r\n" for byte in head):
        return f"it is text and begins with {head[:20].decode('ascii')!r}"
    return f"it begins with the bytes {head[:8].hex(' ')}"


def _few(names: list[str]) -> str:
    return ", ".join(repr(name)[:60] for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
