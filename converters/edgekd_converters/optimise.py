"""The best int8 model of a float graph: ranges and corrections, each kept only where held-out samples gain by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgekd_converters.bias_correction import BIAS_SAMPLES, correct_bias
from edgekd_converters.calibrate import PERCENTILE, Ranges, Statistics, observe
from edgekd_converters.equalise import equalise
from edgekd_converters.errors import QuantizeError, UnsupportedOpError
from edgekd_converters.graph import Graph
from edgekd_converters.judge import Judge
from edgekd_converters.observe import Columns, feeds
from edgekd_converters.qat import QatOptions, recover_int8
from edgekd_converters.quantize import quantize_int8

AUTO = "auto"
_HELD_OUT_EVERY, _HELD_OUT_MOST = 4, 256
_FEWEST = 20  # samples of which some can be held out
_GAIN = 0.99  # of the distance before, which a step has to better to be kept
_EQUAL, _BIAS = "equalisation", "bias correction"
_ODD = 0.02  # of the samples may be broken
_PERCENTILES = (99.999, 99.99, 99.9)

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class QuantizeOptions:
    """``calibrator``: one of ``CALIBRATORS``, or ``auto``: whichever does best. ``ranges`` stand for their tensors.

    ``equalise``: try cross-layer equalisation. ``bias``: then bias correction. ``qat``: then train weights and ranges
    on the calibration samples.
    """

    calibrator: str = AUTO
    percentile: float = PERCENTILE
    ranges: Ranges | None = None
    equalise: bool = True
    bias: bool = True
    qat: QatOptions | None = None


@dataclass(frozen=True)
class Attempt:
    """One thing tried. ``distance`` of its int8 model's answers to the float ones', see ``Judge``; None where too few
    samples were there to hold any out, or where it could not be done, for the ``reason``."""

    name: str
    distance: float | None
    kept: bool
    reason: str = ""


@dataclass(frozen=True)
class Quantized:
    """``float_graph``: as it was given. ``unrounded``: what layers of ``int8_graph`` are compared with, the same graph,
    its channels equalised if that was kept. ``adjusted``: what ``int8_graph`` was written from, that graph with biases
    corrected and weights trained for int8's rounding, as far as that was kept.

    ``held_out``: the number of samples that attempts were judged on.
    """

    float_graph: Graph
    unrounded: Graph
    adjusted: Graph
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
    teacher: Graph | None = None,
) -> Quantized:
    """Float graph → int8, written by ``ai-edge-quantizer``.

    Args:
        graph: a float graph that was conditioned for the quantiser.
        samples: n calibration samples; a quarter of them, 256 at most, judge what is tried.
        teacher: what quantisation-aware training imitates; ``graph`` itself if not given.

    Raises ``QuantizeError``, ``NotIntegerError``, ``RunError``, ``RecoverError``.
    """
    given = _known(graph, options.ranges or {})
    fitted, held = _split(samples, options)
    on_step("ranges")
    statistics = observe(graph, feeds(samples, fitted))
    search = _Search(graph, {name: column[held] for name, column in samples.items()})
    for name, ranges in _candidates(statistics, options, choose=bool(len(held))):
        on_step(name)
        search.offer(name, graph, ranges | given)
    level = graph
    if options.equalise and len(held):
        on_step(_EQUAL)
        level = equalise(graph, {name: column[fitted] for name, column in samples.items()})
    if level is not graph:
        found = dict(_candidates(observe(level, feeds(samples, fitted)), options, choose=True))
        search.follow(_EQUAL, lambda best: (level, found[best.names[0]] | given))
    if options.bias and len(held):
        on_step(_BIAS)
        some = {name: column[fitted[:BIAS_SAMPLES]] for name, column in samples.items()}
        search.follow(_BIAS, lambda best: (correct_bias(best.graph, best.ranges, some), best.ranges))
    if (qat := options.qat) is not None:
        trained = {name: column[fitted] for name, column in samples.items()}

        def train(best: _Best) -> tuple[Graph, Ranges]:
            made = recover_int8(best.graph, teacher or graph, best.ranges, trained, qat, on_step)
            return made.graph, made.ranges

        search.follow(f"{qat.steps} steps of training", train)
    best = search.best
    unrounded = level if _EQUAL in best.names else graph
    return Quantized(graph, unrounded, best.graph, best.int8, best.ranges, search.told(), len(held))


@dataclass(frozen=True)
class _Best:
    names: tuple[str, ...]
    graph: Graph
    ranges: Ranges
    int8: Graph
    distance: float


class _Search:
    """The best so far; of what cannot be judged, the last."""

    def __init__(self, wanted: Graph, held: Columns) -> None:
        self._judge = Judge(wanted, held) if len(next(iter(held.values()))) else None
        self._best: _Best | None = None
        self._tried: list[tuple[str, float | None, str]] = []

    @property
    def best(self) -> _Best:
        assert self._best is not None, "nothing was offered"
        return self._best

    def offer(self, name: str, graph: Graph, ranges: Ranges) -> None:
        """In place of all before."""
        self._take((name,), graph, ranges, 1.0)

    def follow(self, name: str, step: Callable[[_Best], tuple[Graph, Ranges]]) -> None:
        """On top of the best so far, where it gains 1 % or more."""
        try:
            graph, ranges = step(self.best)
        except UnsupportedOpError as error:
            self._tried.append((name, None, str(error)))
            return
        self._take((*self.best.names, name), graph, ranges, _GAIN)

    def told(self) -> tuple[Attempt, ...]:
        return tuple(Attempt(name, far, name in self.best.names, reason) for name, far, reason in self._tried)

    def _take(self, names: tuple[str, ...], graph: Graph, ranges: Ranges, gain: float) -> None:
        int8 = quantize_int8(graph, ranges)
        distance = self._judge.distance(int8) if self._judge else None
        self._tried.append((names[-1], distance, ""))
        if self._best is None or distance is None or distance < gain * self._best.distance:
            self._best = _Best(names, graph, ranges, int8, distance or 0.0)


def _split(samples: Columns, options: QuantizeOptions) -> tuple[Rows, Rows]:
    """Rows to take ranges from, and those to judge by; the same may be both where no range is chosen."""
    rows = np.arange(len(next(iter(samples.values()))))
    if len(rows) < _FEWEST:
        return rows, rows[:0]
    held = rows[_HELD_OUT_EVERY - 1 :: _HELD_OUT_EVERY][:_HELD_OUT_MOST]
    return (np.setdiff1d(rows, held) if options.calibrator == AUTO or options.qat else rows), held


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
