"""Ranges as data: what values every float tensor of a graph takes on real samples."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.errors import QuantizeError
from edgekd_converters.graph import Graph
from edgekd_converters.histogram import Histogram
from edgekd_converters.observe import Feed, Observer

Ranges = dict[str, tuple[float, float]]
"""Tensor name → (min, max)."""

CALIBRATORS = ("minmax", "percentile", "mse")
PERCENTILE = 99.99
_MOST_VALUES = 1 << 16  # of a tensor and a sample that a histogram counts


@dataclass(frozen=True)
class Statistics:
    """``histograms``: tensor name → the values of every float activation. ``extremes``: the least and the
    greatest value of each sample. ``tables``: ranges that stay as they are.

    A gather takes its range from its whole table rather than from the rows that the samples happened to hit: input
    and output of a gather share their scale, and a row seen only later must not be clipped.
    """

    histograms: dict[str, Histogram]
    extremes: dict[str, tuple[Histogram, Histogram]]
    tables: Ranges

    def ranges(self, calibrator: str, percentile: float = PERCENTILE) -> Ranges:
        """By ``minmax``; by ``percentile``, which leaves out ``100 - percentile`` % at either end; by least ``mse``."""
        if calibrator == "minmax":
            found = {name: one.extremes for name, one in self.histograms.items()}
        elif calibrator == "percentile":
            share = percentile / 100
            found = {name: (one.quantile(1 - share), one.quantile(share)) for name, one in self.histograms.items()}
        else:
            found = {name: one.least_error() for name, one in self.histograms.items()}
        return found | self.tables

    def ranges_without(self, share: float) -> Ranges:
        """Min-max of all samples but the ``share`` of them that go farthest, at either end."""
        ends = self.extremes.items()
        return {name: (low.quantile(share), high.quantile(1 - share)) for name, (low, high) in ends} | self.tables


def observe(graph: Graph, samples: Iterable[Feed]) -> Statistics:
    """Run the float graph on each sample and count the values of every float activation.

    Args:
        graph: a float32 graph with a batch of 1.
        samples: input name → array with the batch axis, one mapping a sample; read once, one at a time, so that any
            number of them takes the same memory.

    Raises ``QuantizeError`` when there are no samples, or when a tensor holds NaN or infinity; ``RunError`` when a
    sample does not fit the model.
    """
    observer = Observer(graph)
    watched = {t.index: t.name for t in graph.tensors if t.dtype == "FLOAT32" and not t.is_constant}
    histograms = {name: Histogram() for name in watched.values()}
    extremes = {name: (Histogram(), Histogram()) for name in watched.values()}
    count = 0
    for sample in samples:
        observer.run(sample)
        for index, name in watched.items():
            values = observer.read(index)
            if values.size:
                ends = _extent(values, name)
                histograms[name].add(_some(values, count), *ends)
                for histogram, end in zip(extremes[name], ends, strict=True):
                    histogram.add(np.array([end], np.float32), end, end)
        count += 1
    if not count:
        raise QuantizeError("calibration needs at least one sample")
    tables = {
        op.outputs[0].name: _extent(observer.read(op.inputs[0].index), op.inputs[0].name)
        for op in graph.ops
        if op.name == "GATHER" and op.inputs[0].is_constant and op.inputs[0].dtype == "FLOAT32"
    }
    return Statistics(histograms, extremes, tables)


def calibrate_minmax(graph: Graph, samples: Iterable[Feed]) -> Ranges:
    """The least and greatest value of every float activation; arguments and errors are those of :func:`observe`."""
    return observe(graph, samples).ranges("minmax")


def _some(values: npt.NDArray[Any], turn: int) -> npt.NDArray[Any]:
    """Of a large tensor every nth value, from all channels alike, from another place every time."""
    step = math.ceil(values.size / _MOST_VALUES)
    while math.gcd(step, values.shape[-1] if values.ndim else 1) > 1:
        step += 1
    return values.ravel()[turn % step :: step]


def _extent(values: npt.NDArray[Any], name: str) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise QuantizeError(f"calibration: tensor {name!r} holds NaN or infinity")
    return low, high
