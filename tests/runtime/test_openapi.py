"""The OpenAPI document says what the routes are, and the server's answers are what it says."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from tests.runtime.live import Live, live

from edgekd_runtime import api, openapi
from edgekd_runtime.engine import Engine
from edgekd_runtime.reply import Reply
from edgekd_runtime.wire.schemas import SCHEMAS

DOCUMENT = openapi.document(api.ROUTES)
TEXT = "where is my order"


def validator(name: str) -> Any:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed (extra 'dev')")
    return jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": SCHEMAS}})


def test_is_valid() -> None:
    validate = pytest.importorskip("openapi_spec_validator", reason="not installed (extra 'dev')").validate
    validate(json.loads(json.dumps(DOCUMENT)))


def test_says_every_route_and_no_other() -> None:
    said = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert said == {(route.method, route.path) for route in api.ROUTES}
    operations = [one for methods in DOCUMENT["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in operations}) == len(operations)


def test_names_what_there_is() -> None:
    for route in api.ROUTES:
        for name in filter(None, (route.request, route.response)):
            assert name in SCHEMAS or "/" in name, route.path
    used = json.dumps(DOCUMENT)
    assert [name for name in SCHEMAS if f'"#/components/schemas/{name}"' not in used] == []


@pytest.fixture(scope="module")
def server(dense: Engine, add: Engine, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live({one.bundle.name: one for one in (dense, add, engine)}, tmp_path_factory.mktemp("api")) as started:
        yield started


@pytest.fixture(scope="module")
def ask(server: Live) -> Callable[..., Any]:
    def ask(method: str, path: str, content: object = None) -> Any:
        found = server.site.find(method, path)
        reply = found if isinstance(found, Reply) else found.now(json.dumps(content).encode(), {})
        return reply.status, json.loads(reply.body)

    return ask


def numbers(name: str, values: list[float]) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": [1, len(values)], "data": values}


INFER: dict[str, Any] = {"inputs": [numbers("in", [1, 2, 3, 4])], "id": "x", "outputs": [{"name": "out"}]}
B64 = {"b64": base64.b64encode(TEXT.encode()).decode()}
REQUESTS: list[tuple[str, str, object]] = [
    ("dense", "/infer", INFER),
    ("dense", "/infer", {**INFER, "outputs": [{"name": "out", "parameters": {"classification": 2}}]}),
    ("dense", "/infer", {**INFER, "parameters": {"other": 1}}),
    ("add", "/infer", {"inputs": [numbers("a", [0] * 4), numbers("b", [0] * 4)]}),
    ("customer-service", "/infer", {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": [TEXT]}]}),
    ("customer-service", ":classify", {"text": TEXT}),
    ("customer-service", ":classify", {"text": [TEXT], "top_k": 2}),
    ("customer-service", ":classify", {"examples": [{"text": TEXT}], "signature_name": ""}),
    ("customer-service", ":predict", {"instances": [TEXT]}),
    ("customer-service", ":predict", {"instances": [B64]}),
    ("customer-service", ":predict", {"inputs": [TEXT]}),
    ("dense", ":predict", {"instances": [[1, 2, 3, 4]], "signature_name": "serving_default"}),
    ("add", ":predict", {"inputs": {"a": [[0] * 4], "b": [[0] * 4]}}),
]


@pytest.mark.parametrize(("model", "end", "request_"), REQUESTS)
def test_good_requests_and_their_answers_fit(ask: Any, model: str, end: str, request_: object) -> None:
    base = "/v2/models/" if end == "/infer" else "/v1/models/"
    route = next(one for one in api.ROUTES if one.path == f"{base}{{model}}{end}" and one.method == "POST")
    assert route.request is not None
    validator(route.request).validate(request_)
    status, answer = ask("POST", f"{base}{model}{end}", request_)
    assert status == 200, answer
    validator(route.response).validate(answer)


@pytest.mark.parametrize("model", ["dense", "customer-service"])
def test_all_that_is_told_fits(ask: Any, model: str) -> None:
    for route in api.ROUTES:
        if route.method == "GET" and route.response in SCHEMAS and "{version}" not in route.path:
            status, answer = ask("GET", route.path.format(model=model))
            assert status == 200
            validator(route.response).validate(answer)
    status, answer = ask("GET", "/v2/models/nobody")
    assert status == 404
    validator("Error").validate(answer)


@pytest.mark.parametrize(
    ("name", "request_"),
    [
        ("InferRequest", {}),
        ("InferRequest", {"inputs": []}),
        ("InferRequest", {"inputs": [{"name": "in", "datatype": "INT4", "shape": [1]}]}),
        ("InferRequest", {"inputs": [{"name": "in", "datatype": "INT8", "shape": []}]}),
        ("ClassifyRequest", {"text": 7}),
        ("ClassifyRequest", {"text": "a", "top_k": 1001}),
        ("ClassifyRequest", {"text": ["a"] * 65}),
        ("PredictRequest", {}),
        ("PredictRequest", {"instances": []}),
        ("PredictRequest", {"instances": [1], "signature_name": "x"}),
    ],
)
def test_what_does_not_fit_is_refused_too(ask: Any, name: str, request_: dict[str, Any]) -> None:
    assert not validator(name).is_valid(request_)
    path = {
        "InferRequest": "/v2/models/dense/infer",
        "ClassifyRequest": "/v1/models/customer-service:classify",
        "PredictRequest": "/v1/models/dense:predict",
    }[name]
    assert ask("POST", path, request_)[0] == 400


def test_is_served(ask: Any) -> None:
    status, document = ask("GET", "/openapi.json")
    assert status == 200
    assert document["openapi"].startswith("3.1")
    assert document["paths"].keys() == DOCUMENT["paths"].keys()


def test_statistics_count_the_runs(ask: Any, dense: Engine) -> None:
    path = "/v2/models/dense/stats"
    before = ask("GET", path)[1]["model_stats"][0]["inference_count"]
    dense.infer({"in": np.zeros((3, 4), np.float32)})
    after = ask("GET", path)[1]["model_stats"][0]
    assert after["inference_count"] == before + 3
    assert after["inference_stats"]["compute_infer"]["ns"] > 0


def test_statistics_of_all_models(ask: Any) -> None:
    stats = ask("GET", "/v2/models/stats")[1]["model_stats"]
    assert [one["name"] for one in stats] == ["dense", "add", "customer-service"]
    assert stats[0] == ask("GET", "/v2/models/dense/stats")[1]["model_stats"][0]


def test_json_without_a_schema_is_an_object(ask: Any) -> None:
    for route in api.ROUTES:
        if route.response == "application/json":
            assert isinstance(ask("GET", route.path)[1], dict)
            content = DOCUMENT["paths"][route.path]["get"]["responses"]["200"]["content"]
            assert content == {"application/json": {"schema": {"type": "object"}}}


def test_who_is_not_ready_says_so_as_declared(ask: Any, server: Live) -> None:
    server.site.is_draining = True
    try:
        for path in ("/healthz", "/v2/health/ready"):
            responses = DOCUMENT["paths"][path]["get"]["responses"]
            status, answer = ask("GET", path)
            assert (status, answer) == (503, {"ready": False})
            refs = [one["$ref"] for one in responses["503"]["content"]["application/json"]["schema"]["anyOf"]]
            assert refs == ["#/components/schemas/Ready", "#/components/schemas/Error"]
    finally:
        server.site.is_draining = False
