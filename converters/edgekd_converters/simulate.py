"""The float graph with the rounding of its int8 graph in it, layer by layer: int8 as if, with any layer left out.

Where the int8 graph holds a tensor on a grid of 256 steps, the float graph gets a ``FAKE_QUANT`` onto the same grid;
where it holds weights and biases as integers, the float graph gets what these stand for. It runs in the stock
interpreter like any float graph, and differs from the int8 graph only in how its sums are rounded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from edgekd_converters.graph import Graph, Op, Tensor
from edgekd_converters.rewrite import ABSENT, Draft

_BITS = {"INT8": 8, "INT16": 16}
_STORED = ("INT8", "INT16", "INT32", "INT64")


@dataclass(frozen=True)
class Grid:
    """The reals that a quantised tensor can hold: ``scale * (step - zero_point)`` for steps of so many ``bits``."""

    scale: float
    zero_point: int
    bits: int = 8

    @property
    def low(self) -> float:
        return self.scale * (-(1 << self.bits - 1) - self.zero_point)

    @property
    def high(self) -> float:
        return self.scale * ((1 << self.bits - 1) - 1 - self.zero_point)


@dataclass(frozen=True)
class Layer:
    """What is rounded together: a float op's outputs, by name, and its constants, as the int8 graph has them by slot.

    Of an input of the graph, ``op`` is None. An output that the op merely moves within one grid is not rounded again.
    """

    tensor: str
    op: Op | None
    grids: Mapping[str, Grid]
    constants: Mapping[int, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Spared:
    """What stays in float in a simulation: the outputs and the constants of layers, by the layers' tensors."""

    outputs: Collection[str] = ()
    constants: Collection[str] = ()

    @classmethod
    def layer(cls, tensor: str) -> Spared:
        return cls((tensor,), (tensor,))


def rounded_layers(graph: Graph, int8_graph: Graph) -> list[Layer]:
    """The layers of a float graph that its int8 graph rounds, the graph's inputs first, then in run order.

    Both graphs call their tensors by the same names.
    """
    grids, stored = grids_of(int8_graph), _stored_tensors(int8_graph)
    maker = {op.outputs[0].name: op for op in int8_graph.main if op.outputs}
    layers = [Layer(t.name, None, {t.name: grids[t.name]}, {}) for t in graph.inputs if t.name in grids]
    for op in graph.main:
        if not op.outputs or op.outputs[0].dtype != "FLOAT32" or (twin := maker.get(op.outputs[0].name)) is None:
            continue
        own = {t.name: grids[t.name] for t in op.outputs if t.name in grids}
        sources = [grids.get(t.name) for t in op.inputs if t.dtype == "FLOAT32" and not t.is_constant]
        if own and sources and all(source in own.values() for source in sources):
            own = {}
        constants = {
            slot: value
            for slot, tensor in enumerate(op.slots)
            if tensor is not None
            and tensor.is_constant
            and tensor.dtype == "FLOAT32"
            and (integers := twin.slots[slot]) is not None
            and (value := _dequantised(int8_graph, integers, stored[integers.index].quantization)) is not None
        }
        if own or constants:
            layers.append(Layer(op.outputs[0].name, op, own, constants))
    return layers


def simulated(graph: Graph, layers: Collection[Layer], spared: Spared) -> Graph:
    """The float graph, rounded as ``layers`` say, but for what is ``spared``."""
    draft, by_tensor = Draft(graph), {layer.tensor: layer for layer in layers}
    rounded: dict[int, int] = {}
    for tensor in graph.inputs:
        layer = by_tensor.get(tensor.name)
        if layer is not None and tensor.name not in spared.outputs:
            options = _fake_quant(layer.grids[tensor.name])
            rounded[tensor.index] = draft.call("FAKE_QUANT", [tensor.index], tensor.shape, options)
    for op in graph.main:
        draft.begin(op)
        layer = by_tensor.get(op.outputs[0].name) if op.outputs else None
        constants = layer.constants if layer is not None and layer.tensor not in spared.constants else {}
        grids = layer.grids if layer is not None and layer.tensor not in spared.outputs else {}
        _write(draft, op, rounded, constants, grids)
    return draft.finish()


