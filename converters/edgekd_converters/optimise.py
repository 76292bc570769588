"""The best int8 model of a float graph: ranges and corrections, each kept only where held-out samples gain by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekd_converters.calibrate import PERCENTILE, Ranges, Statistics, observe
from edgekd_converters.errors import QuantizeError
from edgekd_converters.graph import Graph
from edgekd_converters.judge import Judge
from edgekd_converters.observe import Columns, feeds
from edgekd_converters.quantize import quantize_int8

AUTO = "auto"
_HELD_OUT_EVERY, _HELD_OUT_MOST = 4, 256
_FEWEST = 20  # samples of which some can be held out
_ODD = 0.02  # of the samples may be broken
_PERCENTILES = (99.999, 99.99, 99.9)

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class QuantizeOptions:
    """``calibrator``: one of ``CALIBRATORS``, or ``auto``: whichever does best. ``ranges`` stand for their tensors."""

    calibrator: str = AUTO
    percentile: float = PERCENTILE
    ranges: Ranges | None = None


@dataclass(frozen=True)
class Attempt:
    """One thing tried. ``distance`` of its int8 model's answers to the float ones', see ``Judge``; None where there is
    only one way, or too few samples to hold any out."""

    name: str
    distance: float | None
    kept: bool


@dataclass(frozen=True)
class Quantized:
    """``float_graph`` computes what the given graph does, under the tensor names of ``int8_graph``.

    ``held_out``: the number of samples that attempts were judged on.
    """

    float_graph: Graph
    int8_graph: Graph
    ranges: Ranges
    attempts: tuple[Attempt, ...]
    held_out: int

    @property
    def kept(self) -> tuple[str, ...]:
        return tuple(attempt.name for attempt in self.attempts if attempt.kept)


def make_int8(
    graph: Graph,
    samples: Columns,
    options: QuantizeOptions,
    on_step: Callable[[str], None] = lambda note: None,
) -> Quantized:
    """Float graph → int8, written by ``ai-edge-quantizer``.

    Args:
        graph: a float graph that was conditioned for the quantiser.
        samples: n calibration samples. Where something is to be chosen a quarter, 256 at most, is held out for it.

    Raises ``QuantizeError``, ``NotIntegerError``, ``RunError``.
    """
    given = _known(graph, options.ranges or {})
    fitted, held = _split(samples, options)
    on_step("ranges")
    statistics = observe(graph, feeds(samples, fitted))
    judge = Judge(graph, {name: column[held] for name, column in samples.items()}) if len(held) else None
    attempts, best = [], None
    for name, ranges in _candidates(statistics, options, choose=judge is not None):
        on_step(name)
        int8 = quantize_int8(graph, ranges | given)
        distance = judge.distance(int8) if judge else 0.0
        attempts.append((name, distance))
        if best is None or distance < best[0]:
            best = (distance, name, ranges | given, int8)
    assert best is not None
    told = (Attempt(name, distance if judge else None, name == best[1]) for name, distance in attempts)
    return Quantized(graph, best[3], best[2], tuple(told), len(held))


def _split(samples: Columns, options: QuantizeOptions) -> tuple[Rows, Rows]:
    """Rows to take ranges from, and those held out."""
    rows = np.arange(len(next(iter(samples.values()))))
    if options.calibrator != AUTO or len(rows) < _FEWEST:
        return rows, rows[:0]
    held = rows[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY][:_HELD_OUT_MOST]
    return np.setdiff1d(rows, held), held


def _candidates(statistics: Statistics, options: QuantizeOptions, *, choose: bool) -> Iterator[tuple[str, Ranges]]:
    """What a calibrator says, or several of them; min-max alone where there are too few samples to choose by."""
    if options.calibrator != AUTO:
        yield options.calibrator, statistics.ranges(options.calibrator, options.percentile)
        return
    yield "minmax", statistics.ranges("minmax")
    if choose:
        for percentile in sorted({*_PERCENTILES, options.percentile}, reverse=True):
            yield f"percentile {percentile:g}", statistics.ranges("percentile", percentile)
        yield "mse", statistics.ranges("mse")
        yield f"minmax of {1 - _ODD:.0%} of samples", statistics.ranges_without(_ODD)


def _known(graph: Graph, ranges: Ranges) -> Ranges:
    """Raises ``QuantizeError`` for a tensor that has no range in this graph."""
    names = {tensor.name for tensor in graph.tensors if tensor.dtype == "FLOAT32" and not tensor.is_constant}
    if unknown := sorted(set(ranges) - names):
        raise QuantizeError(f"there is a range for {unknown[0]!r}, but the float graph has no such tensor to quantise")
    return ranges
