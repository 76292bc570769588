"""Float graph and ranges → full-integer int8 graph, written by ``ai-edge-quantizer``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import quantizer, recipe

from edgekd_converters.calibrate import Ranges
from edgekd_converters.errors import QuantizeError, one_line
from edgekd_converters.graph import Graph, read_graph, write_model
from edgekd_converters.integer import require_integer
from edgekd_converters.kernels import known_to_quantizer
from edgekd_converters.limits import Bounds, within_limits
from edgekd_converters.quiet import quiet


def quantize_int8(graph: Graph, ranges: Ranges) -> Graph:
    """Weights, activations and arithmetic in int8; integer inputs such as token ids stay as they are.

    Raises ``QuantizeError`` when the quantiser gives up, ``NotIntegerError`` when its result is not full-integer.
    """
    for tensor in graph.tensors:
        if tensor.dtype == "FLOAT32" and not tensor.is_constant and tensor.name not in ranges:
            raise QuantizeError(f"there is no range for tensor {tensor.name!r}; calibrate this very graph")
    result = write_quantised(graph, recipe.static_wi8_ai8(), ranges)
    require_integer(result)
    return result


def write_quantised(graph: Graph, how: list[dict[str, Any]], ranges: Ranges | None) -> Graph:
    """What ai-edge-quantizer makes of the graph after a recipe of its own; ``ranges`` None for one that needs none.

    Raises ``QuantizeError``.
    """
    statistics = None if ranges is None else _statistics(graph, *within_limits(graph, ranges))
    with tempfile.TemporaryDirectory(prefix="edgekd-") as folder:
        source = Path(folder) / "float.tflite"
        source.write_bytes(_with_signatures(graph))
        try:
            with quiet(), known_to_quantizer():
                content = bytes(quantizer.Quantizer(str(source), how).quantize(statistics).quantized_model)
        except Exception as error:  # it raises RuntimeError, ValueError, KeyError, … depending on the op
            raise QuantizeError(f"ai-edge-quantizer cannot quantise the model: {one_line(error)}") from error
    return _signed(read_graph(content), graph)


def _signed(result: Graph, original: Graph) -> Graph:
    """With the signature on the outputs themselves: ai-edge-quantizer 0.4 forgets it when it puts an op behind one."""
    if not set(result.signature.outputs.values()) - {tensor.name for tensor in result.outputs}:
        return result
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(result.content, 0))
    place = {tensor.name: i for i, tensor in enumerate(original.outputs)}
    for entry, tensor in zip(model.signatureDefs[0].outputs, original.signature.outputs.values(), strict=True):
        entry.tensorIndex = result.outputs[place[tensor]].index
    return read_graph(write_model(model))


def _with_signatures(graph: Graph) -> bytes:
    """With an empty list of them where the file has none, which ai-edge-quantizer 0.5 trips over."""
    table = schema.Model.GetRootAs(graph.content, 0)
    if not table.SignatureDefsIsNone():
        return graph.content
    model = schema.ModelT.InitFromObj(table)
    model.signatureDefs = []
    return write_model(model)


def _statistics(graph: Graph, ranges: Ranges, bounds: Bounds) -> dict[str, dict[str, npt.NDArray[np.float64]]]:
    """In the quantiser's form, which wants an entry for every activation, also for one that stays integer.

    Arrays without axes fit any tensor; with the activation's axes they would not fit a constant that shares its scale.
    """
    names = [tensor.name for tensor in graph.tensors if not tensor.is_constant]
    found = {name: {"min": -bound, "max": bound} for name, bound in bounds.items()}
    for name in names:
        low, high = ranges.get(name, (0.0, 0.0))
        found[name] = {"min": np.array(low), "max": np.array(high)}
    return found
