"""All that the server answers, ``ROUTES``, and the handlers of what is no model's: health and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from edgekd_runtime import metrics, openapi, protocols, repository_api
from edgekd_runtime.engine import Engine
from edgekd_runtime.page import ROUTES as PAGE_ROUTES
from edgekd_runtime.reply import Body, Headers, Post, Reply, json_reply
from edgekd_runtime.routes import AnyRoute, Route, Site

_Value = TypeVar("_Value")


def _live(site: Site) -> Post:
    return protocols.constant({"live": True})


def _ready(site: Site) -> Post:
    def answer(body: Body, headers: Headers) -> Reply:
        is_ready = not site.is_draining
        return json_reply({"ready": is_ready}, 200 if is_ready else 503)

    return answer


def _metrics(site: Site) -> Post:
    return lambda body, headers: Reply(200, page(site), metrics.CONTENT_TYPE)


def page(site: Site) -> bytes:
    """All that the server counts."""
    out, all_counts = metrics.Page(), site.all_counts()
    models: list[tuple[metrics.Labels, float]] = [(_info(engine), 1) for engine in site.models.values()]
    out.family("edgekd_model_info", "gauge", "Models that are loaded.", models)
    out.family(
        "edgekd_requests_total",
        "counter",
        "Requests to a model, by the status of their answers.",
        [
            ({"model": name, "code": str(status)}, count)
            for name, statuses in all_counts.statuses.items()
            for status, count in sorted(statuses.items())
        ],
    )
    out.histograms("edgekd_request_seconds", "From a request's last byte to its answer.", _by_model(all_counts.taken))
    out.histograms("edgekd_inference_seconds", "In the interpreter.", _by_model(all_counts.inference))
    what = "Requests that wait for a large model's threads"
    out.family("edgekd_queue_depth", "gauge", what + ".", _by_model(all_counts.waiting))
    out.family("edgekd_queue_limit", "gauge", what + ", at most.", _by_model(all_counts.limit))
    out.family("edgekd_server_processes", "gauge", "Processes that serve.", [({}, all_counts.processes)])
    out.process(all_counts.resident_bytes, all_counts.cpu_s)
    return out.encoded()


def _by_model(values: Mapping[str, _Value]) -> list[tuple[metrics.Labels, _Value]]:
    return [({"model": name}, value) for name, value in values.items()]


def _info(engine: Engine) -> dict[str, str]:
    return {
        "model": engine.bundle.name,
        "version": engine.bundle.version,
        "precision": engine.bundle.precision,
        "sha256": engine.model_sha256,
        "backend": f"{engine.backend.name} {engine.backend.version}",
        "threads": str(engine.threads),
        "workers": str(len(engine.pool)),
    }


ROUTES: tuple[AnyRoute, ...] = (
    Route("GET", "/v2/health/live", "Whether the server runs", _live, response="Live"),
    Route("GET", "/healthz", "Whether the server takes requests", _ready, response="Ready"),
    Route("GET", "/metrics", "Counters for Prometheus", _metrics, response="text/plain"),
    Route("GET", "/v2/health/ready", "Whether the server takes requests", _ready, response="Ready"),
    *protocols.ROUTES,
    *repository_api.ROUTES,
    *openapi.ROUTES,
    *PAGE_ROUTES,
)
