"""What a model answers, in the Open Inference Protocol, in TensorFlow Serving's and by ``:classify``."""

from __future__ import annotations

from edgekd_runtime.engine import Engine
from edgekd_runtime.reply import Headers, Post, Reply, json_reply
from edgekd_runtime.routes import AnyRoute, ModelRoute, Route, Site
from edgekd_runtime.wire import classify, infer, jsonbody, metadata, raw, tfserving
from edgekd_runtime.wire.datatypes import BINARY_HEADER


def constant(content: dict[str, object]) -> Post:
    """Answers always the same."""
    reply = json_reply(content)
    return lambda body, headers: reply


def _server_metadata(site: Site) -> Post:
    return constant(metadata.server())


def _metadata(engine: Engine) -> Post:
    return constant(metadata.model(engine))


def _model_ready(engine: Engine) -> Post:
    return constant({"name": engine.bundle.name, "ready": True})


def _config(engine: Engine) -> Post:
    return constant(metadata.config(engine))


def _infer(engine: Engine) -> Post:
    def answer(body: bytes, headers: Headers) -> Reply:
        request = infer.parse(body, engine, headers.get(BINARY_HEADER))
        head, binary, is_binary = infer.answer(request, engine)
        if not is_binary:
            return Reply(200, head)
        return Reply(200, head + binary, "application/octet-stream", ((BINARY_HEADER, str(len(head))),))

    return answer


def _classify(engine: Engine) -> Post:
    write, takes = classify.ClassifyWriter(engine), engine.takes

    def answer(body: bytes, headers: Headers) -> Reply:
        whole = raw.of_body(body, headers.get("content-type", ""), takes)
        if whole is None:
            request = jsonbody.parse(body)
            if "examples" in request:
                return json_reply(tfserving.classify(request, engine))
            text = write(classify.parse(request, takes))
        else:
            text = write(classify.ClassifyRequest([whole]))
        return Reply(200, text.encode("utf-8", "replace"))

    return answer


def _predict(engine: Engine) -> Post:
    def answer(body: bytes, headers: Headers) -> Reply:
        request = tfserving.parse_predict(body, headers.get("content-type", ""), engine)
        return json_reply(tfserving.predict(request, engine))

    return answer


def _status(engine: Engine) -> Post:
    return constant(tfserving.status(engine))


def _signature(engine: Engine) -> Post:
    return constant(tfserving.metadata(engine))


_OIP, _TF = (
    tuple(f"/{version}/models/{{model}}{end}" for end in ("", "/versions/{version}")) for version in ("v2", "v1")
)

ROUTES: tuple[AnyRoute, ...] = (
    Route("GET", "/v2", "Name, version and extensions of the server", _server_metadata),
    *(ModelRoute("GET", base, "What the model takes and gives", _metadata) for base in _OIP),
    *(ModelRoute("GET", base + "/ready", "Whether the model takes requests", _model_ready) for base in _OIP),
    *(ModelRoute("GET", base + "/config", "The model's configuration in Triton's words", _config) for base in _OIP),
    *(ModelRoute("POST", base + "/infer", "Tensors in, tensors out", _infer) for base in _OIP),
    *(ModelRoute("POST", base + ":classify", "A text, picture or sound in, labels out", _classify) for base in _TF),
    *(ModelRoute("POST", base + ":predict", "TensorFlow Serving: values in, values out", _predict) for base in _TF),
    *(ModelRoute("GET", base, "TensorFlow Serving: the state of the model", _status) for base in _TF),
    *(ModelRoute("GET", base + "/metadata", "TensorFlow Serving: the model's signature", _signature) for base in _TF),
)