def twinned(graph: Graph, layers: Collection[Layer]) -> tuple[Graph, dict[str, str]]:
    """The float graph with every layer a second time, rounded, on the float graph's own tensors.

    What a layer adds to the error is then seen apart from what came to it: (graph, tensor → its rounded twin's name).
    """
    draft, by_tensor = Draft(graph), {layer.tensor: layer for layer in layers}
    twins: dict[str, int] = {}
    for tensor in graph.inputs:
        if (layer := by_tensor.get(tensor.name)) is not None:
            options = _fake_quant(layer.grids[tensor.name])
            twins[tensor.name] = draft.call("FAKE_QUANT", [tensor.index], tensor.shape, options)
    for op in graph.main:
        draft.begin(op)
        draft.keep(op)
        layer = by_tensor.get(op.outputs[0].name) if op.outputs else None
        if layer is not None:
            made = _rounded_op(draft, op, {}, layer.constants, [draft.tensor(t.shape) for t in op.outputs])[0]
            grid = layer.grids.get(layer.tensor)
            twins[layer.tensor] = (
                draft.call("FAKE_QUANT", [made], op.outputs[0].shape, _fake_quant(grid)) if grid else made
            )
    return draft.finish(), {name: draft.name(index) for name, index in twins.items()}


def grids_of(graph: Graph) -> dict[str, Grid]:
    """Tensor name → its grid, of all activations that have one."""
    found = {}
    for tensor, stored in zip(graph.tensors, _stored_tensors(graph), strict=True):
        how = stored.quantization
        if tensor.is_constant or tensor.dtype not in _BITS or how is None or not np.size(how.scale):
            continue
        found[tensor.name] = Grid(float(how.scale[0]), int(how.zeroPoint[0]), _BITS[tensor.dtype])
    return found


def _dequantised(graph: Graph, tensor: Tensor, how: Any) -> npt.NDArray[np.float32] | None:
    """What a quantised constant of the main subgraph stands for, ``float32``; None for one that is not quantised."""
    if not tensor.is_constant or tensor.dtype not in _STORED or how is None or not np.size(how.scale):
        return None
    shape = [1] * len(tensor.shape)
    if np.size(how.scale) > 1:  # one for each slice along this axis
        shape[how.quantizedDimension] = np.size(how.scale)
    zero_points = np.broadcast_to(how.zeroPoint, np.shape(how.scale)).reshape(shape)
    steps = graph.constant(tensor).astype(np.float64) - zero_points
    real: npt.NDArray[np.float32] = (steps * np.asarray(how.scale, np.float64).reshape(shape)).astype(np.float32)
    return real


def _stored_tensors(graph: Graph) -> list[Any]:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(graph.content, 0))
    tensors: list[Any] = model.subgraphs[0].tensors
    return tensors


def _fake_quant(grid: Grid) -> Any:
    options = schema.FakeQuantOptionsT()
    options.min, options.max, options.numBits = grid.low, grid.high, grid.bits
    return options


def _write(
    draft: Draft,
    op: Op,
    rounded: Mapping[int, int],
    constants: Mapping[int, npt.NDArray[np.float32]],
    grids: Mapping[str, Grid],
) -> None:
    """The op with those constants on inputs some of which are ``rounded`` (tensor → instead), its outputs on grids."""
    if not constants and not grids and not any(tensor.index in rounded for tensor in op.inputs):
        draft.keep(op)
        return
    made = [draft.tensor(tensor.shape) if tensor.name in grids else tensor.index for tensor in op.outputs]
    _rounded_op(draft, op, rounded, constants, made)
    for tensor, raw in zip(op.outputs, made, strict=True):
        if tensor.name in grids:
            draft.write("FAKE_QUANT", [raw], [tensor.index], _fake_quant(grids[tensor.name]))


def _rounded_op(
    draft: Draft,
    op: Op,
    rounded: Mapping[int, int],
    constants: Mapping[int, npt.NDArray[np.float32]],
    made: list[int],
) -> list[int]:
    slots = [
        draft.constant(constants[slot])
        if slot in constants
        else ABSENT
        if tensor is None
        else rounded.get(tensor.index, tensor.index)
        for slot, tensor in enumerate(op.slots)
    ]
    draft.write(op.name, slots, made, op.options)
    return made
