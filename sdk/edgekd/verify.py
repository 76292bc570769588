"""Float against int8, side by side on the same samples: task accuracy, agreement, error by layer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.graph import Graph
from edgekd_converters.observe import Columns, Feed, Observer, feeds
from edgekd_runtime.backend import Backend, open_model


@dataclass(frozen=True)
class LayerError:
    """``relative_rmse``: root mean square of (int8 − float) over that of float, over all samples; 0 is exact."""

    tensor: str
    op: str
    relative_rmse: float


@dataclass(frozen=True)
class Run:
    """A graph's first outputs, dequantised, ``(n, …) float32``, and the median time of one ``invoke`` here."""

    outputs: npt.NDArray[np.float32]
    invoke_us: float


@dataclass(frozen=True)
class Score:
    """What a model's first outputs are worth; None where it cannot be said.

    Of a classifier ``accuracy`` on labelled rows and ``agreement``, the share of rows on which its top-1 is that of the
    reference; of any other model ``relative_rmse``, the root mean square of the difference over that of the reference.
    """

    accuracy: float | None
    agreement: float | None
    relative_rmse: float | None


def score(
    outputs: npt.NDArray[np.float32], reference: npt.NDArray[np.float32], targets: npt.NDArray[np.int32] | None
) -> Score:
    """``(n, …)`` outputs against another model's on the same rows; a classifier's are ``(n, classes)``."""
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        error, size = (float(np.square(values, dtype=np.float64).sum()) for values in (outputs - reference, reference))
        return Score(None, None, (error / max(size, 1e-30)) ** 0.5)
    accuracy = None if targets is None else float((outputs.argmax(1) == targets).mean())
    return Score(accuracy, float((outputs.argmax(1) == reference.argmax(1)).mean()), None)


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
    runners = [_Runner(graph) for graph in graphs]
    for sample in feeds(columns):
        for runner in runners:
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


def layer_errors(float_graph: Graph, int8_graph: Graph, columns: Columns) -> list[LayerError]:
    """Error of every activation that both graphs compute under the same name, worst first."""
    float_side, int8_side = Observer(float_graph), Observer(int8_graph)
    specs = open_graph(int8_graph).inputs
    float_tensors, int8_tensors = _activations(float_graph), _activations(int8_graph)
    shared = [name for name in float_tensors if name in int8_tensors]
    squared_error = dict.fromkeys(shared, 0.0)
    squared_value = dict.fromkeys(shared, 0.0)
    for sample in feeds(columns):
        float_side.run(sample)
        int8_side.run({spec.name: spec.quantize(sample[spec.name]) for spec in specs})
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
