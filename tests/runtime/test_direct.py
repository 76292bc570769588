"""The short way from socket to model, on a real socket: what it must ask before it answers."""

from __future__ import annotations

import itertools
import json
import random
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPResponse

import pytest
from tests.runtime.listen import LIMIT, listening

from edgekd_runtime import api, patience
from edgekd_runtime.engine import Engine
from edgekd_runtime.reply import Body, Headers, Reply, error_reply
from edgekd_runtime.routes import Limits, ModelRoute, Site


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


# --- what parsers let through, or keep ---


def told(port: int, *pieces: bytes, half: bool = False) -> bytes:
    """All that the server says until it hangs up, or a second after ``pieces``. ``half``: hang up on its ear."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        with suppress(ConnectionError):
            piecewise(sock, *pieces)
        if half:
            sock.shutdown(socket.SHUT_WR)
        sock.settimeout(30 if half else 1)
        said = b""
        with suppress(TimeoutError, ConnectionError):
            while got := sock.recv(1 << 16):
                said += got
        return said


def statuses(said: bytes) -> list[int]:
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d+)", said)]


both_parsers = pytest.mark.parametrize("fast", [True, False])
UPGRADE = HEAD.replace(b"Content-Type", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Type")
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: me\r\n\r\n"


def test_what_cannot_be_read_is_refused_once(site: Site) -> None:
    with listening(site) as port:
        assert statuses(told(port, b"POST /" + b"a" * 90_000 + b" HTTP/1.1\r\n\0" + b"b" * 70_000)) == [431]
        chunked = HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked")
        assert statuses(told(port, chunked + b"no size\r\n" + b"a" * 90_000)) == [400]


@both_parsers
def test_an_upgrade_is_ignored_and_no_body_is_taken_for_a_request(site: Site, fast: bool) -> None:
    request = UPGRADE % len(LIVE) + LIVE
    at = request.index(b"\r\n\r\n") + 4
    with listening(site, fast=fast) as port:
        expected = json.loads(told(port, HEAD % len(LIVE) + LIVE).split(b"\r\n\r\n")[1])
        for pieces in ([request], [request, request], [request[:at], request[at:]], [request[:90], request[90:]]):
            said = told(port, *pieces, LIVE)
            count = 1 + (pieces == [request, request])
            assert statuses(said) == [200] * (count + 1)
            assert json.loads(said.split(b"\r\n\r\n")[1].split(b"HTTP/1.1")[0]) == expected
            assert said.count(b'{"live":true}') == 1
        assert statuses(told(port, (request + LIVE) * 3)) == [200] * 6
        assert statuses(told(port, b"CONNECT me:80 HTTP/1.1\r\nHost: me\r\n\r\n" + LIVE))[0] in (400, 404)


def test_heads_and_trailers_have_an_end(site: Site) -> None:
    line = b"X-A: " + b"a" * 9000 + b"\r\n"
    chunked = HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked") + b"2\r\nhi\r\n0\r\n"
    with listening(site) as port:
        for start, more in (
            (HEAD[:-2] % 2, line),
            (b"GET /", b"a" * 9000),
            (chunked, line),
            (LIVE + b"GET / HTTP/1.1\r\nX-B: ", b"a" * 9000),
            (chunked[:-2] + b";", b"a" * 9000),
        ):
            for pieces in ([start, *[more] * 10], [start + more * 10]):
                said = told(port, *pieces)
                assert statuses(said)[-1:] == [431], (start, len(pieces), said)
                assert b"connection: close" in said
        long = b"GET /v2/health/live HTTP/1.1\r\nHost: me\r\n" + line * 6 + b"\r\n"
        assert statuses(told(port, long + long[:9] + b"", long[9:])) == [200, 200]
        assert statuses(told(port, HEAD.replace(b"\r\n\r\n", b"\r\n" + line * 6 + b"\r\n") % 2 + b"hi")) == [200]


def test_trailers_are_no_headers(site: Site) -> None:
    path = b"/v1/models/none:classify"  # through ASGI
    seen: list[Headers] = []

    def guard(headers: Headers, path: str, client: str | None) -> None:
        seen.append(headers)

    head = b"POST %b HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: chunked\r\n\r\n" % path
    with listening(site, [guard]) as port:
        assert statuses(told(port, head + b"2\r\nhi\r\n0\r\nX-Late: 1\r\n\r\n")) == [404]
    assert "x-late" not in seen[0]


class Slow:
    """A model in a lane, that answers when it may."""

    def __init__(self, engine: Engine) -> None:
        self.may_answer = threading.Event()
        route = ModelRoute("POST", "/v1/models/{model}:classify", "", lambda site, engine: self._answer)
        self.site = Site({"m": engine}, [route], Limits(inline_us=0, alone_us=0))

    def _answer(self, body: Body, headers: Headers) -> Reply:
        assert self.may_answer.wait(30)
        return Reply(200, b"{}")


@pytest.fixture
def slow(engine: Engine) -> Iterator[Slow]:
    made = Slow(engine)
    yield made
    made.may_answer.set()
    made.site.close()


def test_no_old_timer_ends_a_request_that_is_being_answered(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "REQUEST_S", 0.5)
    with listening(slow.site) as port:
        slow.may_answer.set()
        assert statuses(told(port, HEAD % 2 + b"hi")) == [200]  # from now on the head is known
        slow.may_answer.clear()
        threading.Timer(1, slow.may_answer.set).start()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(HEAD % 2 + b"hi")
            assert answers(sock, 1) == [(200, None)]


def test_empty_lines_are_no_request(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends nothing else is hung up on as one that sends nothing."""
    with listening(site) as port:
        assert statuses(told(port, b"\r\n" + LIVE + b"\r\n", b"\r\n" + LIVE)) == [200, 200]
    monkeypatch.setattr(patience, "REQUEST_S", 0.5)
    with listening(site) as port, socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(b"\r\n")
        assert sock.recv(1) == b""


