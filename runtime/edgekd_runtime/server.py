"""The HTTP surface: Open Inference Protocol v2 and ``:classify``, as plain functions and as a Starlette application."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgekd_runtime import __version__, errors, wire
from edgekd_runtime.engine import Engine

DEFAULT_MAX_BODY_BYTES = 1 << 20

Reply = tuple[int, bytes]
"""HTTP status and JSON body."""
Post = Callable[[bytes, str], Reply]
"""Answers the body and content type of one POST; never raises."""

_log = logging.getLogger("edgekd_runtime")

_STATUS: dict[type[Exception], int] = {
    errors.ModelNotFoundError: 404,
    errors.BodyTooLargeError: 413,
    errors.MediaTypeError: 415,
    errors.InputError: 400,
    errors.RuntimeFault: 500,
}


def posts(engines: Mapping[str, Engine]) -> dict[str, Post]:
    """Path → what answers a POST to it, for every loaded model."""
    table: dict[str, Post] = {}
    for name, engine in engines.items():
        base = f"/v2/models/{name}"
        classify = partial(_classify, wire.ClassifyWriter(engine), engine.takes)
        table[f"/v1/models/{name}:classify"] = partial(_answer, classify, name)
        infer = partial(_answer, partial(_infer, engine), name)
        table[f"{base}/infer"] = table[f"{base}/versions/{engine.bundle.version}/infer"] = infer
    return table


def _answer(call: Callable[[bytes, str], str], name: str, body: bytes, content_type: str) -> Reply:
    try:
        return 200, call(body, content_type).encode("utf-8", "replace")
    except errors.RuntimeFault as fault:
        return fault_reply(fault)
    except Exception:
        _log.exception("model %s failed on a request", name)
        return 500, _json({"error": "the server failed on this request; its log says why"})


def _infer(engine: Engine, body: bytes, content_type: str) -> str:
    return wire.encode(wire.answer_infer(wire.parse_infer(body, engine), engine))


def _classify(write: wire.ClassifyWriter, takes: str | None, body: bytes, content_type: str) -> str:
    return write(wire.parse_classify(body, content_type, takes))


def _json(content: dict[str, Any]) -> bytes:
    return wire.encode(content).encode("utf-8", "replace")


def fault_reply(fault: errors.RuntimeFault) -> Reply:
    """A fault as the client sees it."""
    status = next(status for kind, status in _STATUS.items() if isinstance(fault, kind))
    return status, _json({"error": str(fault)})


def too_large(limit: int) -> errors.BodyTooLargeError:
    """The fault for a body of more than ``limit`` bytes."""
    return errors.BodyTooLargeError(f"the body has more than {limit} bytes, which is the most that is taken")


def create_app(engines: Mapping[str, Engine], *, max_body_bytes: int = DEFAULT_MAX_BODY_BYTES) -> Starlette:
    """The ASGI application that serves ``engines`` (model name → engine)."""
    api = _Api(engines, max_body_bytes)
    routes = [
        Route("/v1/models/{model}:classify", api.post, methods=["POST"]),
        Route("/v2", api.server_metadata),
        Route("/v2/health/live", api.live),
        Route("/v2/health/ready", api.ready),
    ]
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes += [
            Route(base, api.metadata),
            Route(base + "/ready", api.model_ready),
            Route(base + "/infer", api.post, methods=["POST"]),
        ]
    handlers = {errors.RuntimeFault: _fault, HTTPException: _http_error, ClientDisconnect: _gone}
    return Starlette(routes=routes, exception_handlers=handlers)


class _Api:
    """Handlers run the model inline: at tens of microseconds an invoke is cheaper than a thread switch."""

    def __init__(self, engines: Mapping[str, Engine], max_body_bytes: int) -> None:
        self._engines = engines
        self._posts = posts(engines)
        self._max_body_bytes = max_body_bytes

    async def server_metadata(self, request: Request) -> Response:
        return JSONResponse({"name": "edgekd-runtime", "version": __version__, "extensions": []})

    async def live(self, request: Request) -> Response:
        return JSONResponse({"live": True})

    async def ready(self, request: Request) -> Response:
        return JSONResponse({"ready": True})

    async def metadata(self, request: Request) -> Response:
        return JSONResponse(wire.model_metadata(self._engine(request)))

    async def model_ready(self, request: Request) -> Response:
        return JSONResponse({"name": self._engine(request).bundle.name, "ready": True})

    async def post(self, request: Request) -> Response:
        self._engine(request)
        answer = self._posts[request.scope["path"]]
        body = await self._body(request)
        status, content = answer(body, request.headers.get("content-type", ""))
        return Response(content, status, media_type="application/json")

    def _engine(self, request: Request) -> Engine:
        name, version = request.path_params["model"], request.path_params.get("version")
        engine = self._engines.get(name)
        if engine is None:
            raise errors.ModelNotFoundError(f"there is no model {name!r} here; loaded: {', '.join(self._engines)}")
        if version not in (None, engine.bundle.version):
            raise errors.ModelNotFoundError(
                f"model {name!r} has no version {version!r} here; loaded: {engine.bundle.version}"
            )
        return engine

    async def _body(self, request: Request) -> bytes:
        """The body, read no further than the limit, whatever its headers claim."""
        declared = request.headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            raise too_large(self._max_body_bytes)
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > self._max_body_bytes:
                raise too_large(self._max_body_bytes)
        return bytes(body)


async def _fault(request: Request, fault: Exception) -> Response:
    assert isinstance(fault, errors.RuntimeFault)
    status, content = fault_reply(fault)
    # What is left of a refused body stays unread, so nothing can follow it on this connection.
    headers = {"connection": "close"} if status == 413 else None
    return Response(content, status, headers, media_type="application/json")


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)  # nobody reads it


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: "there is nothing at this path", 405: "this path does not take that method"}
    message = what.get(error.status_code, error.detail)
    return JSONResponse({"error": message}, status_code=error.status_code, headers=error.headers)
