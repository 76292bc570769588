"""Bias correction: what rounding adds to the mean of every channel is taken out of its bias, layer by layer.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", the empirical form.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_converters.calibrate import Ranges
from edgekd_converters.fake_quant import FakeQuant
from edgekd_converters.graph import Graph, Op
from edgekd_converters.limits import LAYERS
from edgekd_converters.observe import Columns
from edgekd_converters.ops.lazy import tf

BIAS_SAMPLES = 128
_MOST_BYTES = 1 << 29


def correct_bias(graph: Graph, ranges: Ranges, samples: Columns) -> Graph:
    """The float graph with other biases; a layer is corrected on what the corrected layers before it make.

    Args:
        graph: a float graph that was conditioned for the quantiser.
        samples: by input name, ``(n, …)``; as many of the first are taken as memory allows, 128 at most.

    Raises ``UnsupportedOpError`` for an op that cannot run in TensorFlow.
    """
    rounding = FakeQuant(graph, ranges)
    layers = {op.index for op in graph.main if _has_bias(op)}
    feeds = {name: tf.constant(column[: _count(graph)]) for name, column in samples.items()}
    wanted: dict[int, Any] = {}
    change: dict[int, npt.NDArray[np.float32]] = {}

    def take(op: Op, outputs: list[Any]) -> list[Any]:
        if op.index in layers:
            wanted[op.index] = _mean(outputs[0])
        return outputs

    def correct(op: Op, outputs: list[Any]) -> list[Any]:
        if op.index not in layers:
            return outputs
        change[op.index] = np.asarray(wanted[op.index] - _mean(outputs[0]))
        return [outputs[0] + change[op.index]]

    rounding.program.run(feeds, after=take)
    rounding.run(feeds, after=correct)
    operands = {}
    for index, shift in change.items():
        slot = LAYERS[graph.main[index].name][1]
        bias = graph.main[index].slots[slot]
        assert bias is not None
        operands[index, slot] = graph.constant(bias) + shift
    return graph.edited({}, {}, operands)


def _has_bias(op: Op) -> bool:
    slot = LAYERS[op.name][1] if op.name in LAYERS else len(op.slots)
    tensor = op.slots[slot] if slot < len(op.slots) else None
    return tensor is not None and tensor.is_constant


def _mean(value: Any) -> Any:
    return tf.reduce_mean(value, list(range(len(value.shape) - 1)))


def _count(graph: Graph) -> int:
    """Samples whose activations, of both runs, fit into memory."""
    values = sum(int(np.prod(tensor.shape)) for op in graph.main for tensor in op.outputs)
    return int(np.clip(_MOST_BYTES // (8 * values + 1), 8, BIAS_SAMPLES))