def test_requests_far_ahead_of_their_answers_are_not_kept(site: Site) -> None:
    with listening(site) as port:
        assert statuses(told(port, LIVE * 60)) == [200] * 60
        with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
            sock.sendall(LIVE * 1000)  # in one piece, so that all are there before the first is answered
            said = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        assert 64 <= len(statuses(said)) < 1000
        assert set(statuses(said)) == {200}


@both_parsers
def test_who_has_said_all_still_gets_an_answer(slow: Slow, fast: bool) -> None:
    with listening(slow.site, fast=fast) as port:
        threading.Timer(0.3, slow.may_answer.set).start()
        said = told(port, HEAD % 2 + b"hi", half=True)
        assert statuses(said) == [200]
        assert b"connection: close" in said or not fast
        assert told(port, HEAD % 2 + b"h", half=True) == b""  # no request


@both_parsers
@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /v1/models/m:classify HTTP/1.1\r\nHost: me  \r\nContent-Length: 13\r\n", 200),
        (b"POST /v1/models/m:classify HTTP/1.1\r\nContent-Length: 13\r\n", 400),
        (b"GET /v2 HTTP/1.1\r\n", 400),
        (b"POST /v1/models/m:classify HTTP/1.0\r\nContent-Length: 13\r\n", 200),
        (b"POST /v1/models/m:classify HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 13\r\n", 200),
        (b"POST http://me/v1/models/m:classify HTTP/1.1\r\nHost: me\r\nContent-Length: 13\r\n", 200),
        (b"POST /v1/models/%6D:classify HTTP/1.1\r\nHost: me\r\nContent-Length: 13\r\n", 200),
        (b"POST /v2/repository/models/%6D/load HTTP/1.1\r\nHost: me\r\nContent-Length: 13\r\n", 400),
        (b"POST /v1/models/m:classify HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: gzip, chunked\r\n", 501),
        (b"POST /v1/models/none:classify HTTP/1.1\r\nHost: me\r\nTransfer-Encoding: gzip, chunked\r\n", 501),
        (b"NONSENSE\r\n", 400),
    ],
)
def test_odd_heads_are_answered_alike(site: Site, fast: bool, head: bytes, status: int) -> None:
    with listening(site, fast=fast) as port:
        said = told(port, head + b"\r\n" + (b'{"text":"hi"}' if b"Length" in head else b""))
    assert statuses(said) == [status if fast or status != 501 else 400]
    assert b"HTTP/1.0" not in head or b"connection: close" in said.lower()
    if status == 400:
        assert list(json.loads(said.partition(b"\r\n\r\n")[2])) == ["error"]


def test_a_path_is_decoded_before_its_model_is_looked_up(site: Site) -> None:
    with listening(site) as port:
        said = told(port, b"POST /v2/repository/models/%6D/load HTTP/1.1\r\nHost: me\r\nContent-Length: 0\r\n\r\n")
        assert b"does not load" in said
        said = told(port, b"POST /v1/models/n%20o:classify HTTP/1.1\r\nHost: me\r\nContent-Length: 0\r\n\r\n")
        assert b"'n o'" in said


def test_answers_have_a_date(site: Site) -> None:
    with listening(site) as port:
        said = told(port, HEAD % 2 + b"hi", HEAD % 2 + b"hi")
    assert len(re.findall(rb"\r\ndate: \w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT\r\n", said)) == 2
