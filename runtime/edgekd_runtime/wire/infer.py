"""Open Inference Protocol v2 (KServe) with its binary tensors: requests to ``infer`` and their answers.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
A model that preprocesses takes one input more than its tensors, ``text`` (BYTES), or ``image`` or ``audio`` (BYTES,
files; in base64 where they stand in JSON), and a model with labels gives two outputs more, ``label`` (BYTES) and
``score`` (FP32). Of Triton's extensions there are raw bodies (a JSON of length 0) and ``classification``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgekd_runtime.engine import MAX_BATCH, Arrays, Classification, Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.reply import encode
from edgekd_runtime.wire import jsonbody, tensors
from edgekd_runtime.wire.datatypes import BYTES, DTYPES, pack_bytes
from edgekd_runtime.wire.raw import TEXT, decoded, file_of
from edgekd_runtime.wire.tensors import Tensor

LABEL, SCORE = "label", "score"

OUTPUT_DATATYPES = ("FP16", "FP32")

_REMEMBERED_BYTES = 2048


class Wanted(NamedTuple):
    """An output that the client names. ``top``: so many classes instead of the tensor, 0 for the tensor itself."""

    name: str
    binary: bool
    top: int = 0
    datatype: str = "FP32"


class Head(NamedTuple):
    """The JSON of a request. ``outputs`` None: all of them, ``binary`` or not."""

    id: str | None
    inputs: tuple[Tensor, ...]
    outputs: tuple[Wanted, ...] | None
    binary: bool


class InferRequest(NamedTuple):
    """``raw``, texts or files, stands in place of ``tensors`` when it is sent."""

    id: str | None
    tensors: Arrays
    raw: tuple[str | bytes, ...] | None
    outputs: tuple[Wanted, ...] | None
    binary: bool


class InferAnswer(NamedTuple):
    """JSON, and behind it the bytes of the ``binary`` tensors, in the order of the outputs."""

    head: bytes
    binary: bytes
    is_binary: bool


def parse(body: bytes | bytearray, engine: Engine, head_length: str | None = None) -> InferRequest:
    """The body of ``POST …/infer``. Raises ``InputError`` for all that does not fit the protocol.

    ``head_length``: what the header ``Inference-Header-Content-Length`` said; 0: no JSON, the one input as it is.
    """
    if head_length is None:
        return _read(_parse_head(body), memoryview(b""), engine)
    if not (head_length.isascii() and head_length.isdigit() and len(head_length) < 12):
        raise InputError("Inference-Header-Content-Length must be a whole number")
    length = int(head_length)
    if length > len(body):
        raise InputError(f"Inference-Header-Content-Length says {length}, the body has only {len(body)} bytes")
    if length == 0:
        return _raw_body(body, engine)
    head = bytes(memoryview(body)[:length])
    # A client says the same head every time, and parsing it costs as much as a small model.
    parsed = _remembered(head) if length <= _REMEMBERED_BYTES else _parse_head(head)
    return _read(parsed, memoryview(body)[length:], engine)


def _parse_head(head: bytes | bytearray) -> Head:
    request = jsonbody.parse(bytes(head))
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InputError("'id' must be a text")
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs or not all(isinstance(entry, dict) for entry in inputs):
        raise InputError("'inputs' must be a list with one object per input tensor")
    binary = tensors.parameters(request, "the request").get("binary_data_output", False) is True
    return Head(identity, tuple(map(tensors.parse, inputs)), _wanted(request.get("outputs"), binary), binary)


_remembered = lru_cache(maxsize=256)(_parse_head)


def _read(head: Head, binary: memoryview, engine: Engine) -> InferRequest:
    arrays: Arrays = {}
    raw: tuple[str | bytes, ...] | None = None
    at = 0
    if sum([tensor.size for tensor in head.inputs]) != len(binary):
        named = sum(tensor.size for tensor in head.inputs)
        raise InputError(f"the inputs' 'binary_data_size' add up to {named}; {len(binary)} bytes follow the JSON")
    for tensor in head.inputs:
        part = binary[at : at + tensor.size]
        at += tensor.size
        if tensor.name in arrays or (tensor.name == engine.takes and raw is not None):
            raise InputError(f"input {tensor.name!r} is given twice")
        if tensor.name == engine.takes:
            raw = _raw(tensor, part)
        else:
            arrays[tensor.name] = _widened(tensor, tensors.array(tensor, part), engine)
    if raw is not None and arrays:
        raise InputError(f"send either {engine.takes!r} or the model's own tensors, not both")
    return InferRequest(head.id, arrays, raw, head.outputs, head.binary)


def _widened(tensor: Tensor, array: npt.NDArray[Any], engine: Engine) -> npt.NDArray[Any]:
    """FP16 is the short form of FP32 for a model that is not of FP16 itself."""
    if tensor.datatype != "FP16" or any(one.name == tensor.name and one.dtype == np.float16 for one in engine.inputs):
        return array
    return array.astype(np.float32)


def _raw_body(body: bytes | bytearray, engine: Engine) -> InferRequest:
    """Triton's raw request: a text or file, or the bytes of the model's one input."""
    if engine.takes is not None:
        return InferRequest(
            None, {}, (decoded("the body", bytes(body)) if engine.takes == TEXT else bytes(body),), None, True
        )
    if len(engine.inputs) != 1:
        raise InputError(f"the model has {len(engine.inputs)} inputs; a body without JSON can be for one only")
    spec = engine.inputs[0]
    dtype = DTYPES["FP32"] if spec.scale else spec.dtype
    row = math.prod(spec.shape[1:]) * dtype.itemsize
    if not body or len(body) % row:
        raise InputError(f"input {spec.name!r}: a row has {row} bytes, the body {len(body)}")
    shape = (len(body) // row, *spec.shape[1:])
    return InferRequest(None, {spec.name: np.frombuffer(body, dtype).reshape(shape)}, None, None, True)


def _wanted(outputs: object, binary: bool) -> tuple[Wanted, ...] | None:
    if outputs is None or outputs == []:
        return None
    if not isinstance(outputs, list) or not all(
        isinstance(o, dict) and isinstance(o.get("name"), str) for o in outputs
    ):
        raise InputError("'outputs' must be a list of objects with a 'name'")
    wanted = tuple(_one_wanted(entry, binary) for entry in outputs)
    if len({one.name for one in wanted}) != len(wanted):
        raise InputError("'outputs' names an output twice")
    return wanted


def _one_wanted(entry: Mapping[str, Any], binary: bool) -> Wanted:
    name = entry["name"]
    given = tensors.parameters(entry, f"output {name[:80]!r}")
    top, datatype = given.get("classification", 0), given.get("datatype", "FP32")
    if type(top) is not int or not 0 <= top < 1 << 31:
        raise InputError(f"output {name[:80]!r}: 'classification' must be a number of classes")
    if datatype not in OUTPUT_DATATYPES:
        raise InputError(f"output {name[:80]!r}: 'datatype' must be one of {', '.join(OUTPUT_DATATYPES)}")
    return Wanted(name, given.get("binary_data", binary) is True, top, datatype)


def _raw(tensor: Tensor, part: memoryview) -> tuple[str | bytes, ...]:
    name, shape = tensor.name, tensor.shape
    if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise InputError(f"input {name!r} must have shape [n] or [n, 1], not {list(shape)}")
    values = tensors.raw_values(tensor, part)
    if not 1 <= len(values) <= MAX_BATCH:
        raise InputError(f"input {name!r} has a batch of {len(values)}; 1 to {MAX_BATCH} are taken")
    if tensor.data is None:
        return tuple(decoded(repr(name), value) for value in values) if name == TEXT else tuple(values)
    return tuple(values) if name == TEXT else tuple(file_of(name, value) for value in values)


def run(engine: Engine, arrays: Arrays, raw: Sequence[str | bytes] | None) -> Arrays:
    """The model's outputs, dequantised, for its tensors or for what it preprocesses. Raises ``InputError``."""
    if raw is None:
        return engine.infer(arrays)
    return engine.outputs_of([np.concatenate([engine.preprocess(one)[0] for one in raw])])


