"""The short way from socket to model, on a real socket: what it must ask before it answers."""

from __future__ import annotations

from http.client import HTTPConnection

import pytest
from tests.runtime.listen import LIMIT, listening

from edgekd_runtime import api
from edgekd_runtime.engine import Engine
from edgekd_runtime.reply import Headers, Reply, error_reply
from edgekd_runtime.routes import Site


@pytest.fixture
def site(engine: Engine) -> Site:
    return Site({"m": engine}, api.ROUTES)


def ask(connection: HTTPConnection, body: bytes, **headers: str) -> tuple[int, str | None]:
    """(status, the header x-seen of the answer)."""
    connection.request("POST", "/v1/models/m:classify", body, {"Content-Type": "text/plain", **headers})
    response = connection.getresponse()
    response.read()
    return response.status, response.headers["x-seen"]


def test_guards_are_asked_every_time_also_for_heads_that_are_known(site: Site) -> None:
    asked: list[str | None] = []

    def every_third(headers: Headers, path: str, client: str | None) -> Reply | None:
        assert path == "/v1/models/m:classify"
        asked.append(client)
        return error_reply(429, "too many", (("x-seen", headers["x-who"]),)) if len(asked) % 3 == 0 else None

    with listening(site, [every_third]) as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        got = [ask(connection, b"hello", **{"X-Who": "me"}) for _ in range(7)]
        connection.close()
    assert got == [(200, None), (200, None), (429, "me")] * 2 + [(200, None)]
    assert asked == ["127.0.0.1"] * 7


def test_a_refused_client_is_told_before_its_body_is_read(site: Site) -> None:
    with listening(site, [lambda headers, path, client: error_reply(401, "no")]) as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        connection.putrequest("POST", "/v1/models/m:classify")
        connection.putheader("Content-Length", str(LIMIT))
        connection.endheaders()
        response = connection.getresponse()
        assert (response.status, response.headers["connection"]) == (401, "close")
        connection.close()


def test_a_model_that_is_swapped_answers_the_next_request(site: Site, engine: Engine) -> None:
    with listening(site) as port:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        assert [ask(connection, b"hello")[0] for _ in range(3)] == [200] * 3
        site.remove("m")
        assert ask(connection, b"hello")[0] == 404
        site.add("m", engine, site.lane_for("m", engine))
        assert ask(connection, b"hello")[0] == 200
        connection.close()
