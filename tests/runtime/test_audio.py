"""Sounds: every coding of ``.wav``, resampling, and features against ``tf.signal``."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.files import sound

from edgekd_runtime.errors import InputError, PreprocessError
from edgekd_runtime.preprocess import Audio, fits, load, wav
from edgekd_runtime.preprocess.audio import _mel_matrix

WAVE = np.random.default_rng(0).normal(0, 0.2, 16000).clip(-1, 0.99)
AS_16 = np.rint(WAVE * 32768).astype("<i2")


def tone(hertz: float, rate: int, seconds: float = 1.0) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


# --- files ---


def bits_24(wave: np.ndarray) -> np.ndarray:
    wide = np.rint(wave * 2**23).astype("<i4")
    return np.ascontiguousarray(wide.view(np.uint8).reshape(*wave.shape, 4)[..., :3]).view("V3")[..., 0]


CODED = {
    "u8": (np.rint(WAVE * 128 + 128).astype(np.uint8), 1, 1 / 128),
    "16": (AS_16, 1, 1 / 32768),
    "24": (bits_24(WAVE), 1, 2.0**-23),
    "32": (np.rint(WAVE * 2**31).astype("<i4"), 1, 1e-9),
    "float32": (WAVE.astype("<f4"), 3, 1e-7),
    "float64": (WAVE.astype("<f8"), 3, 0),
}


@pytest.mark.parametrize("extensible", [False, True])
@pytest.mark.parametrize("coded", CODED)
def test_every_coding_gives_the_same_wave(coded: str, extensible: bool) -> None:
    samples, coding, off = CODED[coded]
    got, rate = wav.read_wav(sound(samples, 8000, coding, extensible=extensible))
    assert rate == 8000
    assert got.shape == (16000, 1)
    assert np.abs(got[:, 0] - WAVE).max() <= off


def test_channels_are_averaged() -> None:
    both = np.stack([AS_16, -AS_16], 1)
    assert np.abs(Audio()(sound(both))).max() == 0
    both[:, 1] = 0
    np.testing.assert_allclose(Audio()(sound(both)), AS_16 / 65536, atol=1e-7)


@pytest.mark.parametrize("claims", [0, 0xFFFFFFFF])
def test_a_streamed_file_of_unknown_length(claims: int) -> None:
    np.testing.assert_allclose(Audio()(sound(AS_16, claims=claims)), AS_16 / 32768, atol=1e-7)


def test_other_parts_are_skipped() -> None:
    odd = b"LIST" + (3).to_bytes(4, "little") + b"abc\0"
    np.testing.assert_allclose(Audio()(sound(AS_16, before=odd)), AS_16 / 32768, atol=1e-7)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (b"", "not a .wav file"),
        (b"RIFF\0\0\0\0WAVX", "not a .wav file"),
        (b"RIFF\0\0\0\0WAVE", "holds no samples"),
        (sound(AS_16)[:-1], "truncated"),
        (sound(AS_16[:0], claims=0), "holds no samples"),
        (sound(AS_16, coding=2), "is coded as 2 in 16 bits"),
        (sound(AS_16, coding=3), "is coded as 3 in 16 bits"),
        (sound(AS_16, rate=10), "has 10 samples a second"),
        (sound(np.array([np.nan], "<f4"), coding=3), "NaN or infinity"),
        (b"RIFF\0\0\0\0WAVEdata\x02\0\0\0ab", "come before their format"),
        (b"RIFF\0\0\0\0WAVEfmt \x02\0\0\0\x01\0data\x02\0\0\0ab", "cut short"),
        ("text", "expected the bytes of a .wav file, got str"),
    ],
)
def test_what_cannot_be_read(raw: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Audio()(raw)


@settings(max_examples=200, deadline=None)
@given(where=st.integers(0, 60), value=st.integers(1, 255), cut=st.integers(0, 400))
def test_damage_is_one_line_or_some_sound(where: int, value: int, cut: int) -> None:
    raw = bytearray(sound(AS_16[:200]))
    raw[where % len(raw)] ^= value
    try:
        assert Audio(length=100)(bytes(raw[: len(raw) - cut])).shape == (100,)
    except InputError as error:
        assert "\n" not in str(error)


# --- length and rate ---


def test_cut_and_filled_up() -> None:
    ramp = np.arange(1, 101, dtype="<i2")
    whole = ramp / 32768
    np.testing.assert_allclose(Audio(length=10)(sound(ramp)), whole[:10])
    np.testing.assert_allclose(Audio(length=10, align="centre")(sound(ramp)), whole[45:55])
    np.testing.assert_allclose(Audio(length=104)(sound(ramp)), [*whole, 0, 0, 0, 0])
    np.testing.assert_allclose(Audio(length=104, align="centre")(sound(ramp)), [0, 0, *whole, 0, 0])


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 44099, 96000])
def test_a_tone_is_the_same_tone_at_another_rate(rate: int) -> None:
    made = Audio(rate=16000, length=16000)(sound((tone(1000, rate) * 32767).astype("<i2"), rate))
    wanted = tone(1000, 16000)
    inner = slice(200, -200)  # where it begins and ends out of nothing, it rings
    assert np.abs(made[inner] - wanted[inner]).max() < 0.005


def test_what_the_lower_rate_cannot_hold_is_removed() -> None:
    made = Audio(rate=16000, length=16000)(sound((tone(12000, 48000) * 32767).astype("<i2"), 48000))
    assert np.abs(made[200:-200]).max() < 0.01


def test_resampling_is_torchaudios() -> None:
    """``torchaudio.functional.resample``, its kernel written out as that library does."""
    rate, wanted, wave = 441, 160, np.random.default_rng(1).normal(size=3000)
    band = min(rate, wanted) * 0.99
    width = int(np.ceil(6 * rate / band))
    times = np.arange(0, -wanted, -1)[:, None] / wanted + np.arange(-width, width + rate) / rate
    times = (times * band).clip(-6, 6)
    kernel = np.sinc(times) * np.cos(times * np.pi / 6 / 2) ** 2 * band / rate
    padded = np.pad(wave, (width, width + rate))
    rows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[1])[::rate] @ kernel.T
    count = int(np.ceil(wanted * len(wave) / rate))
    np.testing.assert_allclose(wav.resample(wave, rate, wanted, 10**6), rows.ravel()[:count], atol=1e-9)
    assert len(wav.resample(wave, rate, wanted, 50)) == 50


def test_only_what_is_kept_is_resampled() -> None:
    wave = np.random.default_rng(2).normal(0, 0.1, 44100 * 3)
    at_once = wav.resample(np.rint(wave * 32768) / 32768, 44100, 16000, 16000)
    got = Audio()(sound(np.rint(wave * 32768).astype("<i2"), 44100))
    np.testing.assert_allclose(got, at_once, atol=1e-6)


@pytest.mark.parametrize("rate", [767_999, 100_003])
def test_rates_that_take_too_many_weights_are_refused(rate: int) -> None:
    with pytest.raises(InputError, match=f"{rate} samples a second, .* resample it to 16000, or to a common rate"):
        Audio()(sound(AS_16[:1], rate))


def test_resampling_takes_little_memory_however_many_taps_there_are() -> None:
    wave = np.zeros(768 * 1000)
    tracemalloc.start()
    wav.resample(wave, 768_000, 1000, 1000)  # 9,312 taps
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < wave.nbytes + 30_000_000


# --- features ---


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": 480, "hop": 320, "fft": 512, "mels": 64, "fmin": 125.0, "fmax": 7500.0, "offset": 0.001},  # YAMNet's
        {"window": 640, "hop": 640, "mels": 10, "fmin": 0.0, "fmax": 4000.0, "power": 2, "coefficients": 10},
    ],
)
def test_features_are_those_of_tf_signal(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    tf = pytest.importorskip("tensorflow")
    mel = Audio(features="log-mel", **options)
    frames = tf.signal.stft(AS_16 / 32768, mel.window, mel.hop, mel.fft or None)
    power = tf.abs(frames) ** mel.power
    weights = tf.signal.linear_to_mel_weight_matrix(
        mel.mels, power.shape[-1], mel.rate, mel.fmin, mel.fmax, dtype=tf.float64
    )
    wanted = tf.math.log(power @ weights + mel.offset)
    got = mel(sound(AS_16))
    assert got.shape == mel.shape == tuple(wanted.shape)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    cepstra = Audio(features="mfcc", **options)
    mfcc = tf.signal.mfccs_from_log_mel_spectrograms(wanted)[:, : cepstra.coefficients]
    got = cepstra(sound(AS_16))
    assert got.shape == cepstra.shape
    np.testing.assert_allclose(got, mfcc, atol=1e-5)


@pytest.mark.parametrize(("window", "fft"), [(400, 400), (400, 512), (25, 64)])
def test_centred_windows(window: int, fft: int) -> None:
    """As ``torch.stft(center=True)``: mirrored by half an fft, the window in the middle of each."""
    mel = Audio(features="log-mel", window=window, fft=fft, centered=True, power=2, log="db", mels=8)
    padded = np.pad(AS_16 / 32768, fft // 2, mode="reflect")
    margin = (fft - window) // 2
    hann = np.zeros(fft)
    hann[margin : margin + window] = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = np.stack([padded[s : s + fft] * hann for s in range(0, len(padded) - fft + 1, mel.hop)])
    bank = _mel_matrix(8, fft // 2 + 1, 16000, 20.0, 7600.0)
    wanted = 10 * np.log10(np.abs(np.fft.rfft(frames)) ** 2 @ bank + 1e-6)
    got = mel(sound(AS_16))
    assert got.shape == mel.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=1e-3)


def test_scale_mean_and_std_come_last() -> None:
    plain, shifted = Audio(features="mfcc"), Audio(features="mfcc", scale=2, mean=3, std=4)
    np.testing.assert_allclose(shifted(sound(AS_16)), (plain(sound(AS_16)) * 2 - 3) / 4, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(plain.decode(sound(AS_16)), shifted.decode(sound(AS_16)))


# --- descriptions ---


def test_a_description_reads_back() -> None:
    mfcc = Audio(8000, 4000, "centre", "mfcc", 200, 80, 256, True, 2, 20, 10.0, 3900.0, "db", 1e-3, 12, 2.0, 1.0, 3.0)
    assert load(mfcc.to_dict()) == mfcc
    assert load(Audio().to_dict()) == Audio()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rate": 10}, "rate must be between"),
        ({"length": 0}, "length must be between"),
        ({"length": 1 << 30}, "length must be between"),
        ({"align": "end"}, "align must be one of start, centre"),
        ({"features": "fbank"}, "features must be one of waveform, log-mel, mfcc"),
        ({"std": 0.0}, "std must be above 0"),
        ({"window": 0}, "window must be between"),
        ({"window": 20_000}, "window must be between"),
        ({"window": 600, "fft": 512}, "window must be between 1 and 512"),
        ({"hop": 0}, "hop must be between"),
        ({"power": 3}, "power must be between 1 and 2"),
        ({"mels": 0}, "mels must be between"),
        ({"features": "mfcc", "coefficients": 41}, "coefficients must be between 1 and 40"),
        ({"fmin": 5000.0, "fmax": 4000.0}, "fmin and fmax must lie between 0 and 8000"),
        ({"fmax": 9000.0}, "half of the rate"),
        ({"offset": 0}, "offset must be above 0"),
        ({"centered": True, "length": 256, "window": 200, "fft": 512, "hop": 8}, "centered needs a length above 256"),
        ({"length": 1 << 24, "hop": 1}, "are too many"),
        ({"centered": 1}, "centered must be true or false"),
        ({"pitch": 1}, "unknown or missing keys: 'pitch'"),
    ],
)
def test_descriptions_that_mean_nothing(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PreprocessError) as caught:
        load({**Audio(features="log-mel").to_dict(), **changes})
    assert words in str(caught.value)


def test_which_inputs_it_fills() -> None:
    mel = Audio(features="log-mel")
    assert mel.shape == (98, 40)
    for shape in ((1, 98, 40), (1, 98, 40, 1), (1, 3920)):
        assert fits(mel, shape)
    for shape in ((1, 40, 98), (1, 98), (2, 98, 40)):
        assert not fits(mel, shape)
    assert fits(Audio(), (1, 16000, 1))
