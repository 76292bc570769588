"""The OpenAPI 3.1 document, made from the table of routes and the schemas of the wire."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from edgekd_runtime import __version__
from edgekd_runtime.lanes import DEADLINE_HEADER
from edgekd_runtime.reply import Post, json_reply
from edgekd_runtime.routes import AnyRoute, ModelRoute, Route, Site
from edgekd_runtime.wire.datatypes import BINARY_HEADER
from edgekd_runtime.wire.schemas import SCHEMAS

_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_ANY_OBJECT: dict[str, Any] = {"schema": {"type": "object"}}
_PLAIN: dict[str, Any] = {"schema": {"type": "string"}}
_RAW = {"text/plain": _PLAIN, "image/*": _BINARY, "audio/wav": _BINARY}
# Beside JSON: OIP's binary tensors, and texts and files as they are.
_MORE_CONTENT: dict[str, dict[str, Any]] = {
    "InferRequest": {"application/octet-stream": _BINARY},
    "InferResponse": {"application/octet-stream": _BINARY},
    "ClassifyRequest": _RAW,
    "PredictRequest": _RAW,
}
_PARAMETERS = {
    "model": "The model's name",
    "version": "The version of it that is loaded",
    "name": "A model's name, whether loaded or not",
}


def document(routes: Iterable[AnyRoute]) -> dict[str, Any]:
    """All of ``routes``."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edgekd-runtime",
            "version": __version__,
            "description": "Models on this device: Open Inference Protocol v2, TensorFlow Serving's REST, :classify.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],  # only servers that others reach ask for it
    }


def _operation(route: AnyRoute) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": "_".join([route.method.lower(), *re.findall(r"\w+", route.path)]),
        "summary": route.summary,
        "responses": {
            "200": {"description": "Done", "content": _content(route.response)},
            "default": {"description": "Refused", "content": _content("Error")},
        },
    }
    if route.response == "Ready" and isinstance(route, Route):
        either = {"schema": {"anyOf": [_ref("Ready"), _ref("Error")]}}
        operation["responses"]["503"] = {"description": "It ends, or is full", "content": {"application/json": either}}
    parameters = [
        {"name": name, "in": "path", "required": True, "description": _PARAMETERS[name], "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    if route.method == "POST" and isinstance(route, ModelRoute):
        parameters.append(_header(DEADLINE_HEADER, "number", "Milliseconds after which no answer is wanted any more"))
        if route.request == "InferRequest":
            parameters.append(_header(BINARY_HEADER, "integer", "Bytes of JSON before the binary tensors"))
    if parameters:
        operation["parameters"] = parameters
    if route.request is not None:
        operation["requestBody"] = {
            "required": isinstance(route, ModelRoute),
            "content": _content(route.request),
        }
    return operation


def _header(name: str, kind: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": {"type": kind}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(name: str) -> dict[str, Any]:
    """Of a schema's name; or of a media type, for what has none."""
    if "/" in name:
        return {name: _ANY_OBJECT if name == "application/json" else _PLAIN}
    return {
        "application/json": {"schema": _ref(name)},
        **_MORE_CONTENT.get(name, {}),
    }


def _served(site: Site) -> Post:
    reply = json_reply(document(site.routes))
    return lambda body, headers: reply


ROUTES: tuple[AnyRoute, ...] = (Route("GET", "/openapi.json", "This document", _served, response="application/json"),)
