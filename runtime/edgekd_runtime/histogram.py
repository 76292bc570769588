"""Counts of times in buckets, as Prometheus keeps them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

BOUNDS_S = (
    *(25e-6, 50e-6, 100e-6, 200e-6, 400e-6, 800e-6, 1.6e-3, 3.2e-3, 6.4e-3, 12.8e-3, 25e-3, 50e-3),
    *(0.1, 0.2, 0.4, 0.8, 1.6, 5.0, 10.0),
)
"""Upper bounds in seconds, doubling: from a small model's answer to one that is given up."""


class Histogram:
    """``counts[i]``: values up to ``BOUNDS_S[i]`` and beyond the one before; the last has no bound. Not locked."""

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Count from nothing."""
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one value."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total_s += seconds


def merged(parts: Iterable[Histogram]) -> Histogram:
    """The sum of ``parts``."""
    whole = Histogram()
    for part in parts:
        whole.counts = [a + b for a, b in zip(whole.counts, part.counts, strict=True)]
        whole.total_s += part.total_s
    return whole
