"""What is tried when full int8 loses too much: wider activations where it hurts, floats there, int8 weights alone."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Literal

from ai_edge_quantizer import recipe, recipe_manager
from ai_edge_quantizer.qtyping import TFLOperationName

from edgekd_converters.calibrate import Ranges
from edgekd_converters.errors import QuantizeError
from edgekd_converters.graph import Graph, Op, Tensor
from edgekd_converters.quantize import write_quantised
from edgekd_converters.rewrite import Draft

Wide = Literal["INT16", "FLOAT32"]
_ALL = TFLOperationName.ALL_SUPPORTED
_OUTPUT_SCOPE = "^$"  # the quantiser's stand-in for "the graph's outputs" makes nothing, so its scope is empty


def quantize_mixed(graph: Graph, ranges: Ranges, tensors: Collection[str], wide: Wide) -> Graph:
    """int8, but for the ops that make or take ``tensors``: those get 16-bit activations, or stay in float.

    Weights are int8 with 16-bit activations, and float in float ops. Raises ``QuantizeError`` when the quantiser gives
    up, or keeps one of the tensors in int8, as it does for ops that it cannot write with 16 bits.
    """
    manager = recipe_manager.RecipeManager()
    manager.add_static_config(regex=".*", operation_name=_ALL, activation_num_bits=8, weight_num_bits=8)
    for scope in _scopes(graph, tensors):
        if wide == "INT16":
            manager.add_static_config(regex=scope, operation_name=_ALL, activation_num_bits=16, weight_num_bits=8)
        else:
            manager.add_quantization_config(regex=scope, operation_name=_ALL, algorithm_key="no_quantize")
    result = _by_float(write_quantised(graph, manager.get_quantization_recipe(), ranges))
    made = {tensor.name: tensor.dtype for tensor in result.tensors}
    if narrow := [name for name in tensors if made.get(name) != wide]:
        maker = next((op.name for op in graph.main if narrow[0] in {t.name for t in op.outputs}), "input")
        bits = "16-bit" if wide == "INT16" else "float"
        raise QuantizeError(f"ai-edge-quantizer cannot write {maker} {narrow[0]!r} with a {bits} output")
    return result


def quantize_dynamic(graph: Graph) -> Graph:
    """Weights of matrix products in int8, all activations in float; products quantise their inputs as they run.

    Raises ``QuantizeError``.
    """
    result = write_quantised(graph, recipe.dynamic_wi8_afp32(), None)
    if not any(tensor.dtype == "INT8" for tensor in result.tensors):
        raise QuantizeError("the model has no matrix product whose weights dynamic int8 could take")
    return result


def ops_around(graph: Graph, tensors: Collection[str]) -> list[Op]:
    """The ops that make or take them, in run order: between these a tensor can be wider than int8."""
    return [op for op in graph.main if any(tensor.name in tensors for tensor in (*op.inputs, *op.outputs))]


def _scopes(graph: Graph, tensors: Collection[str]) -> list[str]:
    """Regular expressions that ai-edge-quantizer finds those ops by, and the graph's own ends: their outputs' names."""
    scopes = [_scope(op.outputs) for op in ops_around(graph, tensors)]
    if all(tensor.name in tensors for tensor in graph.inputs):
        scopes.append(_scope(graph.inputs))
    if any(tensor.name in tensors for tensor in graph.outputs):
        scopes.append(_OUTPUT_SCOPE)
    return scopes


def _scope(outputs: tuple[Tensor, ...]) -> str:
    return f"^{re.escape(''.join(f'{tensor.name};' for tensor in outputs))}$"


def _by_float(graph: Graph) -> Graph:
    """No interpreter quantises int8 to int16 in one op, as ai-edge-quantizer writes it: by way of float they do."""
    draft = Draft(graph)
    for op in graph.main:
        draft.begin(op)
        if op.name == "QUANTIZE" and op.inputs[0].dtype == "INT8" and op.outputs[0].dtype == "INT16":
            real = draft.call("DEQUANTIZE", [op.inputs[0].index], op.inputs[0].shape)
            draft.write("QUANTIZE", [real], [op.outputs[0].index], op.options)
        else:
            draft.keep(op)
    return draft.finish()
