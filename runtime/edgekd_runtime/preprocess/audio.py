"""Sounds: the bytes of a ``.wav`` in, the waveform or its log-mel or MFCC features out, as float32.

The features are those of ``tf.signal`` (``stft``, ``linear_to_mel_weight_matrix`` and
``mfccs_from_log_mel_spectrograms``), which follow the Hidden Markov Model Toolkit: Young et al., "The HTK Book"; the
cepstra are Davis and Mermelstein's, 1980. All of it is computed in float64, so that machines differ in the last digit
of float32 at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgekd_runtime.errors import InputError, PreprocessError
from edgekd_runtime.preprocess import fields, wav

KIND = "audio"
_FEATURES = ("waveform", "log-mel", "mfcc")
_ALIGNS = ("start", "centre")
_LOGS = ("ln", "db")
_MAX_LENGTH = 1 << 24
_MAX_CELLS = 1 << 24

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Audio(fields.OfFiles):
    """``number = (feature · scale − mean) / std``; of a waveform the features are samples of −1 to 1.

    The channels' mean, at ``rate`` Hz, is cut to ``length`` samples, from the start or around the centre, or filled up
    with silence. ``window`` samples every ``hop`` under a periodic Hann window; ``centered`` puts the middle of the
    first at sample 0, mirrored at the ends. ``fft`` 0 is the least power of two that holds a window. ``power`` 1 is the
    magnitude, 2 its square. ``log``: ln(mel + offset), or ``db`` 10·log₁₀ of it. MFCC keep the first ``coefficients``.
    """

    media: ClassVar = KIND
    media_types: ClassVar = ("audio/wav", "audio/wave", "audio/x-wav", "audio/vnd.wave")
    suffixes: ClassVar = (".wav",)

    rate: int = 16000
    length: int = 16000
    align: str = "start"
    features: str = "waveform"
    window: int = 400
    hop: int = 160
    fft: int = 0
    centered: bool = False
    power: int = 1
    mels: int = 40
    fmin: float = 20.0
    fmax: float = 7600.0
    log: str = "ln"
    offset: float = 1e-6
    coefficients: int = 13
    scale: float = 1.0
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        fields.between(KIND, "rate", self.rate, 1000, 384_000)
        fields.between(KIND, "length", self.length, 1, _MAX_LENGTH)
        for key, allowed in (("align", _ALIGNS), ("features", _FEATURES), ("log", _LOGS)):
            fields.one_of(KIND, key, getattr(self, key), allowed)
        if self.scale == 0 or self.std <= 0:
            raise PreprocessError(f"{KIND}: scale must not be 0 and std must be above 0")
        if self.features != "waveform":
            self._check_features()

    def _check_features(self) -> None:
        longest = self.length + (2 * (self._fft // 2) if self.centered else 0)
        limits = {"window": (1, min(longest, self._fft)), "hop": (1, self.length), "fft": (0, 1 << 16), "power": (1, 2)}
        limits |= {"mels": (1, 1024)} | ({"coefficients": (1, self.mels)} if self.features == "mfcc" else {})
        for key, (low, high) in limits.items():
            fields.between(KIND, key, getattr(self, key), low, high)
        if not 0 <= self.fmin < self.fmax <= self.rate / 2:
            raise PreprocessError(f"{KIND}: fmin and fmax must lie between 0 and {self.rate / 2:g}, half of the rate")
        if not 0 < self.offset <= 1e6:
            raise PreprocessError(f"{KIND}: offset must be above 0, so that silence has a logarithm")
        if self.centered and self.length <= self._fft // 2:
            raise PreprocessError(f"{KIND}: centered needs a length above {self._fft // 2}, half of the fft, to mirror")
        if self._frames * self._fft > _MAX_CELLS:
            raise PreprocessError(f"{KIND}: {self._frames} windows of {self._fft} are too many; take a longer hop")

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample, without the batch."""
        if self.features == "waveform":
            return (self.length,)
        return (self._frames, self.mels if self.features == "log-mel" else self.coefficients)

    @property
    def _fft(self) -> int:
        return self.fft or 1 << max(0, self.window - 1).bit_length()

    @property
    def _frames(self) -> int:
        padding = 2 * (self._fft // 2) - (self._fft - self.window) if self.centered else 0
        return 1 + (self.length + padding - self.window) // self.hop

    def decode(self, raw: object) -> npt.NDArray[np.float32]:
        """A file's bytes → ``shape float32``, before ``scale``, ``mean`` and ``std``. Raises ``InputError``."""
        if not isinstance(raw, (bytes, bytearray)):
            raise InputError(f"expected the bytes of a .wav file, got {type(raw).__name__}")
        sound = self._cut(*wav.read_wav(raw))
        return (sound if self.features == "waveform" else self._features_of(sound)).astype(np.float32)

    def finish(self, features: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``(…, *shape) float32``, the same in the model's own range."""
        return ((features.astype(np.float64) * self.scale - self.mean) / self.std).astype(np.float32)

    def __call__(self, raw: object) -> npt.NDArray[np.float32]:
        """A file's bytes → ``shape float32``."""
        return self.finish(self.decode(raw))

    def prepared(
        self, quantize: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]
    ) -> Callable[[object], npt.NDArray[Any]]:
        """A file's bytes → ``shape``, as ``quantize`` stores numbers."""
        return lambda raw: quantize(self(raw))

    def _cut(self, samples: Reals, rate: int) -> Reals:
        """``(frames, channels)`` → ``(length,)`` at the model's rate. No more is resampled than is kept."""
        needed = -(-self.length * rate // self.rate)
        start = max(0, (len(samples) - needed) // 2) if self.align == "centre" else 0
        # A little beyond the end, for the last samples' neighbours.
        mono = samples[start : start + needed + rate // 10].mean(1)
        sound = wav.resample(mono, rate, self.rate, self.length)
        missing = self.length - len(sound)
        before = missing // 2 if self.align == "centre" else 0
        return np.pad(sound, (before, missing - before))

    def _features_of(self, sound: Reals) -> Reals:
        """``(length,)`` → ``(frames, mels or coefficients)``."""
        if self.centered:
            sound = np.pad(sound, self._fft // 2, mode="reflect")[(self._fft - self.window) // 2 :]
        frames = np.lib.stride_tricks.sliding_window_view(sound, self.window)[:: self.hop][: self._frames]
        hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self.window) / self.window)
        magnitude = np.abs(np.fft.rfft(frames * hann, self._fft))
        mel = magnitude**self.power @ _mel_matrix(self.mels, self._fft // 2 + 1, self.rate, self.fmin, self.fmax)
        logs: Reals = np.log(mel + self.offset) if self.log == "ln" else 10 * np.log10(mel + self.offset)
        return logs if self.features == "log-mel" else logs @ _dct_matrix(self.mels)[:, : self.coefficients]


def _mel(hertz: Any) -> Any:
    return 1127 * np.log1p(np.asarray(hertz) / 700)


@lru_cache(maxsize=4)
def _mel_matrix(mels: int, bins: int, rate: int, fmin: float, fmax: float) -> Reals:
    """``(bins, mels)``: triangles of height 1, evenly spaced on the mel scale; nothing is taken of bin 0, the mean."""
    edges = np.linspace(_mel(fmin), _mel(fmax), mels + 2)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    place = _mel(np.linspace(0, rate / 2, bins))[:, None]
    matrix: Reals = np.maximum(0, np.minimum((place - low) / (centre - low), (high - place) / (high - centre)))
    matrix[0] = 0
    return matrix


@lru_cache(maxsize=4)
def _dct_matrix(mels: int) -> Reals:
    """``(mels, mels)``: DCT-II, divided by √(2·mels) as HTK does."""
    angles = np.pi / mels * (np.arange(mels)[:, None] + 0.5) * np.arange(mels)
    matrix: Reals = np.cos(angles) * (2 / np.sqrt(2 * mels))
    return matrix
