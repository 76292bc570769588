"""What a model answers, in the Open Inference Protocol, in TensorFlow Serving's and by ``:classify``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from edgekd_runtime.engine import Engine
from edgekd_runtime.reply import Body, Headers, Post, Reply, json_reply
from edgekd_runtime.routes import AnyRoute, ModelRoute, Route, Site
from edgekd_runtime.wire import answers, classify, infer, jsonbody, metadata, raw, tfserving
from edgekd_runtime.wire.datatypes import BINARY_HEADER
from edgekd_runtime.wire.plain import PlainRequests


def constant(content: dict[str, object]) -> Post:
    """Answers always the same."""
    reply = json_reply(content)
    return lambda body, headers: reply


def _server_metadata(site: Site) -> Post:
    return constant(metadata.server())


def _metadata(site: Site, engine: Engine) -> Post:
    return constant(metadata.model(engine))


def _model_ready(site: Site, engine: Engine) -> Post:
    return constant({"name": engine.bundle.name, "ready": True})


def _config(site: Site, engine: Engine) -> Post:
    return constant(metadata.config(engine))


def _infer(site: Site, engine: Engine) -> Post:
    write = answers.InferWriter(engine)
    plain = PlainRequests(engine, write)

    def answer(body: Body, headers: Headers) -> Reply:
        head_length = headers.get(BINARY_HEADER)
        given = plain.answer(body, head_length) if head_length is not None else None
        return given or answers.reply(write(infer.parse(body, engine, head_length)))

    return answer


def _classify(site: Site, engine: Engine) -> Post:
    write, takes = classify.ClassifyWriter(engine), engine.takes

    def answer(body: Body, headers: Headers) -> Reply:
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


def _predict(site: Site, engine: Engine) -> Post:
    def answer(body: Body, headers: Headers) -> Reply:
        request = tfserving.parse_predict(body, headers.get("content-type", ""), engine)
        return json_reply(tfserving.predict(request, engine))

    return answer


def _status(site: Site, engine: Engine) -> Post:
    return constant(tfserving.status(engine))


def _signature(site: Site, engine: Engine) -> Post:
    return constant(tfserving.metadata(engine))


def _stats(site: Site, engine: Engine) -> Post:
    name, version = engine.bundle.name, engine.bundle.version
    return lambda body, headers: json_reply(metadata.statistics({name: (version, site.all_counts().inference[name])}))


def _all_stats(site: Site) -> Post:
    def answer(body: Body, headers: Headers) -> Reply:
        times = site.all_counts().inference
        versions = {name: engine.bundle.version for name, engine in site.models.items()}
        return json_reply(metadata.statistics({name: (version, times[name]) for name, version in versions.items()}))

    return answer


def _for_each(
    bases: Sequence[str],
    method: str,
    end: str,
    summary: str,
    make: Callable[[Site, Engine], Post],
    request: str | None = None,
    response: str = "application/json",
) -> Iterator[ModelRoute]:
    """With a version in the path and without."""
    for base in bases:
        yield ModelRoute(method, base + end, summary, make, request, response)


_OIP, _TF = (
    tuple(f"/{version}/models/{{model}}{end}" for end in ("", "/versions/{version}")) for version in ("v2", "v1")
)

ROUTES: tuple[AnyRoute, ...] = (
    Route("GET", "/v2", "Name, version and extensions of the server", _server_metadata, response="ServerMetadata"),
    Route("GET", "/v2/models/stats", "How often each model ran, and how long", _all_stats, response="ModelStatistics"),
    *_for_each(_OIP, "GET", "", "What the model takes and gives", _metadata, response="ModelMetadata"),
    *_for_each(_OIP, "GET", "/ready", "Whether the model takes requests", _model_ready, response="Ready"),
    *_for_each(_OIP, "GET", "/config", "The model's configuration in Triton's words", _config, response="ModelConfig"),
    *_for_each(_OIP, "GET", "/stats", "How often the model ran, and how long", _stats, response="ModelStatistics"),
    *_for_each(_OIP, "POST", "/infer", "Tensors in, tensors out", _infer, "InferRequest", "InferResponse"),
    *_for_each(_TF, "POST", ":classify", "Raw in, labels out", _classify, "ClassifyRequest", "ClassifyResponse"),
    *_for_each(_TF, "POST", ":predict", "Values in, values out", _predict, "PredictRequest", "PredictResponse"),
    *_for_each(_TF, "GET", "", "The state of the model", _status, response="ModelStatus"),
    *_for_each(_TF, "GET", "/metadata", "The model's signature", _signature, response="Signature"),
)
