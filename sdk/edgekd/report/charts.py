"""The geometry of the page's pictures, in percent of their width and height, so that they fit any screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgekd.report.words import number

_WIDE, _NARROW, _HEIGHT = 640.0, 260.0, 240.0  # px, of a plot on a desk and on a phone
_CHARACTER, _LINE, _DOT = 7.0, 14.0, 6.0
# Where a point's label may stand: offset in px, and how the text is anchored there.
_PLACES = (
    (0, -11, "middle"),
    (0, 20, "middle"),
    (10, 4, "start"),
    (-10, 4, "end"),
    (9, -8, "start"),
    (9, 16, "start"),
)
Box = tuple[float, float, float, float]
_LEAST_SPAN = 0.02  # of a share, that two points' noise may not fill the picture


@dataclass(frozen=True)
class Tick:
    """``at``: percent from the left, or from the top."""

    at: float
    label: str


@dataclass(frozen=True)
class Point:
    """``x``, ``y``: percent from the left and from the top; ``dx``, ``dy``: px to the label."""

    number: int
    name: str
    x: float
    y: float
    dx: int
    dy: int
    anchor: str


@dataclass(frozen=True)
class Scatter:
    """Worth against size: the further up and left, the better."""

    points: tuple[Point, ...]
    across: tuple[Tick, ...]
    down: tuple[Tick, ...]


@dataclass(frozen=True)
class Bars:
    """Two histograms over one axis, as paths in a box of ``len(counts) × 100``; heights are logarithmic.

    ``left``, ``width``: where the box stands on the axis, in percent; ``low``, ``high``: the ends of int8's grid there.
    """

    bins: int
    area: str
    outline: str
    left: float
    width: float
    low: float
    high: float
    across: tuple[Tick, ...]


def scatter(
    numbers: Sequence[int], names: Sequence[str], sizes: Sequence[float], worths: Sequence[float], *, upside_down: bool
) -> Scatter:
    """Sizes in bytes, on a logarithmic axis; worths as shares; ``upside_down``: of these, less is better."""
    logs = [math.log10(max(value, 1)) for value in sizes]
    left, right = _padded(min(logs), max(logs), 0.6)
    low, high = _padded(min(worths), max(worths), _LEAST_SPAN)
    xs = [_share(value, left, right) for value in logs]
    ys = [_share(value, low, high) if upside_down else 100 - _share(value, low, high) for value in worths]
    down = [
        Tick(_share(value, low, high) if upside_down else 100 - _share(value, low, high), f"{100 * value:.4g} %")
        for value in even_ticks(max(low, 0.0), high)
    ]
    across = [Tick(_share(math.log10(value), left, right), _bytes(value)) for value in log_ticks(left, right)]
    return Scatter(_placed(numbers, names, xs, ys), tuple(across), tuple(down))


def bars(wanted: Sequence[int], got: Sequence[int], span: tuple[float, float], grid: tuple[float, float]) -> Bars:
    """Counts of equal bins over ``span``; ``grid``: what int8 can hold. The axis takes in both."""
    low, high = min(span[0], grid[0]), max(span[1], grid[1])
    room = (high - low or 1.0) * 0.02
    low, high = low - room, high + room
    top = math.log1p(max(*wanted, *got, 1))
    heights = [[100 - 96 * math.log1p(count) / top for count in counts] for counts in (wanted, got)]
    left = _share(span[0], low, high)
    ticks = [Tick(_share(value, low, high), number(value)) for value in even_ticks(low, high, 4)]
    return Bars(
        bins=len(wanted),
        area="M0 100" + _steps(heights[0]) + "V100Z",
        outline="M0 100" + _steps(heights[1]) + "V100",
        left=left,
        width=_share(span[1], low, high) - left,
        low=_share(grid[0], low, high),
        high=_share(grid[1], low, high),
        across=tuple(ticks),
    )


def even_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten apart) within the ends; ``most`` and one more."""
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    return [round(k * step, 12) for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten between two exponents; powers alone where these are many."""
    factors = (1,) if high - low > 2.2 else (1, 3) if high - low > 1.2 else (1, 2, 5)
    candidates = [factor * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for factor in factors]
    return [value for value in candidates if low <= math.log10(value) <= high]


def _bytes(value: float) -> str:
    unit, scale = next((one for one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if value >= one[1]), ("B", 1.0))
    return f"{value / scale:g} {unit}"


def _padded(low: float, high: float, least: float) -> tuple[float, float]:
    span = max(high - low, least)
    middle = (low + high) / 2
    return middle - 0.62 * span, middle + 0.62 * span


def _share(value: float, low: float, high: float) -> float:
    return round(100 * (value - low) / (high - low), 2)


def _steps(heights: Sequence[float]) -> str:
    return "".join(f"V{height:.1f}H{i + 1}" for i, height in enumerate(heights))


def _placed(
    numbers: Sequence[int], names: Sequence[str], xs: Sequence[float], ys: Sequence[float]
) -> tuple[Point, ...]:
    """Every label where it covers the least, on a desk and on a phone, where it is a number only."""
    path = [*zip(xs, ys, strict=True)]
    between = [
        (x + share * (then_x - x), y + share * (then_y - y))
        for (x, y), (then_x, then_y) in pairwise(path)
        for share in (0.04, *(k / 20 for k in range(1, 20)), 0.96)
    ]
    taken = {width: [_box(x, y, width) for x, y in path] for width in (_WIDE, _NARROW)}
    points = []
    for key, name, x, y in zip(numbers, names, xs, ys, strict=True):
        letters = {_WIDE: len(name) + 2, _NARROW: 1}
        boxes = {place: {w: _box(x, y, w, place, letters[w]) for w in taken} for place in _PLACES}
        costs = {
            place: sum(_cost(box, width, taken[width], between) for width, box in boxes[place].items())
            for place in _PLACES
        }
        place = min(_PLACES, key=costs.__getitem__)
        for width, box in boxes[place].items():
            taken[width].append(box)
        points.append(Point(key, name, x, y, *place))
    return tuple(points)


def _cost(box: Box, width: float, taken: Sequence[Box], path: Sequence[tuple[float, float]]) -> float:
    """What a label at ``box`` would cover; the path between the points counts half."""
    inside = box[0] >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= _HEIGHT
    crossed = any(box[0] < x * width / 100 < box[2] and box[1] < y * _HEIGHT / 100 < box[3] for x, y in path)
    return sum(_overlap(box, other) for other in taken) + (not inside) + crossed / 2


def _box(x: float, y: float, width: float, place: tuple[int, int, str] = (0, 0, ""), letters: int = 0) -> Box:
    """Of a point, or with letters of its label: left, top, right, bottom in px."""
    across, down = x * width / 100, y * _HEIGHT / 100
    if not letters:
        return (across - _DOT, down - _DOT, across + _DOT, down + _DOT)
    dx, dy, anchor = place
    long = letters * _CHARACTER
    left = across + dx - {"start": 0.0, "middle": long / 2, "end": long}[anchor]
    return (left, down + dy + 3 - _LINE, left + long, down + dy + 3)


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
