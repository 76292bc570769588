"""The application in this process: several models, statuses, and failures that nobody foresaw."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest

from edgekd_runtime import api, errors, reply
from edgekd_runtime.bundle import Bundle
from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import RuntimeFault
from edgekd_runtime.reply import Headers, Reply, error_reply
from edgekd_runtime.routes import Site
from edgekd_runtime.server import DISCARDED_BYTES, Application

LIMIT = 2000


@pytest.fixture(scope="module")
def app(engine: Engine, int8_dense: bytes, float_add: Callable[[int], bytes]) -> Application:
    dense = Engine(Bundle("dense", int8_dense, "int8", {"in": "x"}, {"out": "y"}, version="7"))
    add = Engine(Bundle("add.v1-b", float_add(1), "float32", {"a": "a", "b": "b"}, {"c": "c"}))
    engines = {one.bundle.name: one for one in (engine, dense, add)}
    return Application(Site(engines, api.ROUTES), max_body_bytes=LIMIT)


def ask(app: Application, method: str, path: str, **options: Any) -> httpx.Response:
    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(go())


def error_of(response: httpx.Response, status: int) -> str:
    assert response.status_code == status
    assert set(response.json()) == {"error"}
    message: str = response.json()["error"]
    assert "\n" not in message
    return message


def dense_input(data: list[Any]) -> dict[str, Any]:
    return {"inputs": [{"name": "in", "datatype": "FP32", "shape": [1, 4], "data": data}]}


def test_models_stand_side_by_side(app: Application, bundle: Bundle) -> None:
    got = ask(app, "POST", "/v2/models/dense/versions/7/infer", json=dense_input([1, 2, -1, 0.5])).json()
    assert got["outputs"] == [{"name": "out", "datatype": "FP32", "shape": [1, 3], "data": [4, 1, 3]}]
    for name in ("dense", "add.v1-b", bundle.name):
        assert ask(app, "GET", f"/v2/models/{name}").json()["name"] == name
    assert f"loaded: {bundle.name}, dense, add.v1-b" in error_of(ask(app, "GET", "/v2/models/none"), 404)
    assert "no version '1' here; loaded: 7" in error_of(ask(app, "GET", "/v2/models/dense/versions/1"), 404)


def test_classify_needs_a_model_that_takes_text(app: Application) -> None:
    response = ask(app, "POST", "/v1/models/dense:classify", json={"text": "hello"})
    assert "does not take raw text" in error_of(response, 400)


def test_405_names_the_methods_that_work(app: Application) -> None:
    response = ask(app, "GET", "/v2/models/dense/infer")
    error_of(response, 405)
    assert response.headers["allow"] == "POST"


@pytest.mark.parametrize("path", ["/v2/models/", "/v2/models/dense/versions/", "/v1/models/:classify", "/v2/models//x"])
def test_half_a_path(app: Application, path: str) -> None:
    error_of(ask(app, "GET", path), 404)


@pytest.mark.parametrize("name", ["%0A", "a%0Ab", "%00", "%F0%9F%98%80", "%ff"])
def test_odd_model_names_are_quoted_in_one_line(app: Application, name: str) -> None:
    error_of(ask(app, "GET", f"/v2/models/{name}"), 404)


def test_body_limit_is_exact(app: Application) -> None:
    path, good = "/v2/models/dense/infer", json.dumps(dense_input([0, 0, 0, 0])).encode()
    assert ask(app, "POST", path, content=good.ljust(LIMIT)).status_code == 200
    response = ask(app, "POST", path, content=good.ljust(LIMIT + 1))
    assert str(LIMIT) in error_of(response, 413)
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize("declared", [None, "10", "-1", "many"])
def test_the_limit_holds_whatever_the_header_claims(app: Application, declared: str | None) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(2 * DISCARDED_BYTES // 5000):
            yield b" " * 5000
        pytest.fail("the server reads on and on")

    headers = {} if declared is None else {"content-length": declared}
    error_of(ask(app, "POST", "/v2/models/dense/infer", content=endless(), headers=headers), 413)


@pytest.mark.parametrize("path", ["/v2/models/none/infer", "/v1/models/none:classify"])
def test_an_unknown_model_is_told_before_the_body_is_read(app: Application, path: str) -> None:
    error_of(ask(app, "POST", path, content=b"x" * (LIMIT + 1)), 404)


def test_what_json_cannot_say_is_refused_not_failed_on(app: Application) -> None:
    # 3e38 + 3e38 overflows inside the model; Infinity is a word that other languages' JSON readers fail on.
    big = [{"name": name, "datatype": "FP32", "shape": [1, 4], "data": [3e38] * 4} for name in "ab"]
    error_of(ask(app, "POST", "/v2/models/add.v1-b/infer", json={"inputs": big}), 400)


def test_an_id_that_utf8_cannot_carry_does_no_harm(app: Application) -> None:
    raw = json.dumps({**dense_input([0, 0, 0, 0]), "id": "\ud800"})
    response = ask(app, "POST", "/v2/models/dense/infer", content=raw)
    assert response.status_code in (200, 400)
    assert isinstance(response.json(), dict)


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (errors.BackendError("no interpreter"), 500),
        (errors.InputError("no"), 400),
        (RuntimeError("secret detail\nof the machine"), 500),
    ],
)
def test_failures_while_answering(
    app: Application, engine: Engine, monkeypatch: pytest.MonkeyPatch, raised: Exception, status: int
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(Engine, "invoke", fail)
    message = error_of(ask(app, "POST", f"/v1/models/{engine.bundle.name}:classify", json={"text": "hello"}), status)
    assert "secret" not in message


def test_every_fault_has_a_status() -> None:
    def tree(kind: type[RuntimeFault]) -> list[type[RuntimeFault]]:
        return [kind, *(leaf for child in kind.__subclasses__() for leaf in tree(child))]

    for kind in tree(RuntimeFault):
        assert any(issubclass(kind, known) for known in reply.STATUS)
    # The table is searched in order: the root, which fits everything, must stand last.
    assert list(reply.STATUS)[-1] is RuntimeFault


def test_answers_go_out_in_their_own_languages(engine: Engine) -> None:
    bundle = replace(engine.bundle, threshold=None)
    bundle = replace(bundle, answers={label: {"en": "Yes.", "zh": "是的。"} for label in bundle.labels})
    response = ask(
        Application(Site({"m": Engine(bundle)}, api.ROUTES)),
        "POST",
        "/v1/models/m:classify",
        json={"text": "where is my order"},
    )
    assert "是的。".encode() in response.content  # as UTF-8, not as escapes
    assert response.json()["answers"] == {"en": "Yes.", "zh": "是的。"}


def test_guards_are_asked_first_and_in_order(app: Application, engine: Engine) -> None:
    asked: list[tuple[str, str]] = []

    def nosy(headers: Headers, path: str, client: str | None) -> None:
        asked.append((path, headers["x-who"]))

    def strict(headers: Headers, path: str, client: str | None) -> Reply | None:
        if client == "127.0.0.1" and headers["x-who"] == "friend, friend":
            return None
        return error_reply(401, "who are you?", (("www-authenticate", "Bearer"),))

    guarded = Application(Site({engine.bundle.name: engine}, api.ROUTES), guards=[nosy, strict])
    response = ask(guarded, "POST", "/no/such/path", content=b"x", headers={"X-Who": "foe"})
    assert error_of(response, 401) == "who are you?"
    assert response.headers["www-authenticate"] == "Bearer"
    twice = [("X-Who", "friend"), ("x-who", "friend")]
    assert ask(guarded, "GET", "/v2/health/live", headers=twice).json() == {"live": True}
    assert asked == [("/no/such/path", "foe"), ("/v2/health/live", "friend, friend")]


def test_head_is_a_get_without_its_body(app: Application) -> None:
    assert ask(app, "HEAD", "/v2/health/live").status_code == 200
    assert ask(app, "HEAD", "/v2/models/dense/infer").status_code == 405


def test_a_site_forgets_what_it_no_longer_serves(int8_dense: bytes) -> None:
    first, second = (
        Engine(Bundle("dense", int8_dense, "int8", {"in": "x"}, {"out": "y"}, version=version)) for version in "12"
    )
    site = Site({"dense": first}, api.ROUTES)
    site.add("dense", second, site.lane_for("dense", second))
    assert site.models == {"dense": second}
    assert isinstance(site.find("POST", "/v2/models/dense/versions/1/infer"), Reply)
    answer = site.find("GET", "/v2/models/dense/versions/2")
    assert not isinstance(answer, Reply)
    assert json.loads(answer.now(b"", {}).body)["versions"] == ["2"]
    site.remove("dense")
    missing = site.find("GET", "/v2/models/dense/versions/2")
    assert isinstance(missing, Reply)
    assert missing.status == 404
    assert b"loaded: none" in missing.body


@pytest.mark.parametrize(("limit", "size", "status"), [(LIMIT, LIMIT + 1, 413), (1 << 25, 17 << 20, 200)])
def test_a_compressed_body_has_the_limit_of_the_others(engine: Engine, limit: int, size: int, status: int) -> None:
    app = Application(Site({"m": engine}, api.ROUTES), max_body_bytes=limit)
    body = gzip.compress(b'{"text":"hi"}'.ljust(size))
    got = ask(app, "POST", "/v1/models/m:classify", content=body, headers={"content-encoding": "gzip"})
    assert got.status_code == status, got.text


@pytest.mark.parametrize("charset", ["utf-8", '"UTF-8"', "utf-16le", "UTF-16", "iso-8859-1", "gb18030", ""])
def test_a_text_may_name_its_charset(app: Application, bundle: Bundle, charset: str) -> None:
    text, kind = "wo ist mein Päckchen", f"text/plain; charset={charset}"
    path = f"/v1/models/{bundle.name}:classify"
    got = ask(app, "POST", path, content=text.encode(charset.strip('"') or "utf-8"), headers={"content-type": kind})
    assert got.json() == ask(app, "POST", path, json={"text": text}).json()


@pytest.mark.parametrize("charset", ["none", "idna", "hex", "punycode", "iso-8859-12", "é"])
def test_other_charsets_are_415(app: Application, bundle: Bundle, charset: str) -> None:
    headers = {"content-type": f"text/plain; charset={charset}".encode("latin-1")}
    got = ask(app, "POST", f"/v1/models/{bundle.name}:classify", content=b"abc", headers=headers)
    assert "take utf-8" in error_of(got, 415)
