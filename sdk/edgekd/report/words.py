"""Figures as people read them."""

from __future__ import annotations


def percent(fraction: float | None) -> str:
    """``0.9263`` → ``92.63 %``; nothing measured → a dash."""
    return "–" if fraction is None else f"{100 * fraction:.2f} %"


def kilobytes(count: int) -> str:
    """Bytes → ``806.1 kB``, of 1000 bytes."""
    return f"{count / 1000:.1f} kB"
