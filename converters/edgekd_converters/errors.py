"""The error tree of the converters. A message is one line: what, where, and how to mend it."""

from __future__ import annotations

from collections.abc import Sequence


def one_line(error: BaseException) -> str:
    """What another library says, fit for a message."""
    return " ".join(str(error).split())[:300]


class ConverterError(Exception):
    """Root of all errors that the converters raise on purpose."""

    exit_code = 1


class LoadError(ConverterError):
    """The source model cannot be read or turned into a float32 ``.tflite``."""


class SourceNotFoundError(LoadError):
    """There is no such file."""

    exit_code = 2


class RunError(ConverterError):
    """The interpreter refuses a model, or a model a sample."""


class PruneError(ConverterError):
    """The graph cannot be made that much smaller."""


class RecoverError(ConverterError):
    """Training cannot begin, or does not converge."""


class QuantizeError(ConverterError):
    """The quantiser cannot make an int8 model of this float model."""


class RangeFileError(QuantizeError):
    """A file of ranges that cannot be used as it is."""

    exit_code = 2


class NotIntegerError(QuantizeError):
    """The model still computes in something other than integers. ``reasons`` has one line per op."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        super().__init__(f"this cannot be called int8: {reasons[0]}{more}")


class ExportError(ConverterError):
    """What was written does not compute what the graph does."""


class UnsupportedOpError(ConverterError):
    """An op, or a form of it, that cannot run in TensorFlow here."""
