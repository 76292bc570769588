"""Open Inference Protocol v2 (KServe) with its binary tensors: requests to ``infer``.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
A model that preprocesses takes one input more than its tensors, ``text`` (BYTES), or ``image`` or ``audio`` (BYTES,
files; in base64 where they stand in JSON), and a model with labels gives two outputs more, ``label`` (BYTES) and
``score`` (FP32). Of Triton's extensions there are raw bodies (a JSON of length 0) and ``classification``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgekd_runtime import jsontext
from edgekd_runtime.engine import MAX_BATCH, Arrays, Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.reply import Body
from edgekd_runtime.wire import jsonbody, tensors
from edgekd_runtime.wire.datatypes import BYTES, DTYPES
from edgekd_runtime.wire.raw import TEXT, decoded, file_of
from edgekd_runtime.wire.tensors import Tensor

OUTPUT_DATATYPES = ("FP16", "FP32")

MAX_REMEMBERED_BYTES = 2048
"""Of a JSON head."""


class Wanted(NamedTuple):
    """An output that the client names. ``top``: so many classes instead of the tensor, 0 for the tensor itself."""

    name: str
    binary: bool
    top: int = 0
    datatype: str = "FP32"


class Head(NamedTuple):
    """The JSON of a request; ``size`` bytes follow it. ``outputs`` None: all of them, ``binary`` or not."""

    id: str | None
    inputs: tuple[Tensor, ...]
    size: int
    outputs: tuple[Wanted, ...] | None
    binary: bool


class InferRequest(NamedTuple):
    """``raw``, texts or files, stands in place of ``tensors`` when it is sent."""

    id: str | None
    tensors: Arrays
    raw: tuple[str | bytes, ...] | None
    outputs: tuple[Wanted, ...] | None
    binary: bool


def parse(body: Body, engine: Engine, head_length: str | None = None) -> InferRequest:
    """The body of ``POST …/infer``. Raises ``InputError`` for all that does not fit the protocol.

    ``head_length``: what the header ``Inference-Header-Content-Length`` said; 0: no JSON, the one input as it is.
    """
    if head_length is None:
        return _read(_parse_head(body), memoryview(b""), engine)
    length = length_of(head_length)
    if length > len(body):
        raise InputError(f"Inference-Header-Content-Length says {length}, the body has only {len(body)} bytes")
    if length == 0:
        return _raw_body(body, engine)
    head = bytes(body[:length])
    # A client says the same head every time, and parsing it costs as much as a small model.
    parsed = remembered(head) if length <= MAX_REMEMBERED_BYTES else _parse_head(head)
    return _read(parsed, memoryview(body)[length:], engine)


@lru_cache(maxsize=256)
def length_of(head_length: str) -> int:
    """What the header ``Inference-Header-Content-Length`` says. Raises ``InputError``."""
    if not (head_length.isascii() and head_length.isdigit() and len(head_length) < 12):
        raise InputError("Inference-Header-Content-Length must be a whole number")
    return int(head_length)


def _parse_head(head: Body, loads: Callable[[bytes], Any] = jsontext.loads) -> Head:
    request = jsonbody.parse(head, loads)
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InputError("'id' must be a text")
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs or not all(isinstance(entry, dict) for entry in inputs):
        raise InputError("'inputs' must be a list with one object per input tensor")
    binary = tensors.parameters(request, "the request").get("binary_data_output", False) is True
    parsed = tuple(map(tensors.parse, inputs))
    size = sum(tensor.size for tensor in parsed)
    return Head(identity, parsed, size, _wanted(request.get("outputs"), binary), binary)


remembered = lru_cache(maxsize=256)(partial(_parse_head, loads=jsontext.loads_once))
"""The JSON of a request, of at most ``MAX_REMEMBERED_BYTES``. Raises ``InputError``."""


def _read(head: Head, binary: memoryview, engine: Engine) -> InferRequest:
    if head.size != len(binary):
        raise InputError(f"the inputs' 'binary_data_size' add up to {head.size}; {len(binary)} bytes follow the JSON")
    arrays: Arrays = {}
    raw: tuple[str | bytes, ...] | None = None
    at, takes = 0, engine.takes
    for tensor in head.inputs:
        part = binary[at : at + tensor.size]
        at += tensor.size
        if tensor.name in arrays or (tensor.name == takes and raw is not None):
            raise InputError(f"input {tensor.name!r} is given twice")
        if tensor.name == takes and is_raw(tensor, engine):
            raw = raw_of(tensor, part)
        else:
            array = tensors.array(tensor, part)
            arrays[tensor.name] = array if tensor.datatype != "FP16" else _widened(tensor.name, array, engine)
    if raw is not None and arrays:
        raise InputError(f"send either {takes!r} or the model's own tensors, not both")
    return InferRequest(head.id, arrays, raw, head.outputs, head.binary)


def _widened(name: str, array: npt.NDArray[Any], engine: Engine) -> npt.NDArray[Any]:
    """FP16 is the short form of FP32 for a model that is not of FP16 itself."""
    is_half = any(one.name == name and one.dtype == np.float16 for one in engine.inputs)
    return array if is_half else array.astype(np.float32)


def _raw_body(body: Body, engine: Engine) -> InferRequest:
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


def is_raw(tensor: Tensor, engine: Engine) -> bool:
    """Whether it is what the model preprocesses; a tensor of the model may have that name, too, but is never BYTES."""
    if tensor.name != engine.takes:
        return False
    return tensor.datatype == BYTES or all(spec.name != tensor.name for spec in engine.inputs)


def raw_of(tensor: Tensor, part: memoryview) -> tuple[str | bytes, ...]:
    """The texts or files of an input that is preprocessed. ``part``: its bytes, where they stand behind the JSON.

    Raises ``InputError``.
    """
    name, shape = tensor.name, tensor.shape
    if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise InputError(f"input {name!r} must have shape [n] or [n, 1], not {list(shape)}")
    values = tensors.raw_values(tensor, part)
    if not 1 <= len(values) <= MAX_BATCH:
        raise InputError(f"input {name!r} has a batch of {len(values)}; 1 to {MAX_BATCH} are taken")
    if tensor.data is None:
        return tuple(decoded(repr(name), value) for value in values) if name == TEXT else tuple(values)
    return tuple(values) if name == TEXT else tuple(file_of(name, value) for value in values)


def run(engine: Engine, arrays: Arrays, raw: Sequence[str | bytes] | None) -> list[npt.NDArray[Any]]:
    """The model's outputs in order, as stored, for its tensors or for what it preprocesses. Raises ``InputError``."""
    if raw is None:
        return engine.stored_outputs(engine.store(arrays))
    return engine.stored_outputs([np.concatenate([engine.preprocess(one)[0] for one in raw])])
