"""Float graph and ranges → full-integer int8 graph, written by ``ai-edge-quantizer``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from ai_edge_quantizer import quantizer, recipe

from edgekd_converters.calibrate import Ranges
from edgekd_converters.errors import QuantizeError
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.integer import require_integer
from edgekd_converters.quiet import quiet


def quantize_int8(graph: Graph, ranges: Ranges) -> Graph:
    """Weights, activations and arithmetic in int8; integer inputs such as token ids stay as they are.

    Raises ``QuantizeError`` when the quantiser gives up, ``NotIntegerError`` when its result is not full-integer.
    """
    shapes = {tensor.name: (1,) * len(tensor.shape) for tensor in graph.tensors}
    statistics = {
        name: {"min": np.full(shapes[name], low, np.float32), "max": np.full(shapes[name], high, np.float32)}
        for name, (low, high) in ranges.items()
    }
    # The quantiser wants an entry for every tensor of an op that it knows, also for those that stay integer.
    for tensor in graph.tensors:
        if tensor.name not in statistics and not tensor.is_constant:
            if tensor.dtype == "FLOAT32":
                raise QuantizeError(f"there is no range for tensor {tensor.name!r}; calibrate this very graph")
            none = np.zeros(shapes[tensor.name], np.float32)
            statistics[tensor.name] = {"min": none, "max": none}
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        source = Path(folder) / "float.tflite"
        source.write_bytes(graph.content)
        try:
            with quiet():
                writer = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
                content = bytes(writer.quantize(statistics).quantized_model)
        except Exception as error:  # it raises RuntimeError, ValueError, KeyError, … depending on the op
            raise QuantizeError(
                f"ai-edge-quantizer cannot quantise the model: {' '.join(str(error).split())[:300]}"
            ) from error
    result = read_graph(content)
    require_integer(result)
    return result
