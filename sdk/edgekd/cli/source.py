"""The options of every command that opens a model: what the model itself leaves open."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from edgekd_converters.load.source import LoadOptions


def _shapes(context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """``input=1,128`` → its name and sizes."""
    shapes = {}
    for value in values:
        name, _, sizes = value.rpartition("=")
        if not name or not all(size.strip().isdecimal() and int(size) for size in sizes.split(",")):
            raise click.BadParameter(f"{value!r} is not a name and sizes, such as input=1,128.")
        shapes[name] = tuple(int(size) for size in sizes.split(","))
    return shapes


_OPTIONS = (
    click.option(
        "--shape",
        "shapes",
        multiple=True,
        callback=_shapes,
        metavar="NAME=SIZES",
        help="Sizes that STUDENT leaves open, in its own layout, e.g. input=1,128. Once for each input.",
    ),
    click.option("--signature", help="Which signature of a SavedModel to take. [default: the only one]"),
    click.option("--trust", is_flag=True, help="Let code that is stored in STUDENT run."),
)


def options(command: Callable[..., None]) -> Callable[..., None]:
    """Decorator that adds them all to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def load_options(given: dict[str, Any]) -> LoadOptions:
    """What they say."""
    from edgekd_converters.load.source import LoadOptions

    return LoadOptions(given["shapes"], given["signature"], given["trust"])
