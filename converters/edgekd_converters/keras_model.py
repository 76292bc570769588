"""Keras 3 ``.keras`` → float32 ``.tflite``."""

from __future__ import annotations

from pathlib import Path

from edgekd_converters.graph import Graph
from edgekd_converters.load.keras3 import load_archive
from edgekd_converters.load.keras_source import convert_keras

__all__ = ["convert_keras", "load_keras"]


def load_keras(path: Path) -> Graph:
    """Read a ``.keras`` archive and convert it with a batch of 1; code stored in it is never run.

    Raises ``LoadError``.
    """
    return convert_keras(load_archive(path))
