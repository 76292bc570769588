"""A fused LSTM as the plain ops that it stands for, each of which the quantiser can take.

Every sequence starts from zero state, as the model was trained; the fused op carries its state over from one run to
the next. All steps share one weight tensor, so that only ops are repeated: 13 for each step.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekd_converters.graph import Graph, Op
from edgekd_converters.rewrite import ABSENT, Draft

MOST_STEPS = 128
"""For so many the quantiser takes half a minute a layer, and the time grows with their square."""

_WEIGHTS = (*range(1, 9), *range(12, 16))  # for the input, for the state, biases: input, forget, cell and output gate
_RARE = (*range(9, 12), 16, 17, *range(20, 24))  # peepholes, projection, layer normalisation
_OPTIONS = {
    "ADD": schema.AddOptionsT,
    "MUL": schema.MulOptionsT,
    "MAXIMUM": schema.MaximumMinimumOptionsT,
    "MINIMUM": schema.MaximumMinimumOptionsT,
}


def unroll_lstm(draft: Draft, graph: Graph, op: Op) -> bool:
    """``(b, t, i)`` → ``(b, t, units)``, or with the first axes swapped. False if the op is not of the usual kind."""
    slots, shape, time = op.slots, op.inputs[0].shape, 0 if op.options.timeMajor else 1
    weights = [tensor for k in _WEIGHTS for tensor in [slots[k]] if tensor is not None and tensor.is_constant]
    if (
        len(weights) < len(_WEIGHTS)
        or any(tensor.dtype != "FLOAT32" for tensor in weights)
        or any(slots[k] is not None for k in _RARE if k < len(slots))
        or op.options.diagonalRecurrentTensors
        or op.options.fusedActivationFunction != schema.ActivationFunctionType.TANH
        or not 0 < shape[time] <= MOST_STEPS
    ):
        return False
    values = [graph.constant(tensor) for tensor in weights]
    weight, recurrent, bias = (draft.constant(np.concatenate(values[k : k + 4])) for k in (0, 4, 8))
    cell = _Cell(draft, (shape[1 - time], values[4].shape[1]), recurrent, op.options.cellClip)
    fed = [op.inputs[0].index, weight, bias]
    driven = draft.call("FULLY_CONNECTED", fed, (*shape[:2], cell.gates[1]), _dense(keep=True))
    unpack, pack = schema.UnpackOptionsT(), schema.PackOptionsT()
    unpack.num = pack.valuesCount = shape[time]
    unpack.axis = pack.axis = time
    drives = draft.calls("UNPACK", [driven], [cell.gates] * shape[time], unpack)
    draft.write("PACK", [cell.step(drive) for drive in drives], [op.outputs[0].index], pack)
    return True


class _Cell:
    """Writes the steps one after the other. ``recurrent``: the constant ``(4·units, units)``."""

    def __init__(self, draft: Draft, shape: tuple[int, int], recurrent: int, clip: float) -> None:
        self.gates = (shape[0], 4 * shape[1])
        self._draft, self._shape, self._recurrent, self._clip = draft, shape, recurrent, clip
        self._axis = draft.constant(np.array(1, np.int32))
        self._low, self._high = (draft.constant(np.full((1, 1), bound, np.float32)) for bound in (-clip, clip))
        self._steps, self._output, self._cell = 0, ABSENT, ABSENT

    def step(self, drive: int) -> int:
        """``drive``, ``(b, 4·units)``: what the input adds to the gates → the output, ``(b, units)``."""
        if self._steps:
            fed = [self._output, self._recurrent, ABSENT]
            back = self._draft.call("FULLY_CONNECTED", fed, self.gates, _dense(keep=False))
            drive = self._draft.call("ADD", [drive, back], self.gates, schema.AddOptionsT())
        split = schema.SplitOptionsT()
        split.numSplits = 4
        enter, keep, fresh, leave = self._draft.calls("SPLIT", [self._axis, drive], [self._shape] * 4, split)
        cell = self._call("MUL", self._call("LOGISTIC", enter), self._call("TANH", fresh))
        if self._steps:
            cell = self._call("ADD", self._call("MUL", self._call("LOGISTIC", keep), self._cell), cell)
        self._steps += 1
        if 0 < self._clip < self._steps:  # no step adds more than 1
            cell = self._call("MAXIMUM", self._call("MINIMUM", cell, self._high), self._low)
        self._output, self._cell = self._call("MUL", self._call("LOGISTIC", leave), self._call("TANH", cell)), cell
        return self._output

    def _call(self, name: str, *inputs: int) -> int:
        options = _OPTIONS.get(name)
        return self._draft.call(name, inputs, self._shape, options() if options else None)


def _dense(*, keep: bool) -> Any:
    options = schema.FullyConnectedOptionsT()
    options.keepNumDims = keep
    return options
