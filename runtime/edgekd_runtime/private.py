"""Files with a secret in them: tokens and private keys."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edgekd_runtime.errors import KeyFileError

MAX_BYTES = 1 << 16


def read_private(path: Path) -> bytes:
    """The file's bytes, if nobody but its owner can read them. Raises ``KeyFileError``."""
    try:
        with path.open("rb") as file:
            _check_mode(path, os.fstat(file.fileno()))
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror or error}") from error
    if len(content) > MAX_BYTES:
        raise KeyFileError(f"{path}: larger than {MAX_BYTES} bytes, so it is no key or token")
    return content


def _check_mode(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(f"{path}: not a regular file")
    # systemd lets a service at its credentials by an ACL, whose mask stands where the group's rights usually do.
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    others = 0o037 if folder and path.resolve().is_relative_to(Path(folder).resolve()) else 0o077
    if status.st_mode & others:
        raise KeyFileError(
            f"{path}: others can read this secret (mode {stat.S_IMODE(status.st_mode):o}); chmod 600 {path}"
        )
