"""Requests to ``infer`` that are plain: one row of a tensor, or one text, in binary for all outputs in binary.

Programs send such requests one after the other, all with the same JSON. What that comes to on a model is worked out
once and remembered by its bytes. Few steps are left then, which counts: after each run of a model the caches are cold,
and a step in Python takes about twice as long as in a loop. What is not plain is left to :mod:`infer`, and so is every
fault in the JSON.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.reply import Body, Reply
from edgekd_runtime.wire import infer, tensors
from edgekd_runtime.wire.answers import InferWriter
from edgekd_runtime.wire.datatypes import BYTES, DTYPES
from edgekd_runtime.wire.raw import TEXT, decoded
from edgekd_runtime.wire.tensors import Tensor

_MAX_HEADS = 256
_ARRAYS = DTYPES.keys() - {"BOOL", "FP16"}  # of the others values must be looked at, or made wider
_Read = Callable[[memoryview], npt.NDArray[Any]]
"""The bytes behind the JSON → the model's one input as stored, one row. Raises ``InputError``."""
_Known = tuple[int, "_Read | None"]
"""How many bytes must follow, and what is done with them."""


class PlainRequests:
    """Answers those to one model."""

    def __init__(self, engine: Engine, write: InferWriter) -> None:
        self._engine = engine
        self._write = write
        self._known: dict[bytes, _Known] = {}

    def answer(self, body: Body, head_length: str) -> Reply | None:
        """None for what is not plain. Raises ``InputError``."""
        length = infer.length_of(head_length)
        if length > infer.MAX_REMEMBERED_BYTES:
            return None
        head = bytes(body[:length])
        size, read = self._known.get(head) or self._meet(head)
        if read is None or len(body) - length != size:
            return None
        return self._write.one_row(self._engine.stored_outputs([read(memoryview(body)[length:])]))

    def _meet(self, raw: bytes) -> _Known:
        known: _Known = 0, None
        try:
            head = infer.remembered(raw)
            known = head.size, self._reader(head)
        except InputError:  # which infer tells
            pass
        if len(self._known) >= _MAX_HEADS:
            self._known.clear()
        self._known[raw] = known
        return known

    def _reader(self, head: infer.Head) -> _Read | None:
        """Raises ``InputError`` where the model does not take such an input."""
        if not self._write.gives_all(head) or len(head.inputs) != 1 or head.inputs[0].data is not None:
            return None
        tensor, engine = head.inputs[0], self._engine
        if infer.is_raw(tensor, engine):
            is_one = tensor.datatype == BYTES and tensor.shape in ((1,), (1, 1))
            return partial(self._read_text, tensor) if is_one and engine.takes == TEXT else None
        return self._array_reader(tensor) if tensor.datatype in _ARRAYS else None

    def _read_text(self, tensor: Tensor, part: memoryview) -> npt.NDArray[Any]:
        return self._engine.preprocess(decoded(repr(TEXT), tensors.raw_values(tensor, part)[0]))[0]

    def _array_reader(self, tensor: Tensor) -> _Read | None:
        inputs, shape, dtype = self._engine.inputs, tensor.shape, DTYPES[tensor.datatype]
        if len(inputs) != 1 or tensor.name != inputs[0].name or shape[0] != 1:
            return None
        convert = self._engine.conversion(inputs[0], shape, dtype)
        return lambda part: convert(np.ndarray(shape, dtype, part))
