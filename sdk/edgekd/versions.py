"""Which software made a result, and on what."""

from __future__ import annotations

import importlib.metadata
import os
import platform

_PARTS = (
    "edgekd",
    "edgekd-runtime",
    "tensorflow",
    "keras",
    "ai-edge-litert",
    "ai-edge-quantizer",
    "numpy",
    "onnxruntime",
    "tokenizers",
)


def versions() -> dict[str, str]:
    """Distribution → version, of those that are installed, and Python's own."""
    found = {"python": platform.python_version()}
    for part in _PARTS:
        try:
            found[part] = importlib.metadata.version(part)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> str:
    """Where times were measured: ``Linux x86_64, 2 cores``."""
    cores = os.cpu_count() or 1
    return f"{platform.system()} {platform.machine()}, {cores} {'core' if cores == 1 else 'cores'}"
