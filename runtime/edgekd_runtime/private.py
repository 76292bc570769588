"""Files of keys and tokens, which are small; those with a secret in them are their owner's alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgekd_runtime.errors import KeyFileError

MAX_BYTES = 1 << 16


def read_private(path: Path) -> bytes:
    """The file's bytes, if nobody but its owner can read them. Raises ``KeyFileError``."""
    return _read(path, is_secret=True)


def read_open(path: Path) -> bytes:
    """The bytes of a file that is no secret. Raises ``KeyFileError``."""
    return _read(path, is_secret=False)


def _read(path: Path, *, is_secret: bool) -> bytes:
    try:
        with open(path, "rb", opener=_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise KeyFileError(f"{path}: not a regular file")
            if is_secret:
                _check_mode(path, status)
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise KeyFileError(f"{path}: larger than {MAX_BYTES} bytes, so it is no key or token")
    return content


def _at_once(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NONBLOCK)  # or a pipe that nobody writes to would be waited for


def _check_mode(path: Path, status: os.stat_result) -> None:
    # systemd lets a service at its credentials by an ACL, whose mask stands where the group's rights usually do.
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    others = 0o037 if folder and path.resolve().is_relative_to(Path(folder).resolve()) else 0o077
    if status.st_mode & others:
        raise KeyFileError(
            f"{path}: others can read this secret (mode {stat.S_IMODE(status.st_mode):o}); chmod 600 {path}"
        )
