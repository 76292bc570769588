"""The zip around a bundle: a fixed set of members, stored as they are, and nothing that could harm who opens it.

Members are read into memory and never written to a path, so no name in the file decides where anything goes.
"""

from __future__ import annotations

import hashlib
import io
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from edgekd_runtime import atomic
from edgekd_runtime.errors import BundleError

MANIFEST, MODEL, SIGNATURE = "manifest.json", "model.tflite", "signature.json"
MAX_BYTES = 1 << 30
_HASHED = (MODEL, "preprocess.json", "labels.txt", "answers.json", "golden.bin", "golden_raw.bin")
_ALL = {MANIFEST, SIGNATURE, *_HASHED}
_EPOCH = (1980, 1, 1, 0, 0, 0)  # fixed, so that the same content gives the same bytes
_ENCRYPTED = 1  # bit of a member's general purpose flag (APPNOTE.TXT 4.4.4)
# A zip's last record (4.3.16), without the comment that may follow it, and what stands before it in a zip64 (4.3.15).
_END, _END_BYTES, _ZIP64, _ZIP64_BYTES = b"PK\x05\x06", 22, b"PK\x06\x07", 20
_MAX_DIRECTORY_BYTES = 1 << 14
_LOCAL_BYTES, _ENTRY_BYTES = 30, 46  # before each member, and in the directory; a name follows either (4.3.7, 4.3.12)


def write_members(path: Path, members: Mapping[str, bytes]) -> None:
    """The zip of ``members`` in their order, atomically; the same content gives the same bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), data)
    atomic.write_bytes(path, buffer.getvalue())


def read_members(path: Path) -> dict[str, bytes]:
    """All members, after the checks that keep a hostile zip from taking memory. Raises ``BundleError``."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise BundleError(f"{path}: not an edgekd bundle: it is no regular file")
        with path.open("rb") as file:
            file_bytes = _check_end(path, file)
            with zipfile.ZipFile(file) as archive:
                infos = archive.infolist()
                _check_infos(path, infos, file_bytes)
                return {info.filename: archive.read(info) for info in infos}
    except FileNotFoundError as error:
        raise BundleError(f"{path}: no such file") from error
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read as an edgekd bundle: {error}") from error


def _check_end(path: Path, file: IO[bytes]) -> int:
    """The file's size, if its last bytes announce a directory that is small: ``zipfile`` reads all of it at once."""
    size = file.seek(0, io.SEEK_END)
    if size > MAX_BYTES:
        raise BundleError(f"{path}: larger than {MAX_BYTES} bytes, which no edgekd bundle is")
    file.seek(max(0, size - _END_BYTES - _ZIP64_BYTES))
    before, end = (tail := file.read())[:-_END_BYTES], tail[-_END_BYTES:]
    if not end.startswith(_END) or before.startswith(_ZIP64):
        raise BundleError(f"{path}: cannot be read as an edgekd bundle: it does not end as one does")
    if int.from_bytes(end[12:16], "little") > _MAX_DIRECTORY_BYTES:
        raise BundleError(f"{path}: not an edgekd bundle: its directory claims to be huge")
    return size


def _check_infos(path: Path, infos: list[zipfile.ZipInfo], file_bytes: int) -> None:
    names = [info.filename for info in infos]
    unknown = sorted(set(names) - _ALL)
    if unknown or len(set(names)) != len(names):
        raise BundleError(f"{path}: not an edgekd bundle: unexpected or repeated member {(unknown or names)[0]!r}")
    if missing := {MANIFEST, MODEL} - set(names):
        raise BundleError(f"{path}: not an edgekd bundle: {sorted(missing)[0]} is missing")
    for info in infos:
        kind = stat.S_IFMT(info.external_attr >> 16)
        if info.is_dir() or kind not in (0, stat.S_IFREG):
            raise BundleError(f"{path}: not an edgekd bundle: {info.filename} is a link or no file at all")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & _ENCRYPTED:
            raise BundleError(
                f"{path}: the bundle is compressed or encrypted; edgekd bundles store their members as they are"
            )
    if sum(info.file_size for info in infos) > file_bytes:
        raise BundleError(f"{path}: the bundle's members claim to be larger than the file")
    if not _are_all(infos, file_bytes):
        raise BundleError(f"{path}: not an edgekd bundle: it holds more than its members, or they are out of order")


def _are_all(infos: list[zipfile.ZipInfo], file_bytes: int) -> bool:
    """Whether the members stand one after the other from the beginning, and only their directory follows."""
    at = 0
    for info in infos:
        if info.header_offset != at:
            return False
        at += _LOCAL_BYTES + len(info.filename) + info.file_size
    return at + sum(_ENTRY_BYTES + len(info.filename) for info in infos) + _END_BYTES == file_bytes


def hashes(members: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """What a manifest lists under ``files``."""
    return {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in members.items()}


def check_hashes(path: Path, listed: Mapping[str, Any], members: Mapping[str, bytes]) -> None:
    """``members``, all but manifest and signature, must be those that the manifest lists. Raises ``BundleError``."""
    if set(listed) != set(members):
        raise BundleError(f"{path}: the manifest lists {sorted(listed)}, the file holds {sorted(members)}")
    for name, data in members.items():
        if len(data) != listed[name]["bytes"] or sha256(data) != listed[name]["sha256"]:
            raise BundleError(f"{path}: {name} does not match its SHA-256; the file is damaged, copy it again")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
