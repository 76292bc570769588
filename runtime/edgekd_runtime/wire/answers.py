"""Answers to ``infer`` of the Open Inference Protocol: JSON, and the bytes of binary tensors behind it."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgekd_runtime import jsontext
from edgekd_runtime.backend import TensorSpec
from edgekd_runtime.engine import Arrays, Conversion, Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.reply import Reply
from edgekd_runtime.wire.datatypes import BINARY_HEADER, BYTES, pack_bytes
from edgekd_runtime.wire.infer import Head, InferRequest, Wanted, run

LABEL, SCORE = "label", "score"
_MAX_HEADS = 256
_OCTETS = "application/octet-stream"
_FEW = 64  # values, up to which numpy takes longer than one step for each
_ALL = InferRequest(None, {}, None, None, True)
_FLOAT = struct.Struct("<f").pack

_Value = npt.NDArray[Any]
"""Of an output: numbers, or texts as objects."""


class InferAnswer(NamedTuple):
    """JSON, and behind it the bytes of the ``binary`` tensors, in the order of the outputs."""

    head: bytes
    binary: bytes
    is_binary: bool


def reply(answer: InferAnswer) -> Reply:
    """As clients get it."""
    head, binary, is_binary = answer
    return Reply(200, head + binary, _OCTETS, _split_at(head)) if is_binary else Reply(200, head)


def _split_at(head: bytes) -> tuple[tuple[str, str], ...]:
    return ((BINARY_HEADER, str(len(head))),)


class InferWriter:
    """Runs requests to ``engine`` and writes their answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._labels = engine.bundle.labels
        self._packed = {label: pack_bytes([label.encode()]) for label in self._labels}
        ranked = engine.outputs[0]  # the output that labels belong to
        self._ranked, self._scale, self._zero_point = ranked.name, ranked.scale or 1.0, ranked.zero_point
        self._wires = [_to_wire(spec, engine.to_reals[spec.name]) for spec in engine.outputs]
        self._names = output_names(engine)
        self._all = {binary: tuple(Wanted(name, binary) for name in self._names) for binary in (False, True)}
        self._heads: dict[tuple[object, ...], bytes] = {}
        self._of_label: dict[str, tuple[bytes, tuple[tuple[str, str], ...]]] = {}
        self._has_own = not {LABEL, SCORE}.isdisjoint(spec.name for spec in engine.outputs)  # outputs of these names

    def __call__(self, request: InferRequest) -> InferAnswer:
        """Raises ``InputError``."""
        return self._as_wanted(request, run(self._engine, request.tensors, request.raw))

    def gives_all(self, head: Head) -> bool:
        """Whether :meth:`one_row` is the answer to a request of one row with this head."""
        return head.binary and head.outputs is None and head.id is None and not self._has_own

    def one_row(self, stored: list[npt.NDArray[Any]]) -> Reply:
        """All outputs in binary, in few steps. ``stored``: as the model gave them, in order. Raises ``InputError``."""
        parts, label = [to_wire(array) for to_wire, array in zip(self._wires, stored, strict=True)], ""
        if self._labels:
            label, score = self._best(stored[0].tolist()[0])
            parts += self._packed[label], _FLOAT(score)
        known = self._of_label.get(label)
        if known is None:
            head = self._as_wanted(_ALL, stored).head
            known = self._of_label[label] = head, _split_at(head)
        head, headers = known
        return Reply(200, head + b"".join(parts), _OCTETS, headers)

    def _as_wanted(self, request: InferRequest, stored: list[npt.NDArray[Any]]) -> InferAnswer:
        wanted = self._all[request.binary] if request.outputs is None else request.outputs
        arrays = self._engine.reals(stored)
        if self._labels and (request.outputs is None or any(one.name in (LABEL, SCORE) for one in wanted)):
            self._rank(arrays, stored[0])
        values = [self._value(one, arrays) for one in wanted]
        binary = [_packed(value) for one, value in zip(wanted, values, strict=True) if one.binary]
        sizes = tuple(map(len, binary))
        if request.id is None and len(binary) == len(wanted):
            key = wanted, len(values[0]), sizes
            head = self._heads.get(key) or self._remember(key, self._head(None, wanted, values, sizes))
        else:
            head = self._head(request.id, wanted, values, sizes)
        return InferAnswer(head, b"".join(binary), len(binary) > 0)

    def _rank(self, arrays: Arrays, stored: npt.NDArray[Any]) -> None:
        """Add the rows' labels and their scores, unless the model itself has outputs of these names."""
        best = [self._best(row) for row in stored.tolist()]
        arrays.setdefault(LABEL, np.array([label for label, _ in best], object))
        arrays.setdefault(SCORE, np.array([score for _, score in best], np.float32))

    def _best(self, stored: list[float]) -> tuple[str, float]:
        return self._engine.ranker.best(stored, self._scale, self._zero_point)

    def _value(self, one: Wanted, arrays: Arrays) -> _Value:
        array = arrays.get(one.name)
        if array is None:
            known = ", ".join(self._names)
            raise InputError(f"there is no output {one.name[:80]!r}; the outputs are: {known}")
        if array.dtype == object:
            return array
        if one.top:
            return self._classes(one, array)
        return array if one.datatype == "FP32" else _halved(one.name, array)

    def _classes(self, one: Wanted, array: npt.NDArray[Any]) -> _Value:
        """Triton's classification extension: ``value:index`` or ``value:index:label``, best first, ``(n, classes)``."""
        rows = array.reshape(len(array), -1)
        labels = self._labels if one.name == self._ranked else ()
        order = np.argsort(-rows, axis=1, kind="stable")[:, : one.top].tolist()
        values = [
            [":".join([f"{row[i]:f}", str(i), *labels[i : i + 1]]) for i in best]
            for row, best in zip(rows, order, strict=True)
        ]
        return np.array(values, object)

    def _remember(self, key: tuple[object, ...], head: bytes) -> bytes:
        """With all values behind it, the JSON of one client's answers is always the same."""
        if len(self._heads) >= _MAX_HEADS:
            self._heads.clear()
        self._heads[key] = head
        return head

    def _head(
        self, identity: str | None, wanted: Sequence[Wanted], values: Sequence[_Value], sizes: Sequence[int]
    ) -> bytes:
        """``sizes``: of the binary outputs, in bytes."""
        bundle, behind = self._engine.bundle, iter(sizes)
        content: dict[str, Any] = {"model_name": bundle.name, "model_version": bundle.version}
        if identity is not None:
            content["id"] = identity
        outputs = []
        for one, value in zip(wanted, values, strict=True):
            datatype = BYTES if value.dtype == object else one.datatype
            entry: dict[str, Any] = {"name": one.name, "datatype": datatype, "shape": list(value.shape)}
            if one.binary:
                entry["parameters"] = {"binary_data_size": next(behind)}
            else:
                entry["data"] = value.ravel().tolist()
            outputs.append(entry)
        return jsontext.dumps({**content, "outputs": outputs})


def _to_wire(spec: TensorSpec, reals: Conversion) -> Callable[[npt.NDArray[Any]], bytes]:
    """How the output ``spec``, one row as stored, becomes the bytes of its reals."""
    if not spec.scale or spec.dtype.itemsize > 1 or math.prod(spec.shape) > _FEW:
        return lambda stored: reals(stored).tobytes()
    of_byte = [_FLOAT(real) for real in reals(np.arange(256).astype(np.uint8).view(spec.dtype)).tolist()]
    return lambda stored: b"".join(map(of_byte.__getitem__, stored.tobytes()))


def output_names(engine: Engine) -> list[str]:
    """All that ``infer`` can give."""
    return [spec.name for spec in engine.outputs] + ([LABEL, SCORE] if engine.bundle.labels else [])


def _halved(name: str, array: _Value) -> _Value:
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    if not np.isfinite(half).all():
        raise InputError(f"output {name!r} has values that FP16 cannot hold; ask for FP32")
    return half


def _packed(value: _Value) -> bytes:
    if value.dtype == object:
        return pack_bytes([text.encode() for text in value.ravel().tolist()])
    return value.tobytes()
