"""A graph's answers in real numbers, whether it is float or int8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter
from tests.converters.one_op import Array, Case

from edgekd_converters.calibrate import calibrate_minmax
from edgekd_converters.condition import condition
from edgekd_converters.graph import Graph
from edgekd_converters.observe import Feed
from edgekd_converters.quantize import quantize_int8

Reals = dict[str, npt.NDArray[np.float64]]


def real_outputs(graph: Graph, feeds: Sequence[Feed], runtime: Any = Interpreter) -> Reals:
    """Public output name → ``(n, …)`` for n feeds, each of which starts from zero state."""
    interpreter = runtime(model_content=graph.content)
    interpreter.allocate_tensors()
    details = {detail["name"]: detail for detail in interpreter.get_tensor_details()}
    rows: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in graph.signature.outputs}
    for feed in feeds:
        for name, tensor in graph.signature.inputs.items():
            interpreter.set_tensor(details[tensor]["index"], _stored(feed[name], details[tensor]))
        interpreter.reset_all_variables()
        interpreter.invoke()
        for name, tensor in graph.signature.outputs.items():
            rows[name].append(_real(interpreter.get_tensor(details[tensor]["index"]), details[tensor]))
    return {name: np.stack(values) for name, values in rows.items()}


def one_op_feeds(case: Case, count: int = 6) -> list[dict[str, Array]]:
    """Samples of a graph of one op."""
    return [case.sample(np.random.default_rng(seed)) for seed in range(count)]


def in_int8(graph: Graph, feeds: Sequence[Feed]) -> Graph:
    ready = condition(graph)
    return quantize_int8(ready, calibrate_minmax(ready, feeds))


def relative_error(wanted: Reals, got: Reals) -> float:
    """Of the worst output: root mean square of the difference over that of the values."""
    assert wanted.keys() == got.keys()
    squares = {name: np.square(got[name].reshape(value.shape) - value) for name, value in wanted.items()}
    return max(float(np.sqrt(squares[name].mean() / max(np.square(wanted[name]).mean(), 1e-12))) for name in wanted)


def _stored(value: npt.NDArray[Any], detail: Any) -> npt.NDArray[Any]:
    scale, zero_point = detail["quantization"]
    return np.clip(np.rint(value / scale) + zero_point, -128, 127).astype(np.int8) if scale else value


def _real(value: npt.NDArray[Any], detail: Any) -> npt.NDArray[np.float64]:
    scale, zero_point = detail["quantization"]
    real: npt.NDArray[np.float64] = (value.astype(np.float64) - zero_point) * (scale or 1)
    return real
