"""JSON Schemas (2020-12) of what is asked and answered, for the OpenAPI document. Limits come from who keeps them."""

from __future__ import annotations

from typing import Any

from edgekd_runtime.engine import MAX_BATCH
from edgekd_runtime.wire.classify import MAX_TOP_K
from edgekd_runtime.wire.datatypes import BYTES, DTYPES
from edgekd_runtime.wire.infer import OUTPUT_DATATYPES
from edgekd_runtime.wire.tensors import MAX_NAME, MAX_RANK

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_OBJECT: Schema = {"type": "object"}
_SIZE: Schema = {"type": "integer", "minimum": 0, "maximum": (1 << 31) - 1}
_DATATYPE: Schema = {"enum": [*DTYPES, BYTES]}
_PROBABILITY: Schema = {"type": "number"}


def _object(required: dict[str, Schema], optional: dict[str, Schema] | None = None, *, closed: bool = False) -> Schema:
    schema = {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}
    return {**schema, "additionalProperties": False} if closed else schema


def _list(of: Schema, **limits: int) -> Schema:
    return {"type": "array", "items": of, **limits}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_SHAPE = _list(_SIZE, minItems=1, maxItems=MAX_RANK)
_DESCRIBED = _list(
    _object({"name": _TEXT, "datatype": _DATATYPE, "shape": _list({"type": "integer"})}, {"parameters": _OBJECT})
)
_BASE64: Schema = {**_object({"b64": {**_TEXT, "contentEncoding": "base64"}}, closed=True), "title": "Binary value"}
_RAW: Schema = {
    "oneOf": [_TEXT, _list(_TEXT, minItems=1, maxItems=MAX_BATCH)],
    "description": "a text; a file in base64; or several",
}
_SIGNATURE: Schema = {"enum": ["serving_default", ""], "description": "the one signature that there is"}
_ROWS = _list(_ref("Value"), minItems=1, maxItems=MAX_BATCH)
_TOP_K: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_TOP_K, "default": 3}
_LABELS = _list(_object({"label": _TEXT, "score": _PROBABILITY}))
_RESULT: dict[str, Schema] = {"label": _TEXT, "score": _PROBABILITY, "in_scope": {"type": "boolean"}, "labels": _LABELS}
_ANSWERS: Schema = {"type": "object", "additionalProperties": _TEXT, "description": "language → text"}
_MODEL: dict[str, Schema] = {"model_name": _TEXT, "model_version": _TEXT}
_ENTRY = _object({"name": _TEXT, "state": {"enum": ["READY", "UNAVAILABLE"]}}, {"version": _TEXT, "reason": _TEXT})

SCHEMAS: dict[str, Schema] = {
    "Error": {**_object({"error": _TEXT}), "description": "one line: what, where, and how to mend it"},
    "Live": _object({"live": {"type": "boolean"}}),
    "Ready": _object({"ready": {"type": "boolean"}}, {"name": _TEXT}),
    "ServerMetadata": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
    "ModelMetadata": _object(
        {"name": _TEXT, "versions": _list(_TEXT), "platform": _TEXT, "inputs": _DESCRIBED, "outputs": _DESCRIBED},
        {"parameters": _OBJECT},
    ),
    "ModelConfig": _object(
        {"name": _TEXT, "platform": _TEXT, "backend": _TEXT, "max_batch_size": {"type": "integer"}},
        {"input": _list(_OBJECT), "output": _list(_OBJECT)},
    ),
    "ModelStatistics": _object({"model_stats": _list(_object({"name": _TEXT, "version": _TEXT}))}),
    "InputTensor": _object(
        {"name": {**_TEXT, "maxLength": MAX_NAME}, "datatype": _DATATYPE, "shape": _SHAPE},
        {
            "data": {"type": "array", "description": "values in C order, flat or nested as the shape is"},
            "parameters": _object({}, {"binary_data_size": {"type": "integer", "minimum": 0}}),
        },
    ),
    "RequestedOutput": _object(
        {"name": _TEXT},
        {
            "parameters": _object(
                {},
                {
                    "binary_data": {"type": "boolean"},
                    "classification": {**_SIZE, "description": "so many best classes instead of the tensor"},
                    "datatype": {"enum": list(OUTPUT_DATATYPES)},
                },
            )
        },
    ),
    "InferRequest": _object(
        {"inputs": _list(_ref("InputTensor"), minItems=1)},
        {
            "id": _TEXT,
            "outputs": _list(_ref("RequestedOutput")),
            "parameters": _object({}, {"binary_data_output": {"type": "boolean"}}),
        },
    ),
    "InferResponse": _object({**_MODEL, "outputs": _list(_ref("OutputTensor"))}, {"id": _TEXT}),
    "OutputTensor": _object(
        {"name": _TEXT, "datatype": _DATATYPE, "shape": _list(_SIZE)},
        {"data": {"type": "array"}, "parameters": _object({}, {"binary_data_size": {"type": "integer"}})},
    ),
    "ClassifyRequest": {
        "oneOf": [
            *(_object({kind: _RAW}, {"top_k": _TOP_K}, closed=True) for kind in ("text", "image", "audio")),
            _ref("ClassifyExamples"),
        ]
    },
    "ClassifyExamples": {
        **_object(
            {"examples": _list(_OBJECT, minItems=1, maxItems=MAX_BATCH)},
            {"context": _OBJECT, "signature_name": _SIGNATURE},
        ),
        "description": "TensorFlow Serving's own form; answered in its own form too",
    },
    "ClassifyResponse": {
        "anyOf": [
            _object({**_MODEL, **_RESULT}, {"answers": _ANSWERS}),
            _object({**_MODEL, "results": _list(_object(_RESULT, {"answers": _ANSWERS}))}),
            _object({"results": _list(_list(_list({"type": ["string", "number"]}, minItems=2, maxItems=2)))}),
        ]
    },
    "Value": {"anyOf": [{"type": ["number", "boolean", "string", "array", "object"]}, _BASE64]},
    "PredictRequest": {
        "oneOf": [
            _object(
                {"instances": _list(_ref("Value"), minItems=1, maxItems=MAX_BATCH)}, {"signature_name": _SIGNATURE}
            ),
            _object({"inputs": {"type": ["array", "object"]}}, {"signature_name": _SIGNATURE}),
        ]
    },
    "PredictResponse": {
        "oneOf": [_object({"predictions": {"type": "array"}}), _object({"outputs": {"type": ["array", "object"]}})]
    },
    "ModelStatus": _object(
        {"model_version_status": _list(_object({"version": _TEXT, "state": _TEXT, "status": _OBJECT}))}
    ),
    "Signature": _object({"model_spec": _OBJECT, "metadata": _OBJECT}),
    "IndexRequest": _object({}, {"ready": {"type": "boolean", "default": False}}, closed=True),
    "Index": _list(_ENTRY),
    "RepositoryRequest": _object({}, {"parameters": _OBJECT}, closed=True),
    "Entry": _ENTRY,
}
