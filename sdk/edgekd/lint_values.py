"""What can be said of a column of numbers without knowing what they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.finding import Finding, error, warning
from edgekd.lint_images import is_picture
from edgekd_converters.graph import Tensor
from edgekd_runtime.preprocess.image import Image

Array = npt.NDArray[Any]

_MOST_VALUES = 1 << 21  # for quantiles
_SCANNED_AT_ONCE = 1 << 22
_BLANK_ROWS = 0.02
_REPEATED_ROWS = 0.05
_FEWEST_NUMBERS_OF_A_ROW = 16  # below, rows repeat by nature
_BULK = 98  # percent
_OUTLYING = 10.0
_SHIFTED = 0.5
_STRETCHED = 1.6


@dataclass(frozen=True)
class Scan:
    """Of a whole column: how many rows and numbers are NaN or infinite, and the extremes of all others."""

    rows: int
    bad_rows: int
    bad_share: float
    low: float
    high: float


def scan(column: Any) -> Scan:
    """Some rows at a time; ``column`` is an array, or what is sliced like one and has its ``shape``."""
    count, width = len(column), max(math.prod(column.shape[1:]), 1)
    step = max(_SCANNED_AT_ONCE // width, 1)
    bad_rows = bad = 0
    low, high = math.inf, -math.inf
    for start in range(0, count, step):
        part = np.asarray(column[start : start + step])
        least, most = float(part.min()), float(part.max())
        if not math.isfinite(least + most):  # NaN wins every comparison that min and max make
            finite = np.isfinite(part)
            bad_rows += int((~finite.reshape(len(part), -1).all(1)).sum())
            bad += int((~finite).sum())
            least, most = (float(part[finite].min()), float(part[finite].max())) if finite.any() else (low, high)
        low, high = min(low, least), max(high, most)
    return Scan(count, bad_rows, bad / (count * width), low, high)


def check_values(name: str, column: Array, tensor: Tensor, all_of_it: Scan, *, alone: bool) -> list[Finding]:
    """``(n, …)`` in the dtype it came in. ``alone``: the model has no other input."""
    findings = _check_dtype(name, column, np.dtype(tensor.dtype.lower()), all_of_it)
    if all_of_it.bad_rows:
        return [*findings, _not_finite(name, all_of_it)]
    if len(column) > 1 and (alone or tensor.dtype == "FLOAT32"):
        findings += _check_constant(name, column)
    if tensor.dtype == "FLOAT32" and not findings:
        findings += _check_outliers(name, column, all_of_it)
    return findings


def _check_dtype(name: str, column: Array, wanted: np.dtype[Any], all_of_it: Scan) -> list[Finding]:
    if wanted.kind in "iu" and column.dtype.kind == "f":
        finite = column[np.isfinite(column)]
        share = float((finite != np.trunc(finite)).mean()) if finite.size else 0.0
        if share:
            text = f"{name!r}: the model takes whole numbers ({wanted}), and {share:.1%} of these have fractions"
            return [error("dtype", f"{text} that would be cut off", dtype=str(column.dtype), wanted=str(wanted))]
    if wanted.kind in "iu" and column.dtype.kind in "iuf" and column.size:
        limits = np.iinfo(wanted)
        if all_of_it.low < limits.min or all_of_it.high > limits.max:
            text = f"{name!r}: the numbers run from {all_of_it.low:g} to {all_of_it.high:g}, not as {wanted} can"
            return [error("dtype", text, dtype=str(column.dtype), wanted=str(wanted))]
    if column.dtype == np.float64 and wanted == np.float32:
        text = f"{name!r} is float64 and the model takes float32: store it so, in half the space"
        return [warning("dtype", text, dtype=str(column.dtype), wanted=str(wanted))]
    return []


def _not_finite(name: str, all_of_it: Scan) -> Finding:
    text = (
        f"{name!r}: {all_of_it.bad_rows} of {all_of_it.rows} samples hold NaN or infinity "
        f"({all_of_it.bad_share:.2g} of all numbers)"
    )
    return error("nan", text, rows=all_of_it.bad_rows, share=all_of_it.bad_share)


def _check_constant(name: str, column: Array) -> list[Finding]:
    if (column == column[:1]).all():
        return [warning("constant", f"{name!r}: all {len(column)} samples are the same", rows=len(column))]
    if not is_picture(column):
        return []
    spans = np.ptp(column.reshape(-1, column.shape[-1]), axis=0)
    if still := [i for i, span in enumerate(spans.tolist()) if span == 0]:
        text = f"{name!r}: channel {still[0]} has the same value in every pixel of every sample"
        return [warning("constant", text, channels=still)]
    flat = column.reshape(len(column), -1)
    blank = float((flat.max(1) == flat.min(1)).mean())
    if blank > _BLANK_ROWS:
        text = f"{name!r}: {blank:.1%} of the samples are blank, every pixel the same"
        return [warning("constant", text, blank_share=blank)]
    return []


def _check_outliers(name: str, column: Array, all_of_it: Scan) -> list[Finding]:
    """Zeros, the padding of sparse data, count neither for the bulk nor against it."""
    values = column.ravel()[:: max(1, column.size // _MOST_VALUES)].astype(np.float64)
    centre = float(np.median(values))
    size = np.abs(values[values != 0] - centre)
    bulk = float(np.percentile(size, _BULK)) if size.size else 0.0
    most = max(abs(all_of_it.low - centre), abs(all_of_it.high - centre))
    if bulk == 0 or most <= _OUTLYING * bulk:
        return []
    share = float((np.abs(values - centre) > _OUTLYING * bulk).mean())
    steps = max(round(255 * bulk / most), 1)
    text = (
        f"{name!r}: {_BULK} % of the values lie within {bulk:.3g} of {centre:.3g}, but some reach {most:.3g} from it; "
        f"int8 would have about {steps} of its 256 steps left for the {_BULK} %"
    )
    return [warning("outliers", text, centre=centre, bulk=bulk, most=most, share=share)]


def check_range(name: str, column: Array, preprocess: object) -> list[Finding]:
    """Whether pixels can have come out of the preprocessing that is said to have made them."""
    if not isinstance(preprocess, Image) or not is_picture(column) or not np.isfinite(column).all():
        return []
    table = preprocess.table()
    low, high = float(table.min()), float(table.max())
    least, most = (float(np.percentile(column.ravel()[:: max(1, column.size // _MOST_VALUES)], p)) for p in (0.1, 99.9))
    span = high - low
    if low - 0.02 * span <= least and most <= high + 0.02 * span and most - least >= 0.1 * span:
        return []
    text = (
        f"{name!r}: the samples run from {least:.3g} to {most:.3g}, but the preprocessing makes numbers from {low:.3g} "
        f"to {high:.3g}; they were normalised twice, not at all or in another way"
    )
    return [warning("preprocess", text, low=least, high=most, preprocess_low=low, preprocess_high=high)]


def check_duplicates(columns: Mapping[str, Array]) -> list[Finding]:
    """Rows that are the same in all columns."""
    count = len(next(iter(columns.values())))
    numbers = sum(column[0].size for column in columns.values())
    if numbers < _FEWEST_NUMBERS_OF_A_ROW or count < 2:
        return []
    parts = zip(*(np.ascontiguousarray(column) for column in columns.values()), strict=True)
    different = len({b"".join(part.tobytes() for part in row) for row in parts})
    share = 1 - different / count
    if share <= _REPEATED_ROWS or different == 1:  # the same everywhere is what "constant" says
        return []
    text = f"{share:.1%} of the samples repeat another one: {count} rows, {different} different"
    return [warning("duplicates", text, share=share, rows=count, different=different)]


def check_shift(name: str, samples: Array, held: Array) -> list[Finding]:
    """Whether the samples are distributed as the held-out data are, channel by channel of pictures."""
    if samples.dtype.kind not in "fu" or not (np.isfinite(samples).all() and np.isfinite(held).all()):
        return []
    ours, theirs = _by_channel(samples), _by_channel(held)
    spread = np.maximum(theirs.std((0, 1)), 1e-12)
    noise = np.sqrt(ours.mean(1).var(0) / len(ours) + theirs.mean(1).var(0) / len(theirs))
    moved = np.abs(ours.mean((0, 1)) - theirs.mean((0, 1)))
    stretch = np.maximum(ours.std((0, 1)), 1e-12) / spread
    stretched = np.maximum(stretch, 1 / stretch)
    few = min(len(ours), len(theirs)) < _FEWEST_NUMBERS_OF_A_ROW
    wrong = (moved > _SHIFTED * spread + 4 * noise) | (stretched > (4 if few else _STRETCHED))
    if not wrong.any():
        return []
    k = int(np.argmax(moved / spread + stretched))
    mean, deviation = float(ours[..., k].mean()), float(ours[..., k].std())
    held_mean, held_deviation = float(theirs[..., k].mean()), float(theirs[..., k].std())
    where = f"{name!r}, channel {k}" if len(spread) > 1 else f"{name!r}"
    text = (
        f"{where}: the samples have mean {mean:.3g} and deviation {deviation:.3g}, the held-out data {held_mean:.3g} "
        f"and {held_deviation:.3g}; both should be made in the same way of the same kind of data"
    )
    figures = {"mean": mean, "deviation": deviation, "held_mean": held_mean, "held_deviation": held_deviation}
    return [warning("shift", text, **figures)]


def _by_channel(column: Array) -> npt.NDArray[np.float64]:
    """``(n, values, channels)``; what is not a picture counts as one channel."""
    step = max(1, column.size // (4 * _MOST_VALUES))
    channels = column.shape[-1] if is_picture(column) else 1
    return column[::step].reshape(len(column[::step]), -1, channels).astype(np.float64)
