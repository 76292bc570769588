"""Float against int8, side by side on the same samples: task accuracy, agreement, error by layer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.graph import Graph
from edgekd_converters.observe import Feed, Observer
from edgekd_runtime.backend import open_model


@dataclass(frozen=True)
class LayerError:
    """``relative_rmse``: root mean square of (int8 − float) over that of float, over all samples; 0 is exact."""

    tensor: str
    op: str
    relative_rmse: float


@dataclass(frozen=True)
class SideBySide:
    """Dequantised first outputs, ``(n, classes) float32``, and the median time of one ``invoke`` on this machine."""

    float_logits: npt.NDArray[np.float32]
    int8_logits: npt.NDArray[np.float32]
    float_invoke_us: float
    int8_invoke_us: float

    @property
    def agreement(self) -> float:
        """Share of rows on which both have the same top-1."""
        return float((self.float_logits.argmax(1) == self.int8_logits.argmax(1)).mean())


def run_graph(graph: Graph, rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The first output, dequantised, of a one-input graph on ``(n, …)`` rows; ``(n, classes) float32``.

    It runs through the device runtime's own backend, XNNPACK included: what is verified is what will be served.
    """
    runner = _Runner(graph)
    for i in range(len(rows)):
        runner.run(rows[i : i + 1])
    return runner.logits()


def side_by_side(float_graph: Graph, int8_graph: Graph, rows: npt.NDArray[Any]) -> SideBySide:
    """Both graphs on every row, in turn, so that a machine whose speed drifts is fair to both."""
    sides = (_Runner(float_graph), _Runner(int8_graph))
    for i in range(len(rows)):
        for side in sides:
            side.run(rows[i : i + 1])
    return SideBySide(sides[0].logits(), sides[1].logits(), sides[0].median_us(), sides[1].median_us())


class _Runner:
    def __init__(self, graph: Graph) -> None:
        self._backend = open_model(graph.content, graph.signature.inputs, graph.signature.outputs, backend="litert")
        self._stored: list[npt.NDArray[Any]] = []
        self._seconds: list[float] = []

    def run(self, row: npt.NDArray[Any]) -> None:
        start = time.perf_counter()
        stored = self._backend.invoke([row])[0]
        self._seconds.append(time.perf_counter() - start)
        self._stored.append(stored)

    def logits(self) -> npt.NDArray[np.float32]:
        return self._backend.outputs[0].dequantize(np.concatenate(self._stored))

    def median_us(self) -> float:
        return float(np.median(self._seconds) * 1e6)


def layer_errors(float_graph: Graph, int8_graph: Graph, samples: Sequence[Feed]) -> list[LayerError]:
    """Error of every activation that both graphs compute under the same name, worst first."""
    float_side, int8_side = Observer(float_graph), Observer(int8_graph)
    float_tensors, int8_tensors = _activations(float_graph), _activations(int8_graph)
    shared = [name for name in float_tensors if name in int8_tensors]
    squared_error = dict.fromkeys(shared, 0.0)
    squared_value = dict.fromkeys(shared, 0.0)
    for sample in samples:
        float_side.run(sample)
        int8_side.run(sample)
        for name in shared:
            wanted = float_side.read_real(float_tensors[name])
            squared_error[name] += float(np.square(int8_side.read_real(int8_tensors[name]) - wanted).sum())
            squared_value[name] += float(np.square(wanted).sum())
    producer = {tensor.name: op.name for op in float_graph.ops for tensor in op.outputs}
    errors = [
        LayerError(name, producer[name], (squared_error[name] / max(squared_value[name], 1e-30)) ** 0.5)
        for name in shared
    ]
    return sorted(errors, key=lambda error: -error.relative_rmse)


def _activations(graph: Graph) -> dict[str, int]:
    made = [tensor for op in graph.ops for tensor in op.outputs if tensor.dtype in ("FLOAT32", "INT8")]
    return {tensor.name: tensor.index for tensor in made}
