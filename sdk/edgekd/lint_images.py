"""Pictures: axes or colours in another order."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd.finding import Finding, warning

Array = npt.NDArray[Any]

_MOST_PIXELS = 1 << 21
_LEAST_SIDE = 8
_SMOOTHER = 0.85  # three pixels apart differ 1.4 to 2 times as much as neighbours


def is_picture(column: Array) -> bool:
    """Whether ``(n, …)`` looks like ``(n, h, w, c)`` with one to four colours."""
    return column.ndim == 4 and column.shape[-1] in (1, 3, 4) and min(column.shape[1:3]) >= _LEAST_SIDE


def check_layout(name: str, column: Array) -> list[Finding]:
    """``(n, h, w, c)`` whose bytes are really ``(n, c, h, w)``, as a reshape in place of a transposition leaves them.

    Pictures are smooth along both their sides. In the wrong order, what stands side by side lies several pixels apart;
    put right, both sides become smoother, which no true picture does when it is scrambled so.
    """
    some = column[:: max(1, column.size // _MOST_PIXELS)].astype(np.float32)
    count, height, width, colours = some.shape
    if colours == 1:
        return []
    turned = some.reshape(count, colours, height, width).transpose(0, 2, 3, 1)
    was, now = _roughness(some), _roughness(turned)
    if not (now < _SMOOTHER * was).all():
        return []
    text = (
        f"{name!r}: neighbouring pixels differ by {was.mean():.3g}, and only by {now.mean():.3g} if the numbers are "
        f"read as [{colours}, {height}, {width}]: the samples are NCHW, reshaped to NHWC instead of transposed"
    )
    return [warning("layout", text, as_it_is=float(was.mean()), as_nchw=float(now.mean()))]


def _roughness(pictures: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Mean difference of neighbours, down and across."""
    steps = (np.abs(np.diff(pictures, axis=axis)).mean(dtype=np.float64) for axis in (1, 2))
    return np.array(list(steps))


def check_order_against(name: str, samples: Array, held: Array) -> list[Finding]:
    """Red and blue swapped against the held-out data: red minus blue has the same size there and the other sign."""
    if not (is_picture(samples) and samples.shape[-1] == 3 and is_picture(held)):
        return []
    ours, theirs = (_red_minus_blue(column) for column in (samples, held))
    noise = float(np.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs)))
    apart, swapped = abs(ours.mean() - theirs.mean()), abs(ours.mean() + theirs.mean())
    if not (apart > 6 * noise and swapped < apart / 4):
        return []
    text = (
        f"{name!r}: red minus blue is {ours.mean():.3g} in the samples and {theirs.mean():.3g} in the held-out data: "
        "one of the two is BGR, the other RGB"
    )
    return [warning("channel-order", text, samples=float(ours.mean()), held=float(theirs.mean()))]


def _red_minus_blue(pictures: Array) -> npt.NDArray[np.float64]:
    means = pictures.mean((1, 2), dtype=np.float64)
    return np.asarray(means[:, 0] - means[:, 2])
