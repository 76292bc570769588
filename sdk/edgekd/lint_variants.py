"""Samples as the usual normalisations would make them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.lint_images import is_picture

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, on pixels from 0 to 1
_COVERED = 0.55  # of a range, by pictures that are said to have it
_SAMPLE = 1 << 20


@dataclass(frozen=True)
class Variant:
    """``name`` completes "as they are and …". ``louder``: its deviation over that of the samples as they are."""

    name: str
    values: Floats
    louder: float


def variants_of(column: Array) -> list[Variant]:
    """``(n, …)`` in other normalisations than it is in; none for pictures in a range that nobody uses."""
    values = column.astype(np.float32)
    made = _pictures(values) if is_picture(column) else _others(values)
    deviation = max(float(values.std(dtype=np.float64)), 1e-30)
    size = float(np.abs(values).max())
    return [
        Variant(name, one, float(one.std(dtype=np.float64)) / deviation)
        for name, one in made.items()
        if float(np.abs(one - values).max()) > 1e-3 * size and np.isfinite(one).all()
    ]


def _pictures(values: Floats) -> dict[str, Floats]:
    unit = _from_zero_to_one(values)
    if unit is None:
        return {}
    mean, std = _statistics(values.shape[-1])
    return {
        "from 0 to 1": unit,
        "from -1 to 1": 2 * unit - 1,
        "from 0 to 255": 255 * unit,
        "normalised by ImageNet's mean and deviation": (unit - mean) / std,
        "from 0 to 255 less ImageNet's mean": 255 * (unit - mean),
    }


def _from_zero_to_one(values: Floats) -> Floats | None:
    """With whatever was done to them undone, once or twice over; the first that makes sense."""
    mean, std = _statistics(values.shape[-1])
    for candidate in (
        *(values, values / 255, (values + 1) / 2, values * std + mean, values / 255 + mean),
        *(255 * values, 255 * (values + 1) / 2, 255 * (values * std + mean), 255 * values / 2 + 0.5),
        *(
            255 * values * std + mean,
            255 * (values + 1) / 4 + 0.5,
            (values + 3) / 4,
            (values * std + mean) * std + mean,
        ),
        *(values / 65025, values / 510 + 0.5, values / 255 * std + mean, (values * std + mean) / 255, 65025 * values),
    ):
        spread = candidate.ravel()[:: max(1, candidate.size // _SAMPLE)]
        low, high = np.percentile(spread, [0.5, 99.5])
        if low >= -0.02 and high <= 1.02 and high - low >= _COVERED:
            return np.asarray(candidate, np.float32)
    return None


def _statistics(colours: int) -> tuple[Floats, Floats]:
    if colours == 3:
        return np.array(_MEAN, np.float32), np.array(_STD, np.float32)
    return np.array(0.449, np.float32), np.array(0.226, np.float32)


def _others(values: Floats) -> dict[str, Floats]:
    mean, deviation = float(values.mean(dtype=np.float64)), max(float(values.std(dtype=np.float64)), 1e-12)
    return {
        "with mean 0 and deviation 1": (values - mean) / deviation,
        "divided by 255": values / 255,
        "times 255": values * 255,
        "divided by 32768": values / 32768,
        "times 32768": values * 32768,
    }
