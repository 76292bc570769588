"""Ops that have an int8 kernel in every runtime of the device, but that ai-edge-quantizer does not know.

It treats an op by its name alone, in one of a few ways: the output has the scale of the input, each tensor has its
own, … So an op that it does not know is told to it as one that it treats as this one must be, and stays itself in the
graph. The quantiser then does everything: chains of such ops, constant operands, names. Folding DEQUANTIZE → op →
QUANTIZE afterwards would be a second quantiser, and writing the ops as others a larger and slower model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer.qtyping import TFLOperationName as Known
from ai_edge_quantizer.utils import tfl_flatbuffer_utils

PICKS = (
    "TILE",
    "RESIZE_NEAREST_NEIGHBOR",
    "REDUCE_MAX",
    "SQUEEZE",
    "EXPAND_DIMS",
    "SPLIT_V",
    "REVERSE_V2",
    "DEPTH_TO_SPACE",
    "SPACE_TO_BATCH_ND",
    "BATCH_TO_SPACE_ND",
)
"""Their outputs hold values of the input, with its scale."""

_MAPS = ("LEAKY_RELU", "PRELU", "ELU", "RELU6", "RELU_N1_TO_1", "ABS", "EXP", "LOG_SOFTMAX", "ARG_MAX", "ARG_MIN")

KNOWN_AS = {
    **dict.fromkeys(PICKS, Known.UNPACK),
    **dict.fromkeys(_MAPS, Known.GELU),
    "MINIMUM": Known.MAXIMUM,  # inputs with the scale of the output
    "L2_NORMALIZATION": Known.TANH,  # an output of -1 … 1, whatever it is
}
"""What the quantiser does not know → what it is told that it is."""


@contextlib.contextmanager
def known_to_quantizer() -> Iterator[None]:
    """While it lasts, ai-edge-quantizer takes these ops; those that it knows itself it takes in its own way."""
    table = tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME
    more = {getattr(schema.BuiltinOperator, name): known for name, known in KNOWN_AS.items()}
    tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME = {**more, **table}
    try:
        yield
    finally:
        tfl_flatbuffer_utils.TFL_OP_CODE_TO_NAME = table
