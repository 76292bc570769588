"""Arrays kept on disk under the hash of all that they depend on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_runtime import atomic


def cache_root() -> Path:
    """``$EDGEKD_CACHE``, else ``$XDG_CACHE_HOME/edgekd``, else ``~/.cache/edgekd``."""
    if chosen := os.environ.get("EDGEKD_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgekd"


def content_key(**parts: Any) -> str:
    """SHA-256 of JSON-able ``parts``."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def cached_array(kind: str, key: str, compute: Callable[[], npt.NDArray[Any]]) -> tuple[npt.NDArray[Any], bool]:
    """The array stored under ``kind`` and ``key``, computed and stored if absent; and whether it was there."""
    path = cache_root() / kind / f"{key}.npy"
    damaged = (ValueError, EOFError, tokenize.TokenError)  # the last from numpy's reading of a header
    with contextlib.suppress(OSError, *damaged), path.open("rb") as file:
        array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)  # type: ignore[no-untyped-call]
        return array, True
    array = compute()
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    with contextlib.suppress(OSError):  # a cache that cannot be written (full disk, read-only home) costs time only
        atomic.write_bytes(path, buffer.getvalue())
    return array, False
