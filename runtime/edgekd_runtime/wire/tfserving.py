"""TensorFlow Serving's REST: https://www.tensorflow.org/tfx/serving/api_rest

``:predict`` gives the model's own output tensors, dequantised, as one signature ``serving_default`` would; its inputs
are the model's tensors or, in their place, what it preprocesses. A binary value is ``{"b64": "…"}``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy.typing as npt

from edgekd_runtime.backend import TensorSpec
from edgekd_runtime.engine import MAX_BATCH, Arrays, Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.reply import Body
from edgekd_runtime.wire import jsonbody, raw, tensors
from edgekd_runtime.wire.datatypes import BYTES, DTYPES
from edgekd_runtime.wire.infer import run
from edgekd_runtime.wire.metadata import datatype_of
from edgekd_runtime.wire.raw import TEXT

SIGNATURE = "serving_default"
_DTYPE_NAMES = {
    **{"FP16": "DT_HALF", "FP32": "DT_FLOAT", "FP64": "DT_DOUBLE", BYTES: "DT_STRING"},
    **{name: f"DT_{name}" for name in DTYPES if not name.startswith("FP")},
}


class PredictRequest(NamedTuple):
    """``raw``, texts or files, stands in place of ``arrays`` when it is sent. ``rows``: row format, else columnar."""

    arrays: Arrays
    raw: tuple[str | bytes, ...] | None
    rows: bool


def parse_predict(body: Body, content_type: str, engine: Engine) -> PredictRequest:
    """A text or file, or JSON with ``instances`` (rows) or ``inputs`` (columns). Raises ``InputError``."""
    whole = raw.of_body(body, content_type, engine.takes)
    if whole is not None:
        return PredictRequest({}, (whole,), True)
    request = jsonbody.parse(body)
    _check_signature(request)
    if ("instances" in request) == ("inputs" in request):
        raise InputError("send either 'instances' (row format) or 'inputs' (columnar format)")
    if "inputs" in request:
        given = request["inputs"]
        columns = given if isinstance(given, dict) and not _is_b64(given) else {_only_input(engine, given): given}
        return _request(columns, engine, rows=False)
    return _request(_columns(request["instances"], engine, "instances"), engine, rows=True)


def predict(request: PredictRequest, engine: Engine) -> dict[str, Any]:
    """Run it; the JSON object of the answer. A single output goes without its name. Raises ``InputError``."""
    outputs = {name: array.tolist() for name, array in engine.reals(run(engine, request.arrays, request.raw)).items()}
    only = next(iter(outputs.values())) if len(outputs) == 1 else None
    if not request.rows:
        return {"outputs": outputs if only is None else only}
    rows = [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]
    return {"predictions": rows if only is None else only}


def classify(request: dict[str, Any], engine: Engine) -> dict[str, Any]:
    """``:classify`` with ``examples``: for each, [label, score] of every label, best first. Raises ``InputError``."""
    _check_signature(request)
    context, examples = request.get("context", {}), request["examples"]
    if not isinstance(context, dict):
        raise InputError("'context' must be an object of features")
    if not isinstance(examples, list) or not all(isinstance(one, dict) for one in examples):
        raise InputError("'examples' must be a list of objects of features")
    columns = _columns([{**context, **one} for one in examples], engine, "examples")
    asked = _request(columns, engine, rows=True)
    if not engine.bundle.labels:
        raise InputError(f"model {engine.bundle.name!r} has no labels, so it cannot classify; use :predict")
    scores = engine.reals(run(engine, asked.arrays, asked.raw))[engine.outputs[0].name]
    return {"results": [engine.rank(row, len(engine.bundle.labels)).top for row in scores]}


def _check_signature(request: dict[str, Any]) -> None:
    if request.get("signature_name", SIGNATURE) not in ("", SIGNATURE):
        raise InputError(f"there is no signature {str(request['signature_name'])[:80]!r}; there is {SIGNATURE!r} only")


def _columns(rows: object, engine: Engine, what: str) -> dict[str, Any]:
    """Rows of named values, or of values of the one input → input name → its values."""
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_BATCH:
        raise InputError(f"{what!r} must be a list of 1 to {MAX_BATCH} values")
    if not isinstance(rows[0], dict) or _is_b64(rows[0]):
        return {_only_input(engine, rows): rows}
    if not all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
        raise InputError(f"all {what!r} must have the same names")
    return {name: [row[name] for row in rows] for name in rows[0]}


def _is_b64(value: object) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _is_raw(values: object) -> bool:
    """Whether they are texts or files; by the first of them."""
    while isinstance(values, list) and values:
        values = values[0]
    return isinstance(values, str) or _is_b64(values)


def _only_input(engine: Engine, values: object) -> str:
    """The input that is meant when none is named: the raw one for texts and files, else the one tensor."""
    if engine.takes is not None and _is_raw(values):
        return engine.takes
    if len(engine.inputs) != 1:
        names = ", ".join(spec.name for spec in engine.inputs)
        raise InputError(f"the model has several inputs; name them: {names}")
    return engine.inputs[0].name


def _request(columns: dict[str, Any], engine: Engine, *, rows: bool) -> PredictRequest:
    specs = {spec.name: spec for spec in engine.inputs}
    if engine.takes in columns and (engine.takes not in specs or _is_raw(columns[engine.takes])):
        if len(columns) > 1:
            raise InputError(f"send either {engine.takes!r} or the model's own tensors, not both")
        return PredictRequest({}, _raw_column(engine.takes or TEXT, columns[engine.takes or TEXT]), rows)
    if unknown := [name for name in columns if name not in specs]:
        takes = [engine.takes] if engine.takes else []
        raise InputError(
            f"there is no input {unknown[0][:80]!r}; the model's inputs are: {', '.join([*specs, *takes])}"
        )
    return PredictRequest({name: _array(specs[name], values) for name, values in columns.items()}, None, rows)


def _raw_column(name: str, values: object) -> tuple[str | bytes, ...]:
    if not isinstance(values, list) or not 1 <= len(values) <= MAX_BATCH:
        raise InputError(f"input {name!r} must be a list of 1 to {MAX_BATCH} values")
    return tuple(_raw_value(name, value) for value in values)


def _raw_value(name: str, value: Any) -> str | bytes:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]  # of shape [n, 1]
    if name == TEXT and isinstance(value, str):
        return value
    if _is_b64(value) and isinstance(value["b64"], str):
        file = raw.file_of(name, value["b64"])
        return raw.decoded(repr(name), file) if name == TEXT else file
    raise InputError(f'input {name!r}: a value must be {"a text or " if name == TEXT else ""}{{"b64": "…"}}')


def _array(spec: TensorSpec, values: object) -> npt.NDArray[Any]:
    """Nested lists, all of one length at each depth → an array of the input's dtype."""
    where = f"input {spec.name!r}"
    if not isinstance(values, list):
        raise InputError(f"{where} must be a list")
    shape, flat = [len(values)], values
    while flat and isinstance(flat[0], list):
        width = len(flat[0])
        if not all(isinstance(row, list) and len(row) == width for row in flat):
            raise InputError(f"{where} is nested unevenly")
        shape.append(width)
        if len(shape) > tensors.MAX_RANK:
            raise InputError(f"{where} is nested deeper than {tensors.MAX_RANK} lists")
        flat = [value for row in flat for value in row]
    return tensors.numbers(where, flat, DTYPES[datatype_of(spec)]).reshape(shape)


def status(engine: Engine) -> dict[str, Any]:
    """``GET /v1/models/NAME``."""
    good = {"error_code": "OK", "error_message": ""}
    return {"model_version_status": [{"version": engine.bundle.version, "state": "AVAILABLE", "status": good}]}


def metadata(engine: Engine) -> dict[str, Any]:
    """``GET /v1/models/NAME/metadata``: a SignatureDef as JSON; 64-bit integers are texts there."""
    inputs = {spec.name: _tensor_info(spec.name, datatype_of(spec), spec.shape) for spec in engine.inputs}
    outputs = {spec.name: _tensor_info(spec.name, "FP32", spec.shape) for spec in engine.outputs}
    method = "tensorflow/serving/predict"
    signature = {"inputs": inputs, "outputs": outputs, "method_name": method}
    bundle = engine.bundle
    return {
        "model_spec": {"name": bundle.name, "signature_name": "", "version": bundle.version},
        "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
    }


def _tensor_info(name: str, datatype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    dims = [{"size": str(size), "name": ""} for size in (-1, *shape[1:])]
    return {"dtype": _DTYPE_NAMES[datatype], "tensor_shape": {"dim": dims, "unknown_rank": False}, "name": name}
