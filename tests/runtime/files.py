"""Small files made on the spot: pictures and ``.wav``."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy.typing as npt
from PIL import Image


def picture(pixels: npt.NDArray[Any] | Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """The file of ``(h, w[, 3 or 4]) uint8``, or of a Pillow image."""
    buffer = io.BytesIO()
    made = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    made.save(buffer, form, **options)
    return buffer.getvalue()


def sound(
    samples: npt.NDArray[Any],
    rate: int = 16000,
    coding: int = 1,
    *,
    extensible: bool = False,
    claims: int | None = None,
    before: bytes = b"",
) -> bytes:
    """A ``.wav`` of ``(n[, channels])`` as they are stored; ``(n, 3) uint8`` bytes of 24 bits come as dtype ``V3``."""
    width, channels = samples.dtype.itemsize, 1 if samples.ndim == 1 else samples.shape[1]
    shown = 0xFFFE if extensible else coding
    form = struct.pack("<HHIIHH", shown, channels, rate, rate * channels * width, channels * width, 8 * width)
    if extensible:
        form += struct.pack("<HHIH14s", 22, 8 * width, 0, coding, b"\0" * 14)
    data = samples.tobytes()
    length = len(data) if claims is None else claims
    body = b"WAVE" + before + b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", length) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body
