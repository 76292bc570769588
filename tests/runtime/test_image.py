"""Pictures: what becomes of each kind of file, against Pillow and arithmetic on paper; and what is refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL import ImageOps
from tests.runtime.files import picture

from edgekd_runtime.errors import InputError, MissingExtraError, PreprocessError
from edgekd_runtime.preprocess import Image, fits, image, load

RNG = np.random.default_rng(0)
PHOTO = np.kron(RNG.integers(0, 256, (5, 7, 3), np.uint8), np.ones((8, 8, 1), np.uint8))  # 40 × 56


def small(**options: Any) -> Image:
    return Image(**{"height": 4, "width": 4, "interpolation": "nearest", **options})


# --- numbers ---


def test_pixels_become_numbers_channel_by_channel() -> None:
    made = small(scale=1 / 255, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 1.0))(picture(np.full((4, 4, 3), 255, np.uint8)))
    assert (made.shape, made.dtype) == ((4, 4, 3), np.float32)
    np.testing.assert_allclose(made[0, 0], [1, 3, 1], rtol=1e-6)


def test_torchvision_numbers() -> None:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    made = Image(40, 56, scale=1 / 255, mean=mean, std=std)(picture(PHOTO))
    np.testing.assert_allclose(made, (PHOTO / 255 - mean) / std, atol=1e-6)


def test_without_options_pixels_stay_as_they_are() -> None:
    np.testing.assert_array_equal(Image(40, 56)(picture(PHOTO)), PHOTO)


def test_orders_of_colours_and_axes() -> None:
    np.testing.assert_array_equal(Image(40, 56, color="bgr")(picture(PHOTO)), PHOTO[..., ::-1])
    first = Image(40, 56, layout="chw", mean=(1, 2, 3))
    assert first.shape == (3, 40, 56)
    np.testing.assert_array_equal(first(picture(PHOTO)), PHOTO.transpose(2, 0, 1) - np.reshape([1.0, 2, 3], (3, 1, 1)))
    gray = Image(40, 56, color="gray")
    assert gray.shape == (40, 56, 1)
    np.testing.assert_array_equal(gray(picture(PHOTO))[..., 0], np.asarray(Pillow.fromarray(PHOTO).convert("L")))


@pytest.mark.parametrize("layout", ["hwc", "chw"])
def test_stored_integers_are_those_of_the_numbers(layout: str) -> None:
    """The table for an int8 model gives what quantising the numbers gives."""
    shown = Image(40, 56, scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), layout=layout)

    def quantize(real: Any) -> Any:
        return np.clip(np.rint(real / 0.02) - 3, -128, 127).astype(np.int8)

    np.testing.assert_array_equal(shown.prepared(quantize)(picture(PHOTO)), quantize(shown(picture(PHOTO))))


def test_rows_of_pixels_are_finished_at_once() -> None:
    shown = Image(40, 56, mean=(1, 2, 3), layout="chw")
    rows = shown.finish(np.stack([PHOTO, 255 - PHOTO]))
    assert rows.shape == (2, 3, 40, 56)
    np.testing.assert_array_equal(rows[1], shown(picture(255 - PHOTO)))


# --- sizes ---


@pytest.mark.parametrize("method", ["nearest", "bilinear", "bicubic", "lanczos", "box"])
def test_stretch_is_pillows_resize(method: str) -> None:
    wanted = Pillow.fromarray(PHOTO).resize((20, 10), Pillow.Resampling[method.upper()])
    np.testing.assert_array_equal(Image(10, 20, interpolation=method)(picture(PHOTO)), np.asarray(wanted))


@pytest.mark.parametrize(("height", "width", "crop_fraction"), [(40, 40, 1.0), (14, 14, 0.875), (14, 21, 0.7)])
@pytest.mark.parametrize("turned", [False, True])
def test_crop_is_torchvisions_resize_and_centre_crop(
    height: int, width: int, crop_fraction: float, turned: bool
) -> None:
    photo = np.ascontiguousarray(PHOTO.swapaxes(0, 1)) if turned else PHOTO
    shown = Image(height, width, resize="crop", crop_fraction=crop_fraction)
    made = shown(picture(photo))
    # torchvision.transforms: Resize(shorter side) keeps the ratio with int(); CenterCrop rounds half the margin.
    h, w = photo.shape[:2]
    low_h, low_w = int(height / crop_fraction), int(width / crop_fraction)
    ratio = max(low_h / h, low_w / w)
    new_h, new_w = (
        (low_h if ratio == low_h / h else int(low_w * h / w)),
        (low_w if ratio == low_w / w else int(low_h * w / h)),
    )
    scaled = np.asarray(Pillow.fromarray(photo).resize((new_w, new_h), Pillow.Resampling.BILINEAR))
    top, left = round((new_h - height) / 2), round((new_w - width) / 2)
    np.testing.assert_array_equal(made, scaled[top : top + height, left : left + width])


def test_letterbox_keeps_all_of_the_picture() -> None:
    made = Image(20, 20, resize="letterbox", fill=114)(picture(PHOTO))
    inner = np.asarray(Pillow.fromarray(PHOTO).resize((20, 14), Pillow.Resampling.BILINEAR))
    np.testing.assert_array_equal(made[3:17], inner)
    assert (made[:3] == 114).all()
    assert (made[17:] == 114).all()


def test_a_line_of_pixels_can_be_letterboxed_but_not_cropped() -> None:
    line = picture(np.zeros((1, 60_000), np.uint8))
    assert Image(224, 224, resize="letterbox", color="gray")(line).shape == (224, 224, 1)
    with pytest.raises(InputError, match="too long and narrow"):
        Image(224, 224, resize="crop", color="gray")(line)


# --- kinds of files ---


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_every_format_is_read(form: str) -> None:
    made = Image(40, 56)(picture(PHOTO, form, **({} if form in ("PNG", "BMP") else {"quality": 95})))
    assert np.abs(made - PHOTO).mean() < (8 if form in ("JPEG", "WEBP") else 1e-9)


@pytest.mark.parametrize("form", ["GIF", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused(form: str) -> None:
    with pytest.raises(InputError, match="JPEG, PNG, WEBP, BMP can"):
        Image(40, 56)(picture(PHOTO, form))


def test_a_cameras_orientation_is_followed() -> None:
    exif = Pillow.Exif()
    exif[0x0112] = 6  # turned a quarter to the right when shown
    made = Image(56, 40)(picture(PHOTO, "PNG", exif=exif))
    np.testing.assert_array_equal(made, np.rot90(PHOTO, -1))


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = (np.arange(16, dtype=np.uint16).reshape(4, 4) * 4096 + 77).astype(np.uint16)
    made = small(color="gray")(picture(deep))
    np.testing.assert_array_equal(made[..., 0], deep >> 8)


@pytest.mark.parametrize(("alpha", "wanted"), [("drop", 10), ("white", 255), ("black", 0)])
def test_transparency(alpha: str, wanted: int) -> None:
    clear = np.full((4, 4, 4), 10, np.uint8)
    clear[..., 3] = 0
    assert np.unique(small(alpha=alpha)(picture(clear))).tolist() == [wanted]
    palette = Pillow.fromarray(np.zeros((4, 4), np.uint8), "P")
    palette.putpalette([10, 10, 10])
    assert np.unique(small(alpha=alpha)(picture(palette, transparency=0))).tolist() == [wanted]


def test_palettes_bits_and_cmyk() -> None:
    bits = Pillow.fromarray(np.eye(4, dtype=np.uint8) * 255).convert("1")
    np.testing.assert_array_equal(small(color="gray")(picture(bits))[..., 0], np.eye(4) * 255)
    assert small()(picture(Pillow.new("CMYK", (4, 4)), "JPEG")).shape == (4, 4, 3)


def test_pixels_are_taken_too() -> None:
    np.testing.assert_array_equal(Image(40, 56, color="bgr")(PHOTO), PHOTO[..., ::-1])
    np.testing.assert_array_equal(Image(10, 20)(PHOTO), Image(10, 20)(picture(PHOTO)))
    with pytest.raises(InputError, match="pixels must be"):
        Image(40, 56)(PHOTO.astype(np.float32))


# --- hostile files ---


@pytest.mark.parametrize("side", [7_100, 40_000])
def test_a_bomb_is_refused_before_it_is_unpacked(side: int) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )
    with pytest.raises(InputError, match="pixels; at most 50000000 are taken"):
        Image()(bomb)


@pytest.mark.parametrize(
    ("form", "size", "options", "words"),
    [
        ("WEBP", (4_500, 4_500), {"lossless": True, "method": 0}, "at most 20000000 are taken of a WebP"),
        ("JPEG", (5_800, 5_800), {"progressive": True}, "at most 33333333 are taken of a progressive JPEG"),
        (
            "MPO",
            (5_800, 5_800),
            {"progressive": True, "save_all": True, "append_images": [Pillow.new("L", (8, 8))]},
            "33333",
        ),
        ("PNG", (65_536, 1), {}, "at most 65535 are taken on a side"),
    ],
)
def test_other_limits(form: str, size: tuple[int, int], options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Image()(picture(Pillow.new("L", size), form, **options))


def test_a_jpeg_whose_colours_come_one_after_the_other_counts_as_progressive() -> None:
    """Its decoder keeps all of it, too. What is not surely in one scan is taken to be in several."""
    whole = picture(PHOTO, "JPEG")
    frame, scan = whole.index(b"\xff\xc0"), whole.index(b"\xff\xda")
    assert image._is_in_one_scan(whole)
    assert image._is_in_one_scan(picture(PHOTO[..., :1].squeeze(), "JPEG"))
    assert not image._is_in_one_scan(picture(PHOTO, "JPEG", progressive=True))
    assert not image._is_in_one_scan(whole[: scan + 4] + b"\x01" + whole[scan + 5 :])
    for before in (b"\xff", b"\xff\x01", b"\xff\xd8", b"x"):
        assert not image._is_in_one_scan(whole[:frame] + before + whole[frame:])
    assert not image._is_in_one_scan(whole[:scan])


@pytest.mark.parametrize(
    ("mode", "orientation", "each"), [("RGB", 1, 4), ("RGB", 6, 8), ("I;16", 1, 6), ("RGBA", 1, 8)]
)
def test_what_a_large_picture_takes(mode: str, orientation: int, each: int) -> None:
    """In a process of its own, whose peak nothing else has raised."""
    side = 3_000
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    program = (
        "import re, sys; from pathlib import Path; from edgekd_runtime.preprocess import Image\n"
        "def peak(): return 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "small, large = (sys.stdin.buffer.read(int(size)) for size in sys.argv[1:])\n"
        "shown = Image(8, 8, alpha='white'); shown(small); before = peak(); shown(large); print(peak() - before)"
    )
    files = [picture(Pillow.new(mode, (n, n)), exif=exif) for n in (8, side)]
    sizes = [str(len(file)) for file in files]
    done = subprocess.run(
        [sys.executable, "-c", program, *sizes], input=b"".join(files), capture_output=True, check=True
    )
    assert int(done.stdout) < side * side * each + 20_000_000


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    shown, raw = Image(8, 8), picture(PHOTO)
    thread = threading.Thread(target=shown, args=(raw,))
    with image._one_large:
        assert shown(raw).shape == (8, 8, 3)  # it is small, so nothing is waited for
        monkeypatch.setattr(image, "_LARGE_BYTES", 0)
        thread.start()
        thread.join(0.5)
        assert thread.is_alive()
    thread.join()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("alpha", ["drop", "white"])
def test_strips_are_the_whole(orientation: int, alpha: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Pillow.Exif()
    exif[0x0112] = orientation
    clear = np.concatenate([PHOTO, PHOTO[..., :1]], 2)
    raw, shown = picture(clear, exif=exif), Image(30, 30, alpha=alpha)
    upright = ImageOps.exif_transpose(Pillow.open(io.BytesIO(raw)))
    if alpha == "white":
        upright = Pillow.alpha_composite(Pillow.new("RGBA", upright.size, "white"), upright)
    wanted = np.asarray(upright.convert("RGB").resize((30, 30), Pillow.Resampling.BILINEAR))
    for pixels in (1 << 20, 7 * 56, 1):
        monkeypatch.setattr(image, "_AT_ONCE", pixels)
        np.testing.assert_array_equal(shown(raw), wanted)


@pytest.mark.parametrize("raw", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", "text", None, 7])
def test_what_is_no_picture(raw: object) -> None:
    with pytest.raises(InputError) as caught:
        Image()(raw)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_a_truncated_picture_is_refused(form: str) -> None:
    whole = picture(PHOTO, form)
    with pytest.raises(InputError, match=r"damaged|not a picture"):
        Image()(whole[: len(whole) * 2 // 3])


@settings(max_examples=150, deadline=None)
@given(form=st.sampled_from(["JPEG", "PNG", "WEBP", "BMP"]), where=st.integers(0, 10**6), value=st.integers(1, 255))
def test_damage_is_one_line_or_some_picture(form: str, where: int, value: int) -> None:
    raw = bytearray(picture(PHOTO, form))
    raw[where % len(raw)] ^= value
    try:
        assert Image(8, 8)(bytes(raw)).shape == (8, 8, 3)
    except InputError as error:
        assert "\n" not in str(error)


def test_without_pillow_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = picture(PHOTO)
    monkeypatch.setitem(sys.modules, "PIL", None)
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgekd-runtime\[image\]'"):
        Image()(whole)


# --- descriptions ---


def test_a_description_reads_back() -> None:
    shown = Image(3, 5, "crop", 0.875, "bicubic", 7, "bgr", "white", 1 / 255, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), "chw")
    assert load(shown.to_dict()) == shown
    assert load(Image().to_dict()) == Image()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"height": 0}, "height must be between 1 and 4096"),
        ({"width": "224"}, "width must be a whole number"),
        ({"height": True}, "height must be a whole number"),
        ({"resize": "squash"}, "resize must be one of stretch, crop, letterbox, not 'squash'"),
        ({"crop_fraction": 0.01}, "crop_fraction must be between 0.1 and 1"),
        ({"interpolation": "cubic"}, "interpolation must be one of"),
        ({"fill": 256}, "fill must be between 0 and 255"),
        ({"color": "hsv"}, "color must be one of rgb, bgr, gray"),
        ({"scale": 0}, "scale must not be 0"),
        ({"scale": float("nan")}, "scale must be a number"),
        ({"scale": 1e300}, "float32 cannot hold"),
        ({"std": [0.0]}, "every std must be above 0"),
        ({"std": []}, "std must hold 1 or 3 numbers for rgb, not 0"),
        ({"mean": [1, 2]}, "mean must hold 1 or 3 numbers for rgb, not 2"),
        ({"mean": ["a"]}, "mean must be a list of numbers"),
        ({"mean": 1}, "mean must be a list of numbers"),
        ({"layout": "whc"}, "layout must be one of hwc, chw"),
        ({"zoom": 1}, "unknown or missing keys: 'zoom'"),
    ],
)
def test_descriptions_that_mean_nothing(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(PreprocessError) as caught:
        load({**Image().to_dict(), **changes})
    assert words in str(caught.value)
    assert str(caught.value).startswith("image: ")


def test_a_key_must_not_be_missing() -> None:
    spec = Image().to_dict()
    del spec["color"]
    with pytest.raises(PreprocessError, match="missing keys: 'color'"):
        load(spec)


def test_which_inputs_it_fills() -> None:
    assert fits(Image(4, 5), (1, 4, 5, 3))
    assert fits(Image(4, 5, color="gray"), (1, 4, 5))
    assert fits(Image(4, 5, color="gray"), (1, 4, 5, 1))
    assert not fits(Image(4, 5), (1, 5, 4, 3))
    assert not fits(Image(4, 5), (1, 3, 4, 5))
    assert not fits(Image(4, 5), (1, 60))
    assert not fits(Image(4, 5), (2, 4, 5, 3))


def test_the_limits_are_what_the_documents_say() -> None:
    documents = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text("utf-8")
    assert (image.MAX_PIXELS, image.MAX_BYTES, image.MAX_LENGTH) == (50_000_000, 400_000_000, 65_535)
    for limit in ("up to 50 million pixels", "JPEG of 33 and WebP of 20 million", "400 MB", "longer than 65,535"):
        assert limit in documents
