"""Array files, mapped into memory: a ``.npy`` as it is, a member of an ``.npz`` where it lies in the file.

``numpy.savez`` writes members uncompressed, so they can be mapped; of ``numpy.savez_compressed`` they must be unpacked.
Nothing in a file is ever run: what numpy would unpickle is refused.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from edgekd.errors import DataError
from edgekd_runtime.files import DAMAGED

ANY_INPUT = "x"  # will do for a single input; the array of a lone .npy is called so
_SUFFIXES = (".npz", ".npy")
_MAX_UNPACKED = 2 << 30
_BLOCK = 1 << 20
_DAMAGED = (*DAMAGED, OSError)


class Archive:
    """Arrays by name. ``notes``: what is worth telling about those that were read."""

    def __init__(self, path: Path, readers: dict[str, Callable[[], npt.NDArray[Any]]], files: list[Path]) -> None:
        self.path, self.names, self.notes = path, tuple(readers), list[str]()
        self._readers, self._files = readers, files

    def read(self, name: str) -> npt.NDArray[Any]:
        """The array, mapped read-only where that is possible. Raises ``DataError``."""
        try:
            array = self._readers[name]()
        except _DAMAGED as error:
            why = " ".join(str(error).split())[:200]
            raise DataError(f"{self.path}: array {name!r} cannot be read: {why}") from error
        if not isinstance(array, np.memmap) and array.nbytes > _BLOCK:
            self.notes.append(
                f"{self.path}: {name!r} is compressed, so it is held in memory; numpy.savez writes it plain"
            )
        return array

    def sha256(self) -> str:
        """Of the file; of a folder, of its files' names and hashes."""
        return hash_files(self.path, self._files)


def open_archive(path: Path) -> Archive:
    """Raises ``DataError`` for what is neither ``.npz`` nor ``.npy`` nor a folder of ``.npy``."""
    if path.is_dir():
        files = sorted(one for one in path.iterdir() if one.suffix.lower() == ".npy")
        return Archive(path, {file.stem: _mapper(file) for file in files}, files)
    if not path.exists():
        raise DataError(f"{path}: No such file or directory")
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        given = path.suffix or "this"
        raise DataError(f"{path}: the model takes tensors, so its data must be .npz, .npy or a folder, not {given}")
    if suffix == ".npy":
        return Archive(path, {ANY_INPUT: _mapper(path)}, [path])
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except _DAMAGED as error:
        raise DataError(f"{path}: not an .npz file, or a damaged one; write it with numpy.savez") from error
    return Archive(path, {info.filename.removesuffix(".npy"): _member(path, info) for info in infos}, [path])


def hash_files(root: Path, files: list[Path]) -> str:
    """SHA-256 of a file, or of many: of their names under ``root`` and their hashes. Raises ``DataError``."""
    try:
        if files == [root]:
            return _hash(root)
        whole = hashlib.sha256()
        for file in files:
            whole.update(f"{file.relative_to(root).as_posix()}\0{_hash(file)}\n".encode("utf-8", "surrogateescape"))
        return whole.hexdigest()
    except OSError as error:
        raise DataError(f"{error.filename or root}: {error.strerror or error}") from error


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _mapper(file: Path) -> Callable[[], npt.NDArray[Any]]:
    def read() -> npt.NDArray[Any]:
        with file.open("rb") as opened:
            return _map(file, opened, file.stat().st_size)

    return read


def _member(path: Path, info: zipfile.ZipInfo) -> Callable[[], npt.NDArray[Any]]:
    def read() -> npt.NDArray[Any]:
        if not info.filename.endswith(".npy"):
            raise ValueError("it is not an array of numbers")
        with zipfile.ZipFile(path) as archive:
            if info.compress_type != zipfile.ZIP_STORED:
                return _unpacked(archive, info)
            with archive.open(info) as member:
                while member.read(_BLOCK):  # its checksum is compared at the end
                    pass
        with path.open("rb") as file:
            file.seek(info.header_offset)
            name, extra = struct.unpack("<26xHH", file.read(30))
            file.seek(info.header_offset + 30 + name + extra)
            return _map(path, file, file.tell() + info.file_size)

    return read


def _map(path: Path, file: IO[bytes], end: int) -> npt.NDArray[Any]:
    """The array whose header begins here and whose numbers reach to ``end``."""
    shape, fortran, dtype = _header(file)
    if file.tell() + math.prod(shape) * dtype.itemsize != end:
        raise ValueError(f"its header says {list(shape)} {dtype}, which is not its size")
    if not math.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> npt.NDArray[Any]:
    if info.file_size > _MAX_UNPACKED:
        raise ValueError(f"it unpacks to {info.file_size} bytes, too many to hold in memory; write it with numpy.savez")
    with archive.open(info) as member:
        shape, fortran, dtype = _header(member)
        content = member.read()
    return np.frombuffer(bytearray(content), dtype).reshape(shape, order="F" if fortran else "C")


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
    readers: dict[Any, Any] = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"format version {version} is not known")
    shape, fortran, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which only pickle can read; write numbers")
    return shape, fortran, dtype
