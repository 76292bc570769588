"""A histogram that grows with its values: any number of them in the same memory, in any order with the same result."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_BINS = 4096
_CLIPS = 120
_LEAST_CLIP = 1e-3  # of the extreme value: one sample in a hundred may be a thousand times too large
_LEAST_WIDTH = 2.0**-100  # its inverse is a float32
_STEPS = 255


class Histogram:
    """Bins of one width, a power of 2, on both sides of 0; a value beyond them doubles the width.

    ``low`` and ``high`` are exact. Zeros are counted apart: quantisation keeps them exact.
    """

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf
        self._counts = np.zeros(_BINS, np.int64)
        self._zeros = 0
        self._width = 0.0

    @property
    def extremes(self) -> tuple[float, float]:
        """The least and the greatest value; 0 for a tensor that holds none."""
        return (self.low, self.high) if self.low <= self.high else (0.0, 0.0)

    def add(self, values: npt.NDArray[Any], low: float, high: float) -> None:
        """Finite ``values``, all of a tensor's or some of them; ``low`` and ``high`` are the extremes of all."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._make_room(max(abs(low), abs(high)))
        if self._width:
            # For an integer quotient of 32 bits truncation is floor, once it is positive.
            bins = (values.ravel() * np.float32(1 / self._width) + np.float32(_BINS // 2)).astype(np.int32)
            zeros = values.size - int(np.count_nonzero(values))
            self._counts += np.bincount(bins.clip(0, _BINS - 1), minlength=_BINS)
            self._counts[_BINS // 2] -= zeros
            self._zeros += zeros
        else:
            self._zeros += values.size

    def quantile(self, share: float) -> float:
        """The value that ``share`` of all values lie below, to the width of a bin, within what was seen."""
        if not self._width:
            return self.extremes[0]
        counts = self._counts.copy()
        counts[_BINS // 2] += self._zeros
        below = np.cumsum(counts)
        edges = (np.arange(_BINS + 1) - _BINS // 2) * self._width
        if share < 0.5:  # from the bin's lower edge: what is cut off is never more than asked for
            edge = edges[int(np.searchsorted(below, share * below[-1], side="right"))]
        else:
            edge = edges[int(np.searchsorted(below, share * below[-1], side="left")) + 1]
        return float(np.clip(edge, self.low, self.high))

    def least_error(self) -> tuple[float, float]:
        """The range with the least mean square error in 8 bits: of rounding within, of clipping outside.

        Rounding errors are taken to be uniform, step²/12 (Banner et al. 2019, "Post training 4-bit quantization").
        """
        if not self._width:
            return self.extremes
        shares = np.geomspace(_LEAST_CLIP, 1, _CLIPS)
        lows, highs = min(self.low, 0.0) * shares, max(self.high, 0.0) * shares
        lows, highs = lows if self.low < 0 else lows[-1:], highs if self.high > 0 else highs[-1:]
        below, above = self._beyond(lows, highs)
        step = (highs[None, :] - lows[:, None]) / _STEPS
        error = step**2 / 12 * self._inside(lows, highs) + below[:, None] + above[None, :]
        row, column = np.unravel_index(int(error.argmin()), error.shape)
        return float(lows[row]), float(highs[column])

    def _centres(self) -> npt.NDArray[np.float64]:
        centres: npt.NDArray[np.float64] = (np.arange(_BINS) - _BINS // 2 + 0.5) * self._width
        return centres

    def _beyond(
        self, lows: npt.NDArray[np.float64], highs: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """For every low end the squared error of what lies below it, for every high end of what lies above."""
        centres = self._centres()
        under = np.square(np.maximum(lows[:, None] - centres, 0)) @ self._counts
        over = np.square(np.maximum(centres - highs[:, None], 0)) @ self._counts
        return under, over

    def _inside(self, lows: npt.NDArray[np.float64], highs: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """How many values lie between each low and each high end."""
        below = np.concatenate([[0], np.cumsum(self._counts)])
        centres = self._centres()
        first, last = np.searchsorted(centres, lows), np.searchsorted(centres, highs, side="right")
        counts: npt.NDArray[np.int64] = below[last][None, :] - below[first][:, None]
        return counts

    def _make_room(self, largest: float) -> None:
        if largest <= 0:
            return
        width = max(2.0 ** (np.floor(np.log2(largest)) + 1) / (_BINS // 2), _LEAST_WIDTH)
        if not self._width:
            self._width = width
        while self._width < width:
            halved = self._counts.reshape(-1, 2).sum(1)
            self._counts = np.pad(halved, _BINS // 4)
            self._width *= 2
