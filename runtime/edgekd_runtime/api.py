"""All that the server answers: ``ROUTES``, and the handlers of health, metadata, inference and ``:classify``."""

from __future__ import annotations

from edgekd_runtime import __version__, wire
from edgekd_runtime.engine import Engine
from edgekd_runtime.reply import Headers, Post, Reply, json_reply
from edgekd_runtime.routes import AnyRoute, ModelRoute, Route, Site


def _constant(content: dict[str, object]) -> Post:
    reply = json_reply(content)
    return lambda body, headers: reply


def _live(site: Site) -> Post:
    return _constant({"live": True})


def _ready(site: Site) -> Post:
    return _constant({"ready": True})


def _server_metadata(site: Site) -> Post:
    return _constant({"name": "edgekd-runtime", "version": __version__, "extensions": []})


def _metadata(engine: Engine) -> Post:
    return _constant(wire.model_metadata(engine))


def _model_ready(engine: Engine) -> Post:
    return _constant({"name": engine.bundle.name, "ready": True})


def _infer(engine: Engine) -> Post:
    def answer(body: bytes, headers: Headers) -> Reply:
        return json_reply(wire.answer_infer(wire.parse_infer(body, engine), engine))

    return answer


def _classify(engine: Engine) -> Post:
    write, takes = wire.ClassifyWriter(engine), engine.takes

    def answer(body: bytes, headers: Headers) -> Reply:
        request = wire.parse_classify(body, headers.get("content-type", ""), takes)
        return Reply(200, write(request).encode("utf-8", "replace"))

    return answer


_BASES = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")

ROUTES: tuple[AnyRoute, ...] = (
    Route("GET", "/v2", "Name and version of the server", _server_metadata),
    Route("GET", "/v2/health/live", "Whether the server runs", _live),
    Route("GET", "/v2/health/ready", "Whether the server takes requests", _ready),
    *(ModelRoute("GET", base, "What the model takes and gives", _metadata) for base in _BASES),
    *(ModelRoute("GET", base + "/ready", "Whether the model takes requests", _model_ready) for base in _BASES),
    *(ModelRoute("POST", base + "/infer", "Tensors in, tensors out", _infer) for base in _BASES),
    ModelRoute("POST", "/v1/models/{model}:classify", "A text, picture or sound in, labels out", _classify),
)
