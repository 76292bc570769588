"""Answers to ``infer`` of the Open Inference Protocol: JSON, and the bytes of binary tensors behind it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgekd_runtime.engine import Arrays, Classification, Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.reply import encode
from edgekd_runtime.wire.datatypes import BYTES, pack_bytes
from edgekd_runtime.wire.infer import InferRequest, Wanted, run
from edgekd_runtime.wire.tensors import Tensor

LABEL, SCORE = "label", "score"

_Written = tuple[Tensor, "bytes | None"]
"""What the JSON says of an output, and its bytes; None where its values stand in the JSON."""


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
        self._ranked = engine.outputs[0].name  # the output that labels belong to
        self._names = output_names(engine)
        self._all = {binary: tuple(Wanted(name, binary) for name in self._names) for binary in (False, True)}

    def __call__(self, request: InferRequest) -> InferAnswer:
        """Raises ``InputError``."""
        wanted = self._all[request.binary] if request.outputs is None else request.outputs
        arrays = run(self._engine, request.tensors, request.raw)
        ranked: list[Classification] = []
        if self._labels and (request.outputs is None or any(one.name in (LABEL, SCORE) for one in wanted)):
            ranked = [self._engine.rank(row, 1) for row in arrays[self._ranked]]
        written = [self._output(one, arrays, ranked) for one in wanted]
        binary = [part for _, part in written if part is not None]
        # With all values behind it, the JSON of one client's answers is always the same.
        said = _remembered if request.id is None and len(binary) == len(wanted) else _head
        bundle = self._engine.bundle
        head = said(bundle.name, bundle.version, request.id, tuple([tensor for tensor, _ in written]))
        return InferAnswer(head, b"".join(binary), len(binary) > 0)

    def _output(self, one: Wanted, arrays: Arrays, ranked: Sequence[Classification]) -> _Written:
        """``ranked``: the rows' labels, if asked for."""
        array = arrays.get(one.name)
        if array is None:
            if one.name == LABEL and ranked:
                return _bytes_output(one, [top.label for top in ranked], (len(ranked),))
            if one.name != SCORE or not ranked:
                known = ", ".join(self._names)
                raise InputError(f"there is no output {one.name[:80]!r}; the outputs are: {known}")
            array = np.array([top.score for top in ranked], np.float32)
        return _number_output(one, array) if not one.top else self._classes(one, array)

    def _classes(self, one: Wanted, array: npt.NDArray[Any]) -> _Written:
        """Triton's classification extension: ``value:index`` or ``value:index:label``, best first, ``(n, classes)``."""
        rows = array.reshape(len(array), -1)
        labels = self._labels if one.name == self._ranked else ()
        order = np.argsort(-rows, axis=1, kind="stable")[:, : one.top].tolist()
        values = [
            ":".join([f"{row[i]:f}", str(i), *labels[i : i + 1]])
            for row, best in zip(rows, order, strict=True)
            for i in best
        ]
        return _bytes_output(one, values, (len(rows), len(order[0])))


def output_names(engine: Engine) -> list[str]:
    """All that ``infer`` can give."""
    return [spec.name for spec in engine.outputs] + ([LABEL, SCORE] if engine.bundle.labels else [])


def _number_output(one: Wanted, array: npt.NDArray[Any]) -> _Written:
    if one.datatype == "FP16":
        with np.errstate(over="ignore"):
            array = array.astype(np.float16)
        if not np.isfinite(array).all():
            raise InputError(f"output {one.name!r} has values that FP16 cannot hold; ask for FP32")
    if one.binary:
        return Tensor(one.name, one.datatype, array.shape, None, array.nbytes), array.tobytes()
    return Tensor(one.name, one.datatype, array.shape, array.ravel().tolist(), 0), None


def _bytes_output(one: Wanted, values: list[str], shape: tuple[int, ...]) -> _Written:
    if one.binary:
        packed = pack_bytes([value.encode() for value in values])
        return Tensor(one.name, BYTES, shape, None, len(packed)), packed
    return Tensor(one.name, BYTES, shape, values, 0), None


def _head(name: str, version: str, identity: str | None, outputs: tuple[Tensor, ...]) -> bytes:
    content: dict[str, Any] = {"model_name": name, "model_version": version}
    if identity is not None:
        content["id"] = identity
    return encode({**content, "outputs": [_entry(output) for output in outputs]}).encode("utf-8", "replace")


_remembered = lru_cache(maxsize=256)(_head)


def _entry(output: Tensor) -> dict[str, Any]:
    entry = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
    if output.data is None:
        return {**entry, "parameters": {"binary_data_size": output.size}}
    return {**entry, "data": output.data}
