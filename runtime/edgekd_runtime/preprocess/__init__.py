"""Preprocessing that runs alike in training, in calibration and on the device.

A description is the JSON object stored in the bundle (``preprocess.json``); :func:`load` turns it into a callable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from edgekd_runtime.errors import PreprocessError
from edgekd_runtime.preprocess import audio, fields, image, text_ngram
from edgekd_runtime.preprocess.audio import Audio
from edgekd_runtime.preprocess.image import Image
from edgekd_runtime.preprocess.text_ngram import TextNgram

__all__ = ["MEDIA_KINDS", "Audio", "Image", "Media", "Preprocess", "TextNgram", "fits", "load"]

Media = Image | Audio
"""What turns the bytes of a file into one input tensor of a model."""
Preprocess = TextNgram | Media

MEDIA_KINDS: dict[str, type[Media]] = {image.KIND: Image, audio.KIND: Audio}
_KINDS: dict[str, type[TextNgram] | type[Media]] = {text_ngram.KIND: TextNgram, **MEDIA_KINDS}


def load(spec: object) -> Preprocess:
    """Build the preprocessor that ``spec`` describes. Raises ``PreprocessError`` when there is none of that kind."""
    if not isinstance(spec, Mapping):
        raise PreprocessError(f"preprocess.json must hold an object, not {type(spec).__name__}")
    kind, version = spec.get("kind"), spec.get("version")
    if not isinstance(kind, str) or kind not in _KINDS or version != fields.VERSION:
        raise PreprocessError(
            f"preprocess.json: kind {str(kind)[:40]!r} version {str(version)[:40]!r} is not known to this runtime; "
            f"it knows {', '.join(map(repr, _KINDS))} version {fields.VERSION}. "
            "Update edgekd-runtime or convert the model again"
        )
    return _KINDS[kind].from_dict(spec)


def fits(preprocess: Preprocess, shape: tuple[int, ...]) -> bool:
    """Whether what it makes fills an input of ``shape``, batch included.

    Files' axes of 1 may be added or left out, and a model of sounds may take all the features in one row.
    """
    if isinstance(preprocess, TextNgram):
        return shape == (1, *preprocess.shape)
    made = tuple(size for size in preprocess.shape if size != 1)
    in_a_row = isinstance(preprocess, Audio) and shape == (1, math.prod(preprocess.shape))
    return shape[:1] == (1,) and (in_a_row or made == tuple(size for size in shape if size != 1))
