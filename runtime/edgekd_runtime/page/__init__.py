"""``GET /``: a page to try the models on, to watch the server, and to read what the bundles say of themselves.

One HTML file with its style and script inside; it asks nobody but this server. Its Content-Security-Policy lets nothing
else run, be loaded or asked (CSP level 3), and no other page frame it.
"""

from __future__ import annotations

import base64
import hashlib
import time
from math import prod
from pathlib import Path
from typing import Any

from edgekd_runtime import __version__
from edgekd_runtime.engine import Engine
from edgekd_runtime.histogram import BOUNDS_S, merged
from edgekd_runtime.reply import Body, Headers, Post, Reply, json_reply
from edgekd_runtime.routes import AnyRoute, Route, Site
from edgekd_runtime.wire import metadata

_SCRIPTS = ("words.js", "charts.js", "media.js", "server.js", "try.js", "app.js")
_MAX_EXAMPLES, _MAX_EXAMPLE_CHARS, _MAX_ZEROS = 16, 60, 4096


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text("utf-8")


def _source(text: str) -> str:
    """How a policy names an inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _reply() -> Reply:
    style, script = _read("style.css"), '"use strict";\n' + "\n".join(map(_read, _SCRIPTS))
    page = _read("index.html").replace("{{style}}", style).replace("{{script}}", script)
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; img-src blob: data:; "
        "media-src blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = (
        ("content-security-policy", policy),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-cache"),
    )
    return Reply(200, page.encode(), "text/html; charset=utf-8", headers)


def _index(site: Site) -> Post:
    made: list[Reply] = []  # read when it is first asked for: most servers never are

    def answer(body: Body, headers: Headers) -> Reply:
        if not made:
            made.append(_reply())
        return made[0]

    return answer


def _models(site: Site) -> Post:
    def answer(body: Body, headers: Headers) -> Reply:
        return json_reply({"version": __version__, "models": [_card(engine) for engine in site.models.values()]})

    return answer


def _card(engine: Engine) -> dict[str, Any]:
    """What the bundle says of itself, and where it runs."""
    bundle, preprocess, golden = engine.bundle, engine.bundle.preprocess, engine.bundle.golden
    described = metadata.model(engine)
    tensors = {spec.name for spec in (*engine.inputs, *engine.outputs)}
    inputs, outputs = (
        [{key: one[key] for key in ("name", "datatype", "shape")} for one in described[role] if one["name"] in tensors]
        for role in ("inputs", "outputs")
    )
    return {
        "name": bundle.name,
        "version": bundle.version,
        "precision": bundle.precision,
        "labels": list(bundle.labels),
        "threshold": bundle.threshold,
        "created_by": bundle.created_by,
        "signed_by": bundle.signed_by,
        "sha256": engine.model_sha256,
        "model_bytes": engine.model_bytes,
        "golden_samples": len(golden) if golden else 0,
        "takes": engine.takes,
        "media_types": list(preprocess.media_types) if preprocess else [],
        "texts": _examples(golden.texts if golden else ()),
        "inputs": inputs,
        "outputs": outputs,
        "example": {"inputs": [_zeros(one) for one in inputs]},
        "backend": f"{engine.backend.name} {engine.backend.version}",
        "xnnpack_ops": engine.backend.delegated_ops,
        "total_ops": engine.backend.total_ops,
    }


def _examples(texts: tuple[str, ...]) -> list[str]:
    """Of the golden texts some that are short, to click on."""
    return [text for text in dict.fromkeys(texts) if 0 < len(text.strip()) <= _MAX_EXAMPLE_CHARS][:_MAX_EXAMPLES]


def _zeros(tensor: dict[str, Any]) -> dict[str, Any]:
    """A request's entry to begin from; of what is too large to be edited without the data."""
    shape = [1, *tensor["shape"][1:]]
    return {**tensor, "shape": shape, "data": [0] * prod(shape) if prod(shape) <= _MAX_ZEROS else []}


def _live(site: Site) -> Post:
    started = time.monotonic()

    def answer(body: Body, headers: Headers) -> Reply:
        counted = site.all_counts()
        return json_reply(
            {
                "uptime_s": time.monotonic() - started,
                "models": {name: [one.bundle.version, one.model_sha256] for name, one in site.models.items()},
                "requests": sum(sum(statuses.values()) for statuses in counted.statuses.values()),
                "bounds_s": BOUNDS_S,
                "counts": merged(counted.taken.values()).counts,
                "resident_bytes": counted.resident_bytes,
            }
        )

    return answer


ROUTES: tuple[AnyRoute, ...] = (
    Route("GET", "/", "A page to try the models and watch the server", _index, response="text/html"),
    Route("GET", "/page/models.json", "What the page says of the models", _models, response="application/json"),
    Route("GET", "/page/live.json", "What the page draws", _live, response="application/json"),
)
