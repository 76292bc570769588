"""TensorFlow and LiteRT write to the process's standard error from C++; here they are kept quiet."""

from __future__ import annotations

import contextlib
import importlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what is written to file descriptor 2, and Python's warnings, for as long as it lasts.

    Failures still surface: the libraries raise them. Not for code that runs other threads which may write there.
    """
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as sink, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.dup2(sink.fileno(), 2)
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def import_tensorflow() -> None:
    """Import TensorFlow and Keras without their log noise; every later import of them is free and silent."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        importlib.import_module("tensorflow").get_logger().setLevel("ERROR")
        importlib.import_module("keras")
