"""Median time of one ``invoke``, models taken in turn, so that a machine whose speed drifts is fair to all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from edgekd_converters.graph import read_graph
from edgekd_runtime.backend import open_model

_ROUNDS = 200
_TURN = 20


def latencies_us(models: Sequence[Path], threads: int = 1) -> list[float]:
    """In the order of ``models``, which are run on zeros."""
    graphs = [read_graph(model.read_bytes()) for model in models]
    opened = [
        open_model(graph.content, graph.signature.inputs, graph.signature.outputs, threads=threads) for graph in graphs
    ]
    fed = [[np.zeros(spec.shape, spec.dtype) for spec in backend.inputs] for backend in opened]
    taken: list[list[float]] = [[] for _ in models]
    for round_number in range(_ROUNDS + 1):
        for backend, arrays, seconds in zip(opened, fed, taken, strict=True):
            for _ in range(_TURN):
                start = time.perf_counter()
                backend.invoke(arrays)
                if round_number:  # the first warms up
                    seconds.append(time.perf_counter() - start)
    return [median(seconds) * 1e6 for seconds in taken]
