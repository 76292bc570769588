"""Figures as people read them."""

from __future__ import annotations

from edgekd.metric import Metric

_NONE = "–"


def percent(fraction: float | None) -> str:
    """``0.9263`` → ``92.63 %``; nothing measured → a dash."""
    return _NONE if fraction is None else f"{100 * fraction:.2f} %"


def roughly(fraction: float | None) -> str:
    """``0.6218`` → ``62.2 %``."""
    return _NONE if fraction is None else f"{100 * fraction:.1f} %".replace("-", "−")


def kilobytes(count: int) -> str:
    """Bytes → ``806.1 kB``, of 1000 bytes."""
    return f"{count / 1000:.1f} kB"


def size(count: float | None) -> str:
    """Bytes → ``806.1 kB`` or ``3.16 MB``, of 1000 bytes."""
    if count is None:
        return _NONE
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1000:.1f} kB"


def microseconds(value: float | None) -> str:
    """``5.9 µs``, ``1.24 ms`` or ``2.10 s``."""
    if value is None:
        return _NONE
    unit, scale = next((one for one in (("s", 1e6), ("ms", 1e3)) if value >= one[1]), ("µs", 1.0))
    return f"{value / scale:.1f} µs" if unit == "µs" else f"{value / scale:.2f} {unit}"


def many(count: float | None) -> str:
    """``12,501,632`` → ``12.5 M``; below ten thousand in full."""
    if count is None:
        return _NONE
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= scale * (10 if unit == "k" else 1):
            return f"{count / scale:.1f} {unit}"
    return f"{count:,.0f}"


def whole(count: int) -> str:
    """``12,501,632``."""
    return f"{count:,}"


def points(change: float | None) -> str:
    """A difference of two shares in percentage points, with its sign: ``−0.52 points``."""
    if change is None:
        return _NONE
    sign = "±" if abs(change) < 5e-5 else "+" if change > 0 else "−"
    return f"{sign}{100 * abs(change):.2f} points"


def times(before: float | None, after: float | None, less: str, more: str) -> str:
    """``4.0 × smaller`` for ``less`` = smaller; what is about the same is said to be."""
    if not before or not after:
        return _NONE
    ratio = before / after
    if 0.98 < ratio < 1.02:
        return "unchanged"
    return f"{ratio:.1f} × {less}" if ratio > 1 else f"{1 / ratio:.1f} × {more}"


def fixed(value: float | None, digits: int) -> str:
    """So many digits behind the point, with a true minus."""
    return _NONE if value is None else f"{value:.{digits}f}".replace("-", "−")


def metric_value(metric: Metric, value: float | None) -> str:
    """A share in percent, a squared error as a number; nothing measured → a dash."""
    return f"{value:.4g}" if metric == "mse" and value is not None else percent(value)


def decibels(value: float | None) -> str:
    """``37.5 dB``; no error at all, or nothing to measure → a dash."""
    return _NONE if value is None else f"{fixed(value, 1)} dB"


def number(value: float | None, digits: int = 3) -> str:
    """So many significant digits, with a true minus."""
    return _NONE if value is None else f"{value:.{digits}g}".replace("-", "−")
