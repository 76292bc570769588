"""Augmentation of image samples, ``(n, h, w, c)``, on the host: cheap, and the same for any graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.errors import RecoverError
from edgekd_converters.observe import Columns

KINDS = ("flip", "crop")
_MARGIN = 8  # a crop is shifted by up to an eighth of the image


def check(kinds: Sequence[str], samples: Columns) -> None:
    """Raises ``RecoverError`` for unknown kinds, and when no input is an image."""
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise RecoverError(f"augmentation {unknown[0]!r} is not one of {', '.join(KINDS)}")
    if kinds and not any(column.ndim == 4 for column in samples.values()):
        raise RecoverError("augmentation needs an image input, (n, height, width, channels)")


def apply(columns: Columns, kinds: Sequence[str], rng: np.random.Generator) -> dict[str, npt.NDArray[Any]]:
    """Flip left-right half of the images; shift each, mirrored at the border, by a random part of its margin."""
    return {name: _image(column, kinds, rng) if column.ndim == 4 else column for name, column in columns.items()}


def _image(images: npt.NDArray[Any], kinds: Sequence[str], rng: np.random.Generator) -> npt.NDArray[Any]:
    if "flip" in kinds:
        flipped = rng.random(len(images)) < 0.5
        images = np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
    if "crop" in kinds:
        _, height, width, _ = images.shape
        up, left = max(1, height // _MARGIN), max(1, width // _MARGIN)
        wide = np.pad(images, ((0, 0), (up, up), (left, left), (0, 0)), mode="reflect")
        tops, lefts = rng.integers(0, 2 * up + 1, len(images)), rng.integers(0, 2 * left + 1, len(images))
        images = np.stack([one[y : y + height, x : x + width] for one, y, x in zip(wide, tops, lefts, strict=True)])
    return images
