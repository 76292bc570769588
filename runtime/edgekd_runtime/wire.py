"""Open Inference Protocol v2 (KServe), JSON form: what the bytes of a request mean, and those of an answer.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
A model that preprocesses takes one input more than its tensors, ``text`` (BYTES), or ``image`` or ``audio`` (BYTES,
files in base64), and a model with labels gives two outputs more, ``label`` (BYTES) and ``score`` (FP32).
"""

from __future__ import annotations

import base64
import codecs
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from edgekd_runtime.backend import TensorSpec
from edgekd_runtime.engine import MAX_BATCH, Arrays, Engine
from edgekd_runtime.errors import InputError, MediaTypeError
from edgekd_runtime.reply import encode

TEXT, LABEL, SCORE = "text", "label", "score"

_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype(np.uint8),
    "UINT16": np.dtype(np.uint16),
    "UINT32": np.dtype(np.uint32),
    "UINT64": np.dtype(np.uint64),
    "INT8": np.dtype(np.int8),
    "INT16": np.dtype(np.int16),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "FP32": np.dtype(np.float32),
    "FP64": np.dtype(np.float64),
}
_MAX_RANK = 8
_RAW_KINDS = ("image/", "audio/", "text/plain")
_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class InferRequest:
    """``raw``, texts or files, stands in place of ``tensors`` when it is sent. ``outputs``: asked for, or all."""

    id: str | None
    tensors: Arrays
    raw: tuple[str | bytes, ...] | None
    outputs: tuple[str, ...] | None


def parse_json(body: bytes) -> dict[str, Any]:
    """``bytes`` → JSON object. Raises ``InputError`` with the place of the fault."""
    try:
        value = _decode(body.removeprefix(codecs.BOM_UTF8).decode())
    except UnicodeDecodeError as error:
        raise InputError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"the body is not JSON that can be read here: {error}") from error
    if not isinstance(value, dict):
        raise InputError("the body must be a JSON object")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def parse_infer(body: bytes, engine: Engine) -> InferRequest:
    """The body of ``POST …/infer``. Raises ``InputError`` for all that does not fit the protocol."""
    request = parse_json(body)
    identity = request.get("id")
    if identity is not None and not isinstance(identity, str):
        raise InputError("'id' must be a text")
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs or not all(isinstance(entry, dict) for entry in inputs):
        raise InputError("'inputs' must be a list with one object per input tensor")
    tensors: Arrays = {}
    raw: tuple[str | bytes, ...] | None = None
    for entry in inputs:
        name = entry.get("name")
        if not isinstance(name, str):
            raise InputError("every input needs a 'name'")
        if name in tensors or (name == engine.takes and raw is not None):
            raise InputError(f"input {name!r} is given twice")
        if name == engine.takes:
            raw = _raw(name, entry)
        else:
            tensors[name] = _tensor(name, entry)
    if raw is not None and tensors:
        raise InputError(f"send either {engine.takes!r} or the model's own tensors, not both")
    return InferRequest(identity, tensors, raw, _wanted(request.get("outputs")))


def _wanted(outputs: object) -> tuple[str, ...] | None:
    if outputs is None or outputs == []:
        return None
    if not isinstance(outputs, list) or not all(
        isinstance(o, dict) and isinstance(o.get("name"), str) for o in outputs
    ):
        raise InputError("'outputs' must be a list of objects with a 'name'")
    names = tuple(entry["name"] for entry in outputs)
    if len(set(names)) != len(names):
        raise InputError("'outputs' names an output twice")
    return names


def _shape(name: str, entry: Mapping[str, Any]) -> tuple[int, ...]:
    shape = entry.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int and 0 <= size < 1 << 31 for size in shape):
        raise InputError(f"input {name!r}: 'shape' must be a list of whole numbers")
    if not 1 <= len(shape) <= _MAX_RANK:
        raise InputError(f"input {name!r}: 'shape' must have 1 to {_MAX_RANK} sizes, not {len(shape)}")
    return tuple(shape)


def _flat(name: str, entry: Mapping[str, Any], shape: Sequence[int]) -> list[Any]:
    data = entry.get("data")
    if not isinstance(data, list):
        raise InputError(f"input {name!r}: 'data' must be a list")
    for _ in shape[1:]:
        if not data or not isinstance(data[0], list):
            break
        if not all(isinstance(row, list) for row in data):
            raise InputError(f"input {name!r}: 'data' is nested unevenly")
        data = [value for row in data for value in row]
    if len(data) != math.prod(shape):
        raise InputError(f"input {name!r}: shape {list(shape)} needs {math.prod(shape)} values, 'data' has {len(data)}")
    return data


