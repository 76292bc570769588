"""Answers to ``infer`` of the Open Inference Protocol: JSON, and the bytes of binary tensors behind it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgekd_runtime import jsontext
from edgekd_runtime.engine import Arrays, Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.wire.datatypes import BYTES, pack_bytes
from edgekd_runtime.wire.infer import InferRequest, Wanted, run

LABEL, SCORE = "label", "score"
_MAX_HEADS = 256
_FLOAT = struct.Struct("<f").pack

_Value = npt.NDArray[Any]
"""Of an output: numbers, or texts as objects."""


class InferAnswer(NamedTuple):
    """JSON, and behind it the bytes of the ``binary`` tensors, in the order of the outputs."""

    head: bytes
    binary: bytes
    is_binary: bool


class InferWriter:
    """Runs requests to ``engine`` and writes their answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._labels = engine.bundle.labels
        self._packed = {label: pack_bytes([label.encode()]) for label in self._labels}
        self._ranked = engine.outputs[0].name  # the output that labels belong to
        self._names = output_names(engine)
        self._all = {binary: tuple(Wanted(name, binary) for name in self._names) for binary in (False, True)}
        self._heads: dict[tuple[object, ...], bytes] = {}
        self._has_own = not {LABEL, SCORE}.isdisjoint(spec.name for spec in engine.outputs)  # outputs of these names

    def __call__(self, request: InferRequest) -> InferAnswer:
        """Raises ``InputError``."""
        arrays = run(self._engine, request.tensors, request.raw)
        if request.binary and request.outputs is None and request.id is None and not self._has_own:
            return self._all_binary(request, arrays)
        return self._as_wanted(request, arrays)

    def _all_binary(self, request: InferRequest, arrays: Arrays) -> InferAnswer:
        """What most binary clients ask for, in few steps."""
        parts = [array.tobytes() for array in arrays.values()]
        ranked = arrays[self._ranked]
        if self._labels:
            best = [self._engine.ranker.best(row) for row in ranked.tolist()]
            parts.append(b"".join([self._packed[label] for label, _ in best]))
            parts.append(b"".join([_FLOAT(score) for _, score in best]))
        key = len(ranked), *map(len, parts)
        head = self._heads.get(key) or self._remember(key, self._as_wanted(request, arrays).head)
        return InferAnswer(head, b"".join(parts), True)

    def _as_wanted(self, request: InferRequest, arrays: Arrays) -> InferAnswer:
        wanted = self._all[request.binary] if request.outputs is None else request.outputs
        if self._labels and (request.outputs is None or any(one.name in (LABEL, SCORE) for one in wanted)):
            self._rank(arrays)
        values = [self._value(one, arrays) for one in wanted]
        binary = [_packed(value) for one, value in zip(wanted, values, strict=True) if one.binary]
        sizes = tuple(map(len, binary))
        if request.id is None and len(binary) == len(wanted):
            key = wanted, len(values[0]), sizes
            head = self._heads.get(key) or self._remember(key, self._head(None, wanted, values, sizes))
        else:
            head = self._head(request.id, wanted, values, sizes)
        return InferAnswer(head, b"".join(binary), len(binary) > 0)

    def _rank(self, arrays: Arrays) -> None:
        """Add the rows' labels and their scores, unless the model itself has outputs of these names."""
        best = [self._engine.ranker.best(row) for row in arrays[self._ranked].tolist()]
        arrays.setdefault(LABEL, np.array([label for label, _ in best], object))
        arrays.setdefault(SCORE, np.array([score for _, score in best], np.float32))

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
