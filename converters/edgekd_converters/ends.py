"""A quantised graph that takes and gives reals: it quantises its inputs and dequantises its outputs itself."""

from __future__ import annotations

from edgekd_converters.graph import Graph
from edgekd_converters.rewrite import Draft
from edgekd_converters.simulate import Grid, grids_of


def with_float_ends(graph: Graph) -> Graph:
    """The same graph with ``float32`` inputs and outputs in place of quantised ones; what is between stays as it is."""
    grids, draft = grids_of(graph), Draft(graph)
    for tensor in graph.inputs:
        if tensor.name in grids:
            real = draft.tensor(tensor.shape)
            draft.write("QUANTIZE", [real], [tensor.index])
            draft.stand_in(tensor.index, real)
    for op in graph.main:
        draft.begin(op)
        draft.keep(op)
    for tensor in graph.outputs:
        if tensor.name in grids:
            draft.stand_in(tensor.index, draft.call("DEQUANTIZE", [tensor.index], tensor.shape))
    return draft.finish()


def input_grids(graph: Graph) -> dict[str, Grid]:
    """Public input name → the grid of its int8 form, also where a float input is quantised first of all."""
    grids = grids_of(graph)
    quantised = {op.inputs[0].name: op.outputs[0].name for op in graph.main if op.name == "QUANTIZE"}
    found = {name: grids.get(quantised.get(tensor, tensor)) for name, tensor in graph.signature.inputs.items()}
    return {name: grid for name, grid in found.items() if grid is not None and grid.bits == 8}