def answer(request: InferRequest, engine: Engine) -> InferAnswer:
    """Run the request. Raises ``InputError``."""
    arrays = run(engine, request.tensors, request.raw)
    wanted = request.outputs
    if wanted is None:
        labelled = (LABEL, SCORE) if engine.bundle.labels else ()
        wanted = tuple([Wanted(name, request.binary) for name in (*arrays, *labelled)])
    ranked: list[Classification] = []
    if engine.bundle.labels and any(one.name in (LABEL, SCORE) for one in wanted):
        ranked = [engine.rank(row, 1) for row in arrays[engine.outputs[0].name]]
    outputs, parts, in_binary = [], [], 0
    for one in wanted:
        output, part = _output(one, arrays, ranked, engine)
        outputs.append(output)
        parts.append(part)
        in_binary += one.binary
    # With all values behind it, the JSON of one client's answers is always the same.
    said = _remembered_answer if request.id is None and in_binary == len(wanted) else _answer_head
    head = said(engine.bundle.name, engine.bundle.version, request.id, tuple(outputs))
    return InferAnswer(head, b"".join(parts), in_binary > 0)


def _answer_head(name: str, version: str, identity: str | None, outputs: tuple[Tensor, ...]) -> bytes:
    content: dict[str, Any] = {"model_name": name, "model_version": version}
    if identity is not None:
        content["id"] = identity
    return encode({**content, "outputs": [_entry(output) for output in outputs]}).encode("utf-8", "replace")


