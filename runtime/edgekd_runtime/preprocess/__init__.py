"""Preprocessing that runs alike in training, in calibration and on the device.

A description is the JSON object stored in the bundle (``preprocess.json``); :func:`load` turns it into a callable.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgekd_runtime.errors import PreprocessError
from edgekd_runtime.preprocess import text_ngram
from edgekd_runtime.preprocess.text_ngram import TextNgram

__all__ = ["TextNgram", "load"]

_VERSION = 1


def load(spec: object) -> TextNgram:
    """Build the preprocessor that ``spec`` describes. Raises ``PreprocessError`` when there is none of that kind."""
    if not isinstance(spec, Mapping):
        raise PreprocessError(f"preprocess.json must hold an object, not {type(spec).__name__}")
    if spec.get("kind") != text_ngram.KIND or spec.get("version") != _VERSION:
        kind, version = (str(spec.get(key))[:40] for key in ("kind", "version"))
        raise PreprocessError(
            f"preprocess.json: kind {kind!r} version {version!r} is not known to this runtime; "
            f"it knows {text_ngram.KIND!r} version {_VERSION}. Update edgekd-runtime or convert the model again"
        )
    return TextNgram.from_dict(spec)