def _raw(name: str, entry: Mapping[str, Any]) -> tuple[str | bytes, ...]:
    if entry.get("datatype") != "BYTES":
        raise InputError(f"input {name!r} must have datatype BYTES, not {str(entry.get('datatype'))[:40]!r}")
    shape = _shape(name, entry)
    if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise InputError(f"input {name!r} must have shape [n] or [n, 1], not {list(shape)}")
    data = _flat(name, entry, shape)
    if not all(isinstance(value, str) for value in data):
        raise InputError(f"input {name!r}: 'data' must hold texts")
    if not 1 <= len(data) <= MAX_BATCH:
        raise InputError(f"input {name!r} has a batch of {len(data)}; 1 to {MAX_BATCH} are taken")
    return tuple(data) if name == TEXT else tuple(_file(name, value) for value in data)


def _file(name: str, coded: str) -> bytes:
    try:
        return base64.b64decode(coded, validate=True)
    except ValueError as error:
        raise InputError(f"{name!r} must hold files in base64: {error}") from error


def _tensor(name: str, entry: Mapping[str, Any]) -> npt.NDArray[Any]:
    dtype = _DTYPES.get(str(entry.get("datatype")))
    if dtype is None:
        given = str(entry.get("datatype"))[:40]
        raise InputError(f"input {name!r}: datatype {given!r} is not one of {', '.join(_DTYPES)}")
    shape = _shape(name, entry)
    data = _flat(name, entry, shape)
    wanted = (int, float) if dtype.kind == "f" else (bool,) if dtype.kind == "b" else (int,)
    for value in data:
        if type(value) not in wanted:
            raise InputError(f"input {name!r}: {str(value)[:40]!r} is not a value of datatype {entry['datatype']}")
    if dtype.kind in "iu" and data and not np.iinfo(dtype).min <= min(data) <= max(data) <= np.iinfo(dtype).max:
        raise InputError(f"input {name!r}: a value does not fit datatype {entry['datatype']}")
    try:
        with np.errstate(over="ignore"):
            return np.array(data, dtype).reshape(shape)
    except (OverflowError, ValueError) as error:
        raise InputError(f"input {name!r}: a value does not fit datatype {entry['datatype']}") from error


def answer_infer(request: InferRequest, engine: Engine) -> dict[str, Any]:
    """Run the request; the JSON object of the answer."""
    if request.raw is not None:
        arrays = engine.outputs_of([np.concatenate([engine.preprocess(one)[0] for one in request.raw])])
    else:
        arrays = engine.infer(request.tensors)
    outputs = [_output(name, "FP32", array.shape, array.ravel().tolist()) for name, array in arrays.items()]
    if engine.bundle.labels:
        best = [engine.rank(row, 1) for row in arrays[engine.outputs[0].name]]
        outputs.append(_output(LABEL, "BYTES", (len(best),), [one.label for one in best]))
        outputs.append(_output(SCORE, "FP32", (len(best),), [one.score for one in best]))
    if request.outputs is not None:
        by_name = {output["name"]: output for output in outputs}
        if unknown := [name for name in request.outputs if name not in by_name]:
            raise InputError(f"there is no output {unknown[0]!r}; the outputs are: {', '.join(by_name)}")
        outputs = [by_name[name] for name in request.outputs]
    answer = {"model_name": engine.bundle.name, "model_version": engine.bundle.version, "outputs": outputs}
    return answer if request.id is None else {**answer, "id": request.id}


