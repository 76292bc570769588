"""The options of ``edgekd convert`` that say how pictures and sounds become the model's input."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import click

from edgekd.cli import common
from edgekd.errors import UsageError

_SIZE = re.compile(r"(\d+)(?:[x×](\d+))?")


def _read_number(text: str) -> float:
    """A number, or a fraction such as ``1/255``."""
    try:
        number = float(Fraction(text.strip())) if "/" in text else float(text)
    except (ValueError, ZeroDivisionError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise click.BadParameter(f"{text!r} is not a number or a fraction such as 1/255.")
    return number


def _number(context: click.Context, option: click.Parameter, value: str | None) -> float | None:
    return None if value is None else _read_number(value)


def _numbers(context: click.Context, option: click.Parameter, value: str | None) -> list[float] | None:
    """``0.485,0.456,0.406`` → its numbers."""
    return None if value is None else [_read_number(part) for part in value.split(",")]


def _size(context: click.Context, option: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """``224`` or ``HEIGHTxWIDTH``."""
    if value is None:
        return None
    match = _SIZE.fullmatch(value.strip().lower())
    if match is None:
        raise click.BadParameter(f"{value!r} is neither a side such as 224 nor HEIGHTxWIDTH.")
    return int(match[1]), int(match[2] or match[1])


_OPTIONS = (
    click.option(
        "--preprocess",
        type=common.PATH,
        metavar="FILE",
        help="JSON or TOML that says how pictures (kind image) or sounds (kind audio) become the input.",
    ),
    click.option("--image-size", callback=_size, metavar="224|HxW", help="Of a picture. [default: the model's input]"),
    click.option(
        "--resize",
        type=click.Choice(["stretch", "crop", "letterbox"]),
        help="How a picture gets there. [default: stretch]",
    ),
    click.option(
        "--crop-fraction",
        callback=_number,
        metavar="NUMBER",
        help="Of --resize crop: 0.875 is Resize(256), CenterCrop(224).",
    ),
    click.option(
        "--interpolation",
        type=click.Choice(["nearest", "bilinear", "bicubic", "lanczos", "box"]),
        help="Of Pillow's. [default: bilinear]",
    ),
    click.option("--color", type=click.Choice(["rgb", "bgr", "gray"]), help="[default: rgb, or gray for one channel]"),
    click.option(
        "--scale",
        callback=_number,
        metavar="NUMBER",
        help="Input = (pixel of 0 to 255 × scale − mean) / std. [default: 1]",
    ),
    click.option("--mean", callback=_numbers, metavar="M[,M,M]", help="One, or one for each channel. [default: 0]"),
    click.option("--std", callback=_numbers, metavar="S[,S,S]", help="One, or one for each channel. [default: 1]"),
)
_IMAGE = ("resize", "crop_fraction", "interpolation", "color", "scale", "mean", "std")


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator that adds them all to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def given(parameters: dict[str, Any]) -> dict[str, object] | None:
    """What the options say, for :func:`edgekd.preprocessing.preprocess_for`; None where none is given.

    The single options are for pictures and go before the file's keys.
    """
    from edgekd.preprocessing import read_given

    single: dict[str, object] = {key: parameters[key] for key in _IMAGE if parameters[key] is not None}
    if parameters["image_size"] is not None:
        single["height"], single["width"] = parameters["image_size"]
    if parameters["preprocess"] is None:
        return {"kind": "image", **single} if single else None
    read = read_given(parameters["preprocess"])
    if single and read.get("kind") != "image":
        raise UsageError("--image-size, --mean and the like are for pictures; --preprocess is not of kind image")
    return {**read, **single}
