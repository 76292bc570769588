"""Graphs run on samples, one alone or several side by side, as a device would run them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.graph import Graph
from edgekd_converters.observe import Columns, Feed, feeds
from edgekd_runtime.backend import Backend, open_model


@dataclass(frozen=True)
class Run:
    """A graph's first outputs, dequantised, ``(n, …) float32``, and the median time of one ``invoke`` here."""

    outputs: npt.NDArray[np.float32]
    invoke_us: float


def run_graph(graph: Graph, columns: Columns) -> npt.NDArray[np.float32]:
    """The first output, dequantised, for every row; ``(n, …) float32``.

    It runs through the device runtime's own backend, XNNPACK included: what is verified is what will be served.
    """
    runner = _Runner(graph)
    for sample in feeds(columns):
        runner.run(sample)
    return runner.outputs()


def side_by_side(graphs: Sequence[Graph], columns: Columns) -> list[Run]:
    """All graphs on every row, in turn, so that a machine whose speed drifts is fair to all."""
    return in_turn([(graph, columns) for graph in graphs])


def in_turn(pairs: Sequence[tuple[Graph, Columns]]) -> list[Run]:
    """Graphs side by side, each on the same rows in columns of its own."""
    runners = [_Runner(graph) for graph, _ in pairs]
    for samples in zip(*(feeds(columns) for _, columns in pairs), strict=True):
        for runner, sample in zip(runners, samples, strict=True):
            runner.run(sample)
    return [Run(runner.outputs(), runner.median_us()) for runner in runners]


def open_graph(graph: Graph) -> Backend:
    """The graph in the interpreter that a device would use."""
    return open_model(graph.content, graph.signature.inputs, graph.signature.outputs, backend="litert")


class _Runner:
    def __init__(self, graph: Graph) -> None:
        self._backend = open_graph(graph)
        self._stored: list[npt.NDArray[Any]] = []
        self._seconds: list[float] = []

    def run(self, sample: Feed) -> None:
        arrays = [spec.quantize(sample[spec.name]) for spec in self._backend.inputs]
        start = time.perf_counter()
        stored = self._backend.invoke(arrays)[0]
        self._seconds.append(time.perf_counter() - start)
        self._stored.append(stored)

    def outputs(self) -> npt.NDArray[np.float32]:
        return self._backend.outputs[0].dequantize(np.concatenate(self._stored))

    def median_us(self) -> float:
        return float(np.median(self._seconds) * 1e6)
