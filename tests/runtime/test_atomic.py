"""A file is old or new, never half, and nothing lies about after a failure."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from edgekd_runtime import atomic


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    atomic.write_bytes(path, b"one")
    assert path.read_bytes() == b"one"
    atomic.write_bytes(path, b"")
    assert path.read_bytes() == b""
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_an_ordinary_file(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        atomic.write_bytes(tmp_path / "file", b"x")
        assert os.umask(umask) == umask, "the umask was not put back"
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


class Failure(BaseException):
    """Like KeyboardInterrupt: not an Exception."""


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), Failure()])
def test_a_failure_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os if step == "fsync" else Path, step, fail)
    with pytest.raises(type(error)):
        atomic.write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_way_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="file"):
        atomic.write_bytes(tmp_path / "file", b"new")
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_reader_sees_whole_files_only(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([k]) * 200_000 for k in range(2)]
    atomic.write_bytes(path, contents[0])
    seen, done = set(), threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for k in range(40):
        atomic.write_bytes(path, contents[k % 2])
    done.set()
    reader.join()
    assert seen
    assert seen <= set(contents)
