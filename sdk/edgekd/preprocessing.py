"""How files become a model's input: what a user says of it, completed from the model's own input."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomllib

from edgekd.errors import DataError, UsageError
from edgekd_converters.graph import Tensor
from edgekd_runtime.errors import PreprocessError
from edgekd_runtime.preprocess import MEDIA_KINDS, Audio, Image, Media, Preprocess, fields, fits

Given = Mapping[str, object]
"""``kind`` (image or audio) and any of that kind's keys; what is left out has its default or follows from the model."""


def read_given(path: Path) -> dict[str, object]:
    """The content of a ``--preprocess`` file, JSON or (``.toml``) TOML. Raises ``DataError``."""
    try:
        text = path.read_text("utf-8-sig")
        content = tomllib.loads(text) if path.suffix.lower() == ".toml" else json.loads(text)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        form = "TOML" if path.suffix.lower() == ".toml" else "JSON"
        raise DataError(f"{path}: not {form}: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must hold an object, a preprocessing by its keys")
    return content


def preprocess_for(given: Given, inputs: Mapping[str, Tensor]) -> Media:
    """The preprocessing for a model of one input, in the graph's layout.

    Of a picture, size, colour or gray, and the order of axes follow from the input; of a waveform the length does.
    Raises ``UsageError`` where it does not fill the input.
    """
    kind = given.get("kind")
    if not isinstance(kind, str) or kind not in MEDIA_KINDS:
        raise UsageError(f"preprocessing: kind must be one of {', '.join(MEDIA_KINDS)}, not {kind!r:.40}")
    if given.get("version", fields.VERSION) != fields.VERSION:
        raise UsageError(f"preprocessing: version must be {fields.VERSION}, not {given['version']!r:.40}")
    if len(inputs) != 1:
        raise UsageError(f"preprocessing is for models of one input; this one has {len(inputs)}: {', '.join(inputs)}")
    ((name, tensor),) = inputs.items()
    cls = MEDIA_KINDS[kind]
    try:
        made = fields.read_fields(cls, kind, {**_implied(cls, given, tensor.shape), **given}, whole=False)
    except PreprocessError as error:
        raise UsageError(f"preprocessing: {error}") from error
    check_preprocess(made, name, tensor)
    return made


def check_preprocess(preprocess: Preprocess, name: str, tensor: Tensor) -> None:
    """Raise ``UsageError`` unless what it makes fills the input, and in a dtype that can hold it."""
    if not fits(preprocess, tensor.shape):
        raise UsageError(f"preprocessing makes {[1, *preprocess.shape]}; input {name!r} takes {list(tensor.shape)}")
    if not isinstance(preprocess, Media) or tensor.dtype == "FLOAT32":
        return
    as_they_are = isinstance(preprocess, Image) and (preprocess.table() == Image().table()[:, :1]).all()
    if tensor.dtype != "UINT8" or not as_they_are:
        raise UsageError(
            f"input {name!r} is {tensor.dtype.lower()}; preprocessing makes float32, or plain pixels for a uint8 input"
        )


def _implied(cls: type[Media], given: Given, shape: tuple[int, ...]) -> dict[str, Any]:
    """What the input's shape, batch included, says of keys that are not given."""
    if cls is Audio:
        is_wave = given.get("features", "waveform") == "waveform"
        return {"length": math.prod(shape)} if is_wave and "length" not in given else {}
    sides = shape[1:]
    if len(sides) == 2:
        return {"height": sides[0], "width": sides[1], "color": "gray"}
    if len(sides) != 3:
        return {}
    if sides[2] in (1, 3):
        layout, (height, width, channels) = "hwc", sides
    else:
        layout, (channels, height, width) = "chw", sides
    return {"height": height, "width": width, "color": "gray" if channels == 1 else "rgb", "layout": layout}