def _output(name: str, datatype: str, shape: Sequence[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


def model_metadata(engine: Engine) -> dict[str, Any]:
    """``GET /v2/models/NAME``. The raw input stands beside the tensor that it is turned into."""
    inputs = [_described(spec, _DATATYPES[spec.dtype]) for spec in engine.inputs]
    outputs = [_described(spec, "FP32") for spec in engine.outputs]
    if preprocess := engine.bundle.preprocess:
        parameters = {"instead_of": inputs[0]["name"], "media_types": list(preprocess.media_types)}
        inputs.append({"name": preprocess.media, "datatype": "BYTES", "shape": [-1], "parameters": parameters})
    if engine.bundle.labels:
        outputs.append({"name": LABEL, "datatype": "BYTES", "shape": [-1]})
        outputs.append({"name": SCORE, "datatype": "FP32", "shape": [-1]})
    return {
        "name": engine.bundle.name,
        "versions": [engine.bundle.version],
        "platform": f"edgekd_{engine.backend.name}",
        "inputs": inputs,
        "outputs": outputs,
        "parameters": {"precision": engine.bundle.precision, "labels": list(engine.bundle.labels)},
    }


def _described(spec: TensorSpec, datatype: str) -> dict[str, Any]:
    # An integer input is offered as FP32 when it has a scale: the engine quantises.
    shown = "FP32" if spec.scale else datatype
    return {"name": spec.name, "datatype": shown, "shape": [-1, *spec.shape[1:]]}


class ClassifyRequest(NamedTuple):
    """Raw inputs, texts or files. ``is_list``: the client sent a list and gets one back. ``top_k``: labels for each."""

    raw: Sequence[str | bytes]
    is_list: bool = False
    top_k: int = 3


def parse_classify(body: bytes, content_type: str, takes: str | None = TEXT) -> ClassifyRequest:
    """The body of ``:classify`` for a model that ``takes`` text, image, audio or nothing raw.

    The text itself as ``text/plain``, a file as ``image/…`` or ``audio/…``, or JSON: ``{"text": "…" or ["…"], "top_k":
    3}``, where files, under ``image`` or ``audio``, are in base64. Raises ``InputError``.
    """
    kind = content_type.split(";")[0].strip().lower()
    if kind == "text/plain" and takes in (TEXT, None):
        try:
            return ClassifyRequest([body.decode()])
        except UnicodeDecodeError as error:
            raise InputError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    if kind.startswith(_RAW_KINDS):
        if not kind.startswith(f"{takes}/"):
            raise MediaTypeError(f"the model takes {takes or 'tensors'}, not {kind[:40]!r}")
        return ClassifyRequest([body])
    return _classify_json(parse_json(body), takes or TEXT)


def _classify_json(request: dict[str, Any], name: str) -> ClassifyRequest:
    if unknown := request.keys() - {name, "top_k"}:
        raise InputError(f"unknown field {sorted(unknown)[0]!r}; the fields are {name!r} and 'top_k'")
    raw, top_k = request.get(name), request.get("top_k", 3)
    if type(top_k) is not int or not 1 <= top_k <= 1000:
        raise InputError("'top_k' must be a whole number from 1 to 1000")
    is_list = isinstance(raw, list)
    several: list[Any] = raw if isinstance(raw, list) else [raw]
    if not 1 <= len(several) <= MAX_BATCH or not all(isinstance(one, str) for one in several):
        raise InputError(f"{name!r} must be a text or a list of 1 to {MAX_BATCH} texts")
    return ClassifyRequest(several if name == TEXT else [_file(name, one) for one in several], is_list, top_k)


class ClassifyWriter:
    """Writes the JSON answers of ``:classify``, as the server and ``infer --json`` both give them.

    What does not depend on the request is encoded once: for a small model, encoding it anew would cost more than
    running the model.
    """

    def __init__(self, engine: Engine) -> None:
        bundle = engine.bundle
        self._engine = engine
        self._head = encode({"model_name": bundle.name, "model_version": bundle.version})[1:-1]
        self._labels = {label: encode(label) for label in bundle.labels}
        self._answers = {label: encode(dict(answers)) for label, answers in bundle.answers.items()}

    def __call__(self, request: ClassifyRequest) -> str:
        """One result, or ``results`` when a list was asked. Raises ``InputError``."""
        results = [self.result(one, request.top_k) for one in request.raw]
        if request.is_list:
            return f'{{{self._head},"results":[{",".join(f"{{{result}}}" for result in results)}]}}'
        return f"{{{self._head},{results[0]}}}"

    def result(self, raw: str | bytes, top_k: int) -> str:
        """The members of one raw input's JSON object, without the braces. Raises ``InputError``."""
        top, in_scope, answers = self._engine.classify(raw, top_k)
        labels = self._labels
        best, score = top[0]
        listed = ",".join([f'{{"label":{labels[label]},"score":{score!r}}}' for label, score in top])
        known = "true" if in_scope else "false"
        head = f'"label":{labels[best]},"score":{score!r},"in_scope":{known},"labels":[{listed}]'
        if not self._answers:
            return head
        return f'{head},"answers":{self._answers[best] if answers else "{}"}'
