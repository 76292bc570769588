"""Open Inference Protocol v2 (KServe), JSON form: what the bytes of a request mean, and those of an answer.

https://github.com/kserve/open-inference-protocol/blob/main/specification/protocol/inference_rest.md
A model that preprocesses text takes one input more than its tensors, ``text`` (BYTES), and a model with labels gives
two outputs more, ``label`` (BYTES) and ``score`` (FP32).
"""

from __future__ import annotations

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
from edgekd_runtime.errors import InputError

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
_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class InferRequest:
    """``texts`` is given instead of ``tensors`` when the client sends raw text. ``outputs``: asked for, or all."""

    id: str | None
    tensors: Arrays
    texts: tuple[str, ...] | None
    outputs: tuple[str, ...] | None


encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


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
    texts: tuple[str, ...] | None = None
    for entry in inputs:
        name = entry.get("name")
        if not isinstance(name, str):
            raise InputError("every input needs a 'name'")
        if name in tensors or (name == TEXT and texts is not None):
            raise InputError(f"input {name!r} is given twice")
        if name == TEXT and engine.takes_text:
            texts = _texts(entry)
        else:
            tensors[name] = _tensor(name, entry)
    if texts is not None and tensors:
        raise InputError(f"send either {TEXT!r} or the model's own tensors, not both")
    return InferRequest(identity, tensors, texts, _wanted(request.get("outputs")))


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


def _texts(entry: Mapping[str, Any]) -> tuple[str, ...]:
    if entry.get("datatype") != "BYTES":
        raise InputError(f"input {TEXT!r} must have datatype BYTES, not {str(entry.get('datatype'))[:40]!r}")
    shape = _shape(TEXT, entry)
    if len(shape) > 2 or (len(shape) == 2 and shape[1] != 1):
        raise InputError(f"input {TEXT!r} must have shape [n] or [n, 1], not {list(shape)}")
    data = _flat(TEXT, entry, shape)
    if not all(isinstance(value, str) for value in data):
        raise InputError(f"input {TEXT!r}: 'data' must hold texts")
    if not 1 <= len(data) <= MAX_BATCH:
        raise InputError(f"input {TEXT!r} has a batch of {len(data)}; 1 to {MAX_BATCH} are taken")
    return tuple(data)


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
    if request.texts is not None:
        rows = [engine.invoke(engine.preprocess(text)) for text in request.texts]
        arrays = {
            spec.name: spec.dequantize(np.concatenate([row[k] for row in rows]))
            for k, spec in enumerate(engine.outputs)
        }
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
    """``GET /v2/models/NAME``. The raw ``text`` input stands beside the tensor that it is turned into."""
    inputs = [_described(spec, _DATATYPES[spec.dtype]) for spec in engine.inputs]
    outputs = [_described(spec, "FP32") for spec in engine.outputs]
    if engine.takes_text:
        inputs.append(
            {"name": TEXT, "datatype": "BYTES", "shape": [-1], "parameters": {"instead_of": inputs[0]["name"]}}
        )
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


_CLASSIFY_FIELDS = {"text", "top_k"}


class ClassifyRequest(NamedTuple):
    """``is_list``: the client sent a list and gets one back. ``top_k``: how many labels to give for each text."""

    texts: list[str]
    is_list: bool = False
    top_k: int = 3


def parse_classify(body: bytes, content_type: str) -> ClassifyRequest:
    """The body of ``:classify``: the text itself as ``text/plain``, else JSON, ``{"text": "…" or ["…"], "top_k": 3}``.

    Raises ``InputError``.
    """
    if content_type.split(";")[0].strip().lower() == "text/plain":
        try:
            return ClassifyRequest([body.decode()])
        except UnicodeDecodeError as error:
            raise InputError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    request = parse_json(body)
    if unknown := request.keys() - _CLASSIFY_FIELDS:
        raise InputError(f"unknown field {sorted(unknown)[0]!r}; the fields are 'text' and 'top_k'")
    text, top_k = request.get("text"), request.get("top_k", 3)
    if type(top_k) is not int or not 1 <= top_k <= 1000:
        raise InputError("'top_k' must be a whole number from 1 to 1000")
    if isinstance(text, str):
        return ClassifyRequest([text], False, top_k)
    if isinstance(text, list) and 1 <= len(text) <= MAX_BATCH and all(isinstance(one, str) for one in text):
        return ClassifyRequest(text, True, top_k)
    raise InputError(f"'text' must be a text or a list of 1 to {MAX_BATCH} texts")


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
        results = [self.result(text, request.top_k) for text in request.texts]
        if request.is_list:
            return f'{{{self._head},"results":[{",".join(f"{{{result}}}" for result in results)}]}}'
        return f"{{{self._head},{results[0]}}}"

    def result(self, text: str, top_k: int) -> str:
        """The members of one text's JSON object, without the braces. Raises ``InputError``."""
        top, in_scope, answers = self._engine.classify(text, top_k)
        labels = self._labels
        best, score = top[0]
        listed = ",".join([f'{{"label":{labels[label]},"score":{score!r}}}' for label, score in top])
        known = "true" if in_scope else "false"
        head = f'"label":{labels[best]},"score":{score!r},"in_scope":{known},"labels":[{listed}]'
        if not self._answers:
            return head
        return f'{head},"answers":{self._answers[best] if answers else "{}"}'
