"""Ranges as data: what values every float tensor of a graph takes on real samples."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgekd_converters.errors import QuantizeError
from edgekd_converters.graph import Graph
from edgekd_converters.observe import Feed, Observer

Ranges = dict[str, tuple[float, float]]
"""Tensor name → (min, max)."""


def calibrate_minmax(graph: Graph, samples: Iterable[Feed]) -> Ranges:
    """Run the float graph on each sample and keep the least and greatest value of every float activation.

    Args:
        graph: a float32 graph with a batch of 1.
        samples: input name → array with the batch axis, one mapping a sample; read once, one at a time, so that any
            number of them takes the same memory.

    A gather takes its range from its whole table rather than from the rows that the samples happened to hit: input
    and output of a gather share their scale, and a row seen only later must not be clipped.

    Raises ``QuantizeError`` when there are no samples, or when a tensor holds NaN or infinity; ``RunError`` when a
    sample does not fit the model.
    """
    observer = Observer(graph)
    watched = {t.index: t.name for t in graph.tensors if t.dtype == "FLOAT32" and not t.is_constant}
    ranges: Ranges = {}
    count = 0
    for sample in samples:
        observer.run(sample)
        count += 1
        for index, name in watched.items():
            low, high = _extent(observer, index, name)
            known_low, known_high = ranges.get(name, (low, high))
            ranges[name] = (min(low, known_low), max(high, known_high))
    if not count:
        raise QuantizeError("calibration needs at least one sample")
    for op in graph.ops:
        if op.name == "GATHER" and op.inputs[0].is_constant and op.inputs[0].dtype == "FLOAT32":
            ranges[op.outputs[0].name] = _extent(observer, op.inputs[0].index, op.inputs[0].name)
    return ranges


def _extent(observer: Observer, index: int, name: str) -> tuple[float, float]:
    values = observer.read(index)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise QuantizeError(f"calibration: tensor {name!r} holds NaN or infinity")
    return low, high
