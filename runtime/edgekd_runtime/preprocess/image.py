"""Pictures: the bytes of a JPEG, PNG, WebP or BMP in, ``(height, width, channels) float32`` out.

Decoding and resizing are Pillow's (the extra ``[image]``), whose filters are integer arithmetic and so the same on
every machine. Pixels are numbered 0 to 255 until the very end, where one table turns each into the number that the
model is fed; for an int8 model that table holds int8.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgekd_runtime.errors import InputError, MissingExtraError, PreprocessError
from edgekd_runtime.preprocess import fields

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

KIND = "image"
NEEDS = "pictures need Pillow: pip install 'edgekd-runtime[image]'"
MAX_PIXELS = 50_000_000  # of a picture before it is resized
MAX_LENGTH = 65_535  # of a side, as in a JPEG
MAX_BYTES = 400_000_000
# What a pixel takes: 4 bytes in Pillow, 4 more in a copy that is upright and in the right colours. Beside the first a
# JPEG in several scans has 8, of coefficients; a WebP, whose decoder stays, 12.
_BYTES, _BYTES_IN_SCANS, _BYTES_WEBP = 8, 12, 20
_LARGE_BYTES = 100_000_000

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
_RESIZES = ("stretch", "crop", "letterbox")
_FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box")
_COLORS = ("rgb", "bgr", "gray")
_ALPHAS = ("drop", "white", "black")
_LAYOUTS = ("hwc", "chw")
_MAX_SIDE = 4096
_AT_ONCE = 1 << 20  # pixels
_ORIENTATION = 0x0112  # EXIF's tag
# By its value: what turns the picture upright, and where the upright one's rows are: in columns, counted from the end.
_TURNS = {
    2: ("FLIP_LEFT_RIGHT", False, False),
    3: ("ROTATE_180", False, True),
    4: ("FLIP_TOP_BOTTOM", False, True),
    5: ("TRANSPOSE", True, False),
    6: ("ROTATE_270", True, False),
    7: ("TRANSVERSE", True, True),
    8: ("ROTATE_90", True, True),
}
_one_large = threading.Lock()  # held while a large picture is in memory, so that those of several threads do not add up


@dataclass(frozen=True)
class Image(fields.OfFiles):
    """``number = (pixel · scale − mean) / std``, for each channel in the order of ``color``; pixels are 0 to 255.

    ``resize``: ``stretch`` to the size; ``crop``: scale until the shorter side is the size over ``crop_fraction``, then
    cut out the centre (224 with 0.875 is torchvision's Resize(256), CenterCrop(224)); ``letterbox``: scale until all of
    it fits and surround it with ``fill``. ``alpha``: forget transparency, as training pipelines do, or put the picture
    on white or black. ``layout``: the order of the model's own axes. A camera's orientation (EXIF) is followed.
    """

    media: ClassVar = KIND
    media_types: ClassVar = ("image/jpeg", "image/png", "image/webp", "image/bmp")
    suffixes: ClassVar = (".jpg", ".jpeg", ".png", ".webp", ".bmp")

    height: int = 224
    width: int = 224
    resize: str = "stretch"
    crop_fraction: float = 1.0
    interpolation: str = "bilinear"
    fill: int = 0
    color: str = "rgb"
    alpha: str = "drop"
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    layout: str = "hwc"

    def __post_init__(self) -> None:
        for key in ("height", "width"):
            fields.between(KIND, key, getattr(self, key), 1, _MAX_SIDE)
        fields.between(KIND, "crop_fraction", self.crop_fraction, 0.1, 1)
        fields.between(KIND, "fill", self.fill, 0, 255)
        allowed = {"resize": _RESIZES, "interpolation": _FILTERS, "color": _COLORS, "alpha": _ALPHAS}
        for key, values in {**allowed, "layout": _LAYOUTS}.items():
            fields.one_of(KIND, key, getattr(self, key), values)
        for key in ("mean", "std"):
            count = len(getattr(self, key))
            if count not in (1, self.channels):
                raise PreprocessError(
                    f"{KIND}: {key} must hold 1 or {self.channels} numbers for {self.color}, not {count}"
                )
        if self.scale == 0 or min(self.std) <= 0:
            raise PreprocessError(f"{KIND}: scale must not be 0 and every std must be above 0")
        if not np.isfinite(self.table()).all():
            raise PreprocessError(f"{KIND}: scale, mean and std make numbers that float32 cannot hold")

    @property
    def channels(self) -> int:
        return 1 if self.color == "gray" else 3

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample, without the batch."""
        size = (self.height, self.width)
        return (self.channels, *size) if self.layout == "chw" else (*size, self.channels)

    def table(self) -> npt.NDArray[np.float32]:
        """``(256, channels)``: what each pixel value becomes."""
        pixels = np.arange(256, dtype=np.float64)[:, None]
        with np.errstate(over="ignore"):
            numbers = (pixels * self.scale - np.array(self.mean)) / np.array(self.std)
            return np.broadcast_to(numbers, (256, self.channels)).astype(np.float32)

    def decode(self, raw: object) -> npt.NDArray[np.uint8]:
        """A file's bytes, or ``(h, w, 3 or 1) uint8`` in RGB or gray → ``(height, width, channels) uint8``.

        Raises ``InputError`` for what is no picture, or one that is truncated or would take more than ``MAX_BYTES``.
        """
        if isinstance(raw, np.ndarray):
            return self._arranged(self._picture_of(raw))
        if not isinstance(raw, (bytes, bytearray)):
            raise InputError(f"expected the bytes of a picture, got {type(raw).__name__}")
        pillow = _pillow()
        try:
            with pillow.open(io.BytesIO(raw), formats=_FORMATS) as picture, _room_for(picture, raw):
                return self._arranged(picture)
        except InputError:
            raise
        except pillow.DecompressionBombError as error:  # Pillow's own limit, which is higher
            raise InputError(f"the picture has too many pixels; at most {MAX_PIXELS} are taken") from error
        except pillow.UnidentifiedImageError as error:
            raise InputError(f"not a picture that can be read here; {', '.join(_FORMATS)} can") from error
        except Exception as error:  # damaged files make Pillow's decoders raise nearly anything
            raise InputError(f"the picture is damaged: {' '.join(str(error).split())[:200]}") from error

    def finish(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """``(…, height, width, channels) uint8`` → ``(…, *shape) float32``."""
        return self._look_up(self.table(), pixels)

    def __call__(self, raw: object) -> npt.NDArray[np.float32]:
        """What :meth:`decode` takes → ``shape float32``."""
        return self.finish(self.decode(raw))

    def prepared(
        self, quantize: Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]
    ) -> Callable[[object], npt.NDArray[Any]]:
        """What :meth:`decode` takes → ``shape``, stored as ``quantize`` says, once for each pixel value."""
        table = quantize(self.table())
        return lambda raw: self._look_up(table, self.decode(raw))

    def _look_up(self, table: npt.NDArray[Any], pixels: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        shape = (*pixels.shape[:-3], *self.shape)
        made: npt.NDArray[Any] = np.empty(shape, table.dtype)
        channels = np.moveaxis(made, -3, -1) if self.layout == "chw" else made
        for number in range(self.channels):
            channels[..., number] = table[:, number][pixels[..., number]]
        return made

    def _picture_of(self, pixels: npt.NDArray[Any]) -> Picture:
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or not pixels.size:
            raise InputError(f"pixels must be [h, w, 3 or 1] uint8, not {list(pixels.shape)} {pixels.dtype}")
        picture: Picture = _pillow().fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        return picture

    def _arranged(self, picture: Picture) -> npt.NDArray[np.uint8]:
        pixels = np.asarray(self._resized(self._upright(picture))).reshape(self.height, self.width, self.channels)
        return pixels[..., ::-1] if self.color == "bgr" else pixels

    def _upright(self, picture: Picture) -> Picture:
        """As its orientation says, in 8 bits, gray or RGB; made in strips, for what is in between takes memory, too."""
        picture.load()
        turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
        if turn is None and picture.mode == self._mode and not self._is_composed(picture):
            return picture
        size = picture.size[::-1] if turn and turn[1] else picture.size
        upright: Picture = _pillow().new(self._mode, size)
        for top, strip in _strips(picture, size, *(turn or ("", False, False))):
            upright.paste(self._colored(strip), (0, top))
        return upright

    @property
    def _mode(self) -> str:
        return "L" if self.color == "gray" else "RGB"

    def _is_composed(self, picture: Picture) -> bool:
        return self.alpha != "drop" and picture.has_transparency_data

    def _colored(self, picture: Picture) -> Picture:
        """In 8 bits, gray or RGB."""
        if picture.mode.startswith("I"):  # 16 bits a pixel; Pillow's own conversion clips instead of scaling
            picture = _pillow().fromarray((np.asarray(picture) >> 8).clip(0, 255).astype(np.uint8))
        if self._is_composed(picture):
            layer = picture.convert("RGBA")
            picture = _pillow().alpha_composite(_pillow().new("RGBA", layer.size, self.alpha), layer)
        return picture.convert(self._mode)

    def _resized(self, picture: Picture) -> Picture:
        method = getattr(_pillow().Resampling, self.interpolation.upper())
        width, height = picture.size
        wanted = (self.width, self.height)
        if self.resize == "stretch":
            return _scaled(picture, wanted, method)
        if self.resize == "crop":
            low = (int(self.width / self.crop_fraction), int(self.height / self.crop_fraction))
            # As torchvision: the side that just covers is exact, the other is cut to a whole number.
            if low[0] * height >= low[1] * width:
                size = (low[0], max(low[1], int(low[0] * height / width)))
            else:
                size = (max(low[0], int(low[1] * width / height)), low[1])
            if size[0] * size[1] > MAX_PIXELS:
                raise InputError(f"the picture, {width} × {height} pixels, is too long and narrow to be cropped")
            left, top = (round((side - inner) / 2) for side, inner in zip(size, wanted, strict=True))
            return _scaled(picture, size, method).crop((left, top, left + self.width, top + self.height))
        ratio = min(self.width / width, self.height / height)
        size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        ground: Picture = _pillow().new(picture.mode, wanted, self.fill if picture.mode == "L" else (self.fill,) * 3)
        ground.paste(_scaled(picture, size, method), ((self.width - size[0]) // 2, (self.height - size[1]) // 2))
        return ground


def _strips(
    picture: Picture, size: tuple[int, int], turn: str, in_columns: bool, from_end: bool
) -> Iterator[tuple[int, Picture]]:
    """(number of the first row, some rows) of the picture that turned has this size, from the top."""
    width, height = size
    rows = max(1, _AT_ONCE // width)
    for top in range(0, height, rows):
        low, high = top, min(top + rows, height)
        if from_end:
            low, high = height - high, height - low
        box = (low, 0, high, width) if in_columns else (0, low, width, high)
        strip = picture if rows >= height else picture.crop(box)
        yield top, strip.transpose(_pillow().Transpose[turn]) if turn else strip


def _room_for(picture: Picture, raw: bytes | bytearray) -> AbstractContextManager[object]:
    """To be held while the picture is decoded. Raises ``InputError`` if that would take too much memory."""
    width, height = picture.size
    each, kind = _BYTES, ""
    if picture.format == "WEBP":
        each, kind = _BYTES_WEBP, " of a WebP"
    elif raw.startswith(b"\xff\xd8") and not _is_in_one_scan(raw):  # a JPEG, which Pillow may call an MPO
        each, kind = _BYTES_IN_SCANS, " of a progressive JPEG"
    if width * height * each > MAX_BYTES:
        raise InputError(f"the picture has {width} × {height} pixels; at most {MAX_BYTES // each} are taken{kind}")
    if max(width, height) > MAX_LENGTH:
        raise InputError(f"the picture has {width} × {height} pixels; at most {MAX_LENGTH} are taken on a side")
    return _one_large if width * height * each > _LARGE_BYTES else nullcontext()


def _is_in_one_scan(raw: bytes | bytearray) -> bool:
    """Whether a JPEG is surely decoded row by row: sequential, all its components together (ITU-T T.81, B.2)."""
    at, components = 2, 0
    while at + 10 <= len(raw) and raw[at] == 0xFF and 0xC0 <= raw[at + 1] < 0xFF:
        kind = raw[at + 1]
        if kind in (0xC0, 0xC1):  # the frame's header
            components = raw[at + 9]
        elif kind == 0xDA:  # the first scan's
            return raw[at + 4] == components
        elif 0xD0 <= kind <= 0xD9:  # has no length, and does not belong here
            return False
        at += 2 + int.from_bytes(raw[at + 2 : at + 4], "big")
    return False


def _scaled(picture: Picture, size: tuple[int, int], method: Any) -> Picture:
    return picture.resize(size, method) if picture.size != size else picture


def can_decode() -> bool:
    """Whether Pillow is installed, which is not loaded for that."""
    return find_spec("PIL") is not None


def _pillow() -> Any:
    """Only here: a device that is sent no pictures needs no Pillow. Raises ``MissingExtraError``."""
    try:
        import PIL.Image
    except ImportError as error:
        raise MissingExtraError(NEEDS) from error
    return PIL.Image
