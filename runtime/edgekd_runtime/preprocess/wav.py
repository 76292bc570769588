"""``.wav`` files: bytes in, one channel of samples at the rate that is asked for out. In numpy alone.

The standard library's ``wave`` reads neither float samples nor, before Python 3.12, the header that most programs write
for more than 16 bits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache
from math import ceil, gcd

import numpy as np
import numpy.typing as npt

from edgekd_runtime.errors import InputError

Sound = npt.NDArray[np.float64]

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_RATES = (1_000, 768_000)
_MAX_CHANNELS = 64
_STREAMED = (0, 0xFFFFFFFF)  # a length that its writer did not know
_ZEROS, _ROLLOFF = 6, 0.99
_MAX_WEIGHTS = 1 << 20  # of one pair of rates, 8 MB; 44100 to 16000 takes 5,760, 44099 to 16000 576,000
_AT_ONCE = 1 << 18  # products


def read_wav(data: bytes | bytearray) -> tuple[npt.NDArray[np.float64], int]:
    """``(frames, channels)`` in −1 … 1, and the rate in Hz. Integers of 8 to 32 bits, floats of 32 and 64.

    Raises ``InputError`` for what is no such file, or a truncated one.
    """
    if len(data) < 12 or data[:4] != b"RIFF" or data[8:12] != b"WAVE":
        raise InputError("not a .wav file (RIFF/WAVE)")
    form: tuple[int, int, int, int] | None = None
    for name, start, length in _chunks(data):
        if name == b"fmt ":
            form = _form(data[start : start + length])
        elif name == b"data":
            if form is None:
                raise InputError("the .wav file is damaged: its samples come before their format")
            if start + length > len(data):
                raise InputError("the .wav file is truncated")
            return _samples(data[start : start + length], *form[:3]), form[3]
    raise InputError("the .wav file holds no samples")


def _chunks(data: bytes | bytearray) -> Iterator[tuple[bytes, int, int]]:
    """(name, start, length) of each part."""
    at = 12
    while at + 8 <= len(data):
        name, length = struct.unpack_from("<4sI", data, at)
        if name == b"data" and length in _STREAMED:
            length = len(data) - at - 8
        yield name, at + 8, length
        at += 8 + length + length % 2


def _form(chunk: bytes | bytearray) -> tuple[int, int, int, int]:
    """(coding, bytes of a sample, channels, rate)."""
    if len(chunk) < 16:
        raise InputError("the .wav file is damaged: its format is cut short")
    coding, channels, rate, _, block, bits = struct.unpack_from("<HHIIHH", chunk)
    if coding == _EXTENSIBLE and len(chunk) >= 26:
        coding = struct.unpack_from("<H", chunk, 24)[0]
    width = (bits + 7) // 8
    if (coding, width) not in {(_PCM, 1), (_PCM, 2), (_PCM, 3), (_PCM, 4), (_FLOAT, 4), (_FLOAT, 8)}:
        raise InputError(
            f"the .wav file is coded as {coding} in {bits} bits; plain PCM of 8 to 32 bits or float is read"
        )
    if not 1 <= channels <= _MAX_CHANNELS or block != channels * width:
        raise InputError(f"the .wav file is damaged: {channels} channels of {width} bytes in blocks of {block}")
    if not _RATES[0] <= rate <= _RATES[1]:
        raise InputError(f"the .wav file has {rate} samples a second; {_RATES[0]} to {_RATES[1]} are taken")
    return coding, width, channels, rate


def _samples(raw: bytes | bytearray, coding: int, width: int, channels: int) -> npt.NDArray[np.float64]:
    raw = raw[: len(raw) // (width * channels) * width * channels]
    if coding == _FLOAT:
        values = np.frombuffer(raw, f"<f{width}").astype(np.float64)
        if not np.isfinite(values).all():
            raise InputError("the .wav file holds NaN or infinity")
    elif width == 1:
        values = (np.frombuffer(raw, np.uint8).astype(np.float64) - 128) / 128
    elif width == 3:
        wide = np.zeros((len(raw) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(raw, np.uint8).reshape(-1, 3)
        values = wide.view("<i4")[:, 0] / 2.0**31
    else:
        values = np.frombuffer(raw, f"<i{width}") / 2.0 ** (8 * width - 1)
    if not len(values):
        raise InputError("the .wav file holds no samples")
    return values.reshape(-1, channels)


def resample(sound: Sound, rate: int, wanted: int, count: int) -> Sound:
    """``(n,)`` at ``rate`` Hz → its first ``count`` samples at ``wanted`` Hz, or as many as it has.

    A sinc under a Hann window of six zeros on each side, cut at 0.99 of the lower band's edge: what
    ``torchaudio.functional.resample`` does by default (Smith, "Digital Audio Resampling Home Page").

    Raises ``InputError`` where the rates have so little in common that this takes too many weights.
    """
    if rate == wanted:
        return sound[:count]
    down, up = rate // gcd(rate, wanted), wanted // gcd(rate, wanted)
    reach = ceil(_ZEROS * down / (min(down, up) * _ROLLOFF))
    if up * (2 * reach + 2) > _MAX_WEIGHTS:
        raise InputError(
            f"the .wav file has {rate} samples a second, from which {wanted} cannot well be made; "
            f"resample it to {wanted}, or to a common rate such as 16000, 44100 or 48000"
        )
    weights = _kernels(down, up, reach)
    count = min(count, ceil(len(sound) * up / down))
    padded = np.concatenate([np.zeros(reach), sound, np.zeros(2 * reach + down)])
    made = np.empty(count)
    taps = np.arange(weights.shape[1])
    rows = max(1, _AT_ONCE // len(taps))
    for start in range(0, count, rows):
        times = np.arange(start, min(start + rows, count)) * down
        near = padded[(times // up)[:, None] + taps]
        made[start : start + len(times)] = np.einsum("ij,ij->i", near, weights[times % up])
    return made


@lru_cache(maxsize=4)
def _kernels(down: int, up: int, reach: int) -> npt.NDArray[np.float64]:
    """``(up, 2 · reach + 2)`` weights: a row for each of the places between two samples."""
    band = min(down, up) * _ROLLOFF
    # In periods of the band's edge: where each tap lies from the place that is asked for.
    distance = (np.arange(-reach, reach + 2) - np.arange(up)[:, None] / up) * band / down
    window = np.cos(distance.clip(-_ZEROS, _ZEROS) * np.pi / _ZEROS / 2) ** 2
    weights: npt.NDArray[np.float64] = np.sinc(distance) * window * (band / down)
    return weights
