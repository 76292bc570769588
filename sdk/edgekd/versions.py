"""Which software made a result."""

from __future__ import annotations

import importlib.metadata
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