_remembered_answer = lru_cache(maxsize=256)(_answer_head)


def _entry(output: Tensor) -> dict[str, Any]:
    entry = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
    if output.data is None:
        return {**entry, "parameters": {"binary_data_size": output.size}}
    return {**entry, "data": output.data}


def output_names(engine: Engine) -> list[str]:
    """All that ``infer`` can give."""
    return [spec.name for spec in engine.outputs] + ([LABEL, SCORE] if engine.bundle.labels else [])


def _output(one: Wanted, arrays: Arrays, ranked: Sequence[Classification], engine: Engine) -> tuple[Tensor, bytes]:
    """An output and its bytes, none where its values stand in the JSON. ``ranked``: the rows' labels, if asked for."""
    array = arrays.get(one.name)
    if array is None:
        if one.name not in (LABEL, SCORE) or not ranked:
            known = ", ".join(output_names(engine))
            raise InputError(f"there is no output {one.name[:80]!r}; the outputs are: {known}")
        if one.name == LABEL:
            return _bytes_output(one, [top.label for top in ranked], (len(ranked),))
        array = np.array([top.score for top in ranked], np.float32)
    return _classes(one, array, engine) if one.top else _number_output(one, array)


def _number_output(one: Wanted, array: npt.NDArray[Any]) -> tuple[Tensor, bytes]:
    if one.datatype == "FP16":
        with np.errstate(over="ignore"):
            array = array.astype(np.float16)
        if not np.isfinite(array).all():
            raise InputError(f"output {one.name!r} has values that FP16 cannot hold; ask for FP32")
    if one.binary:
        return Tensor(one.name, one.datatype, array.shape, None, array.nbytes), array.tobytes()
    return Tensor(one.name, one.datatype, array.shape, array.ravel().tolist(), 0), b""


def _bytes_output(one: Wanted, values: list[str], shape: tuple[int, ...]) -> tuple[Tensor, bytes]:
    if one.binary:
        packed = pack_bytes([value.encode() for value in values])
        return Tensor(one.name, BYTES, shape, None, len(packed)), packed
    return Tensor(one.name, BYTES, shape, values, 0), b""


def _classes(one: Wanted, array: npt.NDArray[Any], engine: Engine) -> tuple[Tensor, bytes]:
    """Triton's classification extension: ``value:index`` or ``value:index:label``, best first, ``(n, classes)``."""
    rows = array.reshape(len(array), -1)
    labels = engine.bundle.labels if one.name == engine.outputs[0].name else ()
    order = np.argsort(-rows, axis=1, kind="stable")[:, : one.top].tolist()
    values = [
        ":".join([f"{row[i]:f}", str(i), *labels[i : i + 1]])
        for row, best in zip(rows, order, strict=True)
        for i in best
    ]
    return _bytes_output(one, values, (len(rows), len(order[0])))
