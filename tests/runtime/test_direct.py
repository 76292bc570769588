"""The short way from socket to model, on a real socket: what it must ask before it answers."""

from __future__ import annotations

import itertools
import json
import random
import socket
import time
from http.client import HTTPConnection, HTTPResponse

import pytest
from tests.runtime.listen import LIMIT, listening

from edgekd_runtime import api
from edgekd_runtime.engine import Engine
from edgekd_runtime.reply import Headers, Reply, error_reply
from edgekd_runtime.routes import Limits, Site


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


TEXT = b"where is my parcel?"
HEAD = (
    b"POST /v1/models/m:classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
)


def piecewise(sock: socket.socket, *pieces: bytes, pause_s: float = 0.02) -> None:
    for piece in pieces:
        sock.sendall(piece)
        time.sleep(pause_s)  # or the kernel may hand over two at once


def answers(sock: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Status and best label of each."""
    file = sock.makefile("rb")
    found = []
    for _ in range(count):
        status = int(file.readline().split()[1])
        lines = list(itertools.takewhile(lambda line: line.strip(), file))
        length = next(int(line.split(b":")[1]) for line in lines if line.lower().startswith(b"content-length"))
        found.append((status, json.loads(file.read(length)).get("label")))
    return found


@pytest.mark.parametrize("threads", [False, True])
def test_a_body_may_come_in_pieces_after_a_head_that_is_known(engine: Engine, threads: bool) -> None:
    site = Site({"m": engine}, api.ROUTES, Limits(inline_us=0 if threads else 1e9))
    request, next_one = HEAD % len(TEXT) + TEXT, HEAD % 2 + b"hi"
    at = len(request) - len(TEXT)
    with listening(site) as port, socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        piecewise(sock, request, next_one)
        expected, other = answers(sock, 2)
        assert expected[0] == other[0] == 200
        for cut in (at, at + 1, len(request) - 1):
            piecewise(sock, request[:cut], request[cut:])
            assert answers(sock, 1) == [expected]
        piecewise(sock, request[: at + 2], request[at + 2 : at + 4], request[at + 4 :] + next_one + request[:20])
        assert answers(sock, 2) == [expected, other]
        piecewise(sock, request[20:] + next_one[:-1], next_one[-1:] + request)
        assert answers(sock, 3) == [expected, other, expected]
    site.close()


@pytest.mark.parametrize("threads", [False, True])
def test_however_a_stream_is_cut_it_is_answered_alike(engine: Engine, threads: bool) -> None:
    site = Site({"m": engine}, api.ROUTES, Limits(inline_us=0 if threads else 1e9))
    texts = [b"hi", TEXT, TEXT * 100, b"", b"\r\n\r\n" + TEXT]
    sent = [HEAD % len(text) + text for text in texts] + [b"GET /v2/health/live HTTP/1.1\r\nHost: me\r\n\r\n"]
    chance = random.Random(0)
    with listening(site) as port:
        expected: dict[bytes, tuple[int, bytes]] = {}
        for request in sent:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
                sock.sendall(request)
                expected[request] = answers(sock, 1)[0]
        for _ in range(40):
            asked = chance.choices(sent, k=8)
            stream, at = b"".join(asked), 0
            with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while at < len(stream):
                    size = chance.choice([1, 7, 60, 110, 900, 5000])
                    piecewise(sock, stream[at : at + size], pause_s=0.0005)
                    at += size
                assert answers(sock, len(asked)) == [expected[request] for request in asked]
    site.close()


def test_guards_are_asked_before_the_rest_of_a_body_comes(site: Site) -> None:
    may = [True]

    def guard(headers: Headers, path: str, client: str | None) -> Reply | None:
        return None if may[0] else error_reply(401, "no")

    request = HEAD % len(TEXT) + TEXT
    with listening(site, [guard]) as port, socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(request)
        assert answers(sock, 1)[0][0] == 200
        may[0] = False
        sock.sendall(request[:-3])
        response = HTTPResponse(sock)
        response.begin()
        assert (response.status, response.headers["connection"]) == (401, "close")
