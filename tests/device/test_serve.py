"""``edgekd-runtime serve`` as a real process, over TCP and over a unix socket."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest

from edgekd_runtime.bundle import Bundle
from edgekd_runtime.client import AsyncClient, Client, ClientError, framed
from edgekd_runtime.engine import MAX_BATCH, Engine

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

TIMEOUT_S = 180
MAX_BODY = 32768
FAST = ("httptools", "uvloop", "orjson")
"""What the extra ``fast`` brings; without any of it the server must answer alike."""
JSON_TYPE = "application/json"


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


class Server:
    """A started server. ``announced`` is the line it printed once it was ready."""

    def __init__(self, log: Path, *arguments: str | Path, without: Sequence[str] = (), first: str = "") -> None:
        """``without``: modules that cannot be imported there, as on a machine that has no wheels of them.

        ``first``: a statement that the process is to begin with.
        """
        program = f"import sys; sys.modules.update(dict.fromkeys({list(without)})); from edgekd_runtime.cli import main"
        command = [sys.executable, "-c", f"{program}; {first or 'pass'}; main()", "serve", *map(str, arguments)]
        self._log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, cwd=log.parent)
        self.announced = self._first_line()
        found = re.search(r"on https?://127\.0\.0\.1:(\d+)", self.announced)
        assert found, self.announced
        self.port = int(found[1])

    def _first_line(self) -> str:
        out: IO[bytes] | None = self.process.stdout
        assert out is not None
        ready, _, _ = select.select([out], [], [], TIMEOUT_S)
        line = out.readline().decode() if ready else ""
        if not line.startswith("serving "):
            self.process.kill()
            self.process.wait()
            pytest.fail(f"the server did not come up within {TIMEOUT_S} s: {line!r} {self._log.read_text()}")
        return line

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()


def complaints(said: str) -> list[str]:
    """The lines of what a server said that are of more than passing interest.

    On 32-bit ARM every server warns at its start that tflite-runtime has no XNNPACK for int8.
    """
    passing = re.compile(r"\S+Z (info|warning XNNPACK runs no op of) ")
    return [line for line in said.splitlines() if not passing.match(line)]


@pytest.fixture(scope="module", params=[(), FAST], ids=["installed", "pure-python"])
def without(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """As pip installs it without the extra ``fast``, another HTTP parser answers."""
    modules: tuple[str, ...] = request.param
    return modules


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, without: tuple[str, ...]) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def server(bundle_path: Path, folder: Path, without: tuple[str, ...]) -> Iterator[Server]:
    arguments = ("--port", "0", "--uds", folder / "socket", "--ipc", folder / "ipc", "--max-body", str(MAX_BODY))
    server = Server(folder / "log", bundle_path, *arguments, without=without)
    yield server
    assert server.stop() == 0
    assert [line for line in complaints((folder / "log").read_text()) if "Invalid HTTP request" not in line] == []


@pytest.fixture(params=["tcp", "unix"])
def connection(request: pytest.FixtureRequest, server: Server, folder: Path) -> Iterator[http.client.HTTPConnection]:
    connection = server.connection() if request.param == "tcp" else UnixConnection(folder / "socket")
    yield connection
    connection.close()


@pytest.fixture
def tcp(server: Server) -> Iterator[http.client.HTTPConnection]:
    connection = server.connection()
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def text(bundle: Bundle) -> str:
    assert bundle.golden is not None
    return bundle.golden.texts[0]


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: object = None,
    content_type: str = JSON_TYPE,
) -> tuple[int, Any]:
    """(status, JSON of the answer). A body that is not bytes is sent as JSON."""
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection.request(method, path, raw, {"content-type": content_type} if raw is not None else {})
    response = connection.getresponse()
    assert response.headers["content-type"] == JSON_TYPE
    return response.status, json.loads(response.read())


def assert_error(answer: tuple[int, Any], status: int, *fragments: str) -> None:
    got, body = answer
    assert got == status, body
    assert set(body) == {"error"}
    assert body["error"].strip()
    assert "\n" not in body["error"]
    for fragment in fragments:
        assert fragment in body["error"]


def tensor(name: str, data: object, shape: list[int], datatype: str = "INT32") -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": datatype, "shape": shape, "data": data}]}


def text_input(*texts: str) -> dict[str, Any]:
    return tensor("text", list(texts), [len(texts)], "BYTES")


def outputs(body: dict[str, Any]) -> dict[str, Any]:
    return {output["name"]: output for output in body["outputs"]}


def test_announces_model_and_addresses(server: Server, bundle: Bundle, engine: Engine, folder: Path) -> None:
    assert f"{bundle.name} (int8, {engine.backend.name} " in server.announced
    assert f"XNNPACK runs {engine.backend.delegated_ops} of {engine.backend.total_ops} ops" in server.announced
    places = (f"http://127.0.0.1:{server.port}", f"unix:{folder / 'socket'}", f"ipc:{folder / 'ipc'}")
    assert server.announced.rstrip().endswith(f"on {' and '.join(places)}")


def test_only_this_user_and_group_reach_the_socket(server: Server, folder: Path) -> None:
    for name in ("socket", "ipc"):
        assert (folder / name).stat().st_mode & 0o777 == 0o660


def test_health(connection: http.client.HTTPConnection, bundle: Bundle) -> None:
    assert ask(connection, "GET", "/v2/health/live") == (200, {"live": True})
    assert ask(connection, "GET", "/v2/health/ready") == (200, {"ready": True})
    for path in (f"/v2/models/{bundle.name}/ready", f"/v2/models/{bundle.name}/versions/{bundle.version}/ready"):
        assert ask(connection, "GET", path) == (200, {"name": bundle.name, "ready": True})
    status, body = ask(connection, "GET", "/v2")
    assert (status, body["name"]) == (200, "edgekd-runtime")


def test_metadata(connection: http.client.HTTPConnection, bundle: Bundle, engine: Engine) -> None:
    status, body = ask(connection, "GET", f"/v2/models/{bundle.name}")
    assert status == 200
    assert (body["name"], body["versions"]) == (bundle.name, [bundle.version])
    spec, logits = engine.inputs[0], engine.outputs[0]
    inputs = {one["name"]: one for one in body["inputs"]}
    assert inputs[spec.name] == {"name": spec.name, "datatype": "INT32", "shape": [-1, *spec.shape[1:]]}
    assert (inputs["text"]["datatype"], inputs["text"]["shape"]) == ("BYTES", [-1])
    described = {one["name"]: (one["datatype"], one["shape"]) for one in body["outputs"]}
    assert described == {
        logits.name: ("FP32", [-1, len(bundle.labels)]),
        "label": ("BYTES", [-1]),
        "score": ("FP32", [-1]),
    }
    said = {"precision": "int8", "precision_note": bundle.precision_note, "labels": list(bundle.labels)}
    assert body["parameters"] == said
    assert ask(connection, "GET", f"/v2/models/{bundle.name}/versions/{bundle.version}") == (status, body)


def test_infer_from_text_and_from_ids_are_one(
    connection: http.client.HTTPConnection, bundle: Bundle, engine: Engine, text: str
) -> None:
    path = f"/v2/models/{bundle.name}/infer"
    status, from_text = ask(connection, "POST", path, {**text_input(text), "id": "42"})
    assert status == 200
    assert (from_text["model_name"], from_text["model_version"], from_text["id"]) == (
        bundle.name,
        bundle.version,
        "42",
    )
    ids = engine.preprocess(text)[0]
    status, from_ids = ask(
        connection, "POST", path, tensor(engine.inputs[0].name, ids.ravel().tolist(), list(ids.shape))
    )
    assert status == 200
    assert "id" not in from_ids
    assert from_ids["outputs"] == from_text["outputs"]
    logits = outputs(from_text)[engine.outputs[0].name]
    assert (logits["datatype"], logits["shape"]) == ("FP32", [1, len(bundle.labels)])
    assert bundle.labels[max(range(len(bundle.labels)), key=logits["data"].__getitem__)] == engine.classify(text).label
    assert outputs(from_text)["label"]["data"] == [engine.classify(text).label]
    versioned = f"/v2/models/{bundle.name}/versions/{bundle.version}/infer"
    assert ask(connection, "POST", versioned, text_input(text))[1]["outputs"] == from_text["outputs"]


def test_infer_takes_a_batch_and_gives_the_outputs_asked_for(
    tcp: http.client.HTTPConnection, bundle: Bundle, engine: Engine
) -> None:
    assert bundle.golden is not None
    texts = bundle.golden.texts[:3]
    request = {**text_input(*texts), "outputs": [{"name": "score"}, {"name": "label"}]}
    status, body = ask(tcp, "POST", f"/v2/models/{bundle.name}/infer", request)
    assert status == 200
    assert [output["name"] for output in body["outputs"]] == ["score", "label"]
    assert outputs(body)["label"]["data"] == [engine.classify(one).label for one in texts]
    assert outputs(body)["score"]["shape"] == [3]


def test_classify(connection: http.client.HTTPConnection, bundle: Bundle, engine: Engine, text: str) -> None:
    path = f"/v1/models/{bundle.name}:classify"
    expected = engine.classify(text)
    status, plain = ask(connection, "POST", path, text.encode(), "text/plain; charset=utf-8")
    assert status == 200
    assert (plain["model_name"], plain["model_version"]) == (bundle.name, bundle.version)
    assert (plain["label"], plain["in_scope"]) == (expected.label, expected.in_scope)
    assert plain["score"] == pytest.approx(expected.score, abs=0.02)
    assert [one["label"] for one in plain["labels"]][:1] == [expected.label]
    assert plain.get("answers", {}) == dict(expected.answers)
    assert ask(connection, "POST", path, {"text": text}) == (200, plain)
    status, listed = ask(connection, "POST", path, {"text": [text, "你好"], "top_k": 2})
    assert status == 200
    assert "label" not in listed
    assert [len(one["labels"]) for one in listed["results"]] == [2, 2]
    assert listed["results"][0]["label"] == expected.label
    assert listed["results"][1]["label"] == engine.classify("你好").label


def test_one_connection_carries_many_requests(tcp: http.client.HTTPConnection, bundle: Bundle, text: str) -> None:
    path = f"/v1/models/{bundle.name}:classify"
    first = ask(tcp, "POST", path, {"text": text})
    used = tcp.sock
    assert used is not None
    for _ in range(5):
        assert_error(ask(tcp, "POST", path, b"{"), 400)
        assert ask(tcp, "POST", path, {"text": text}) == first
    assert tcp.sock is used


def test_many_clients_at_once_get_their_own_answers(server: Server, bundle: Bundle, engine: Engine) -> None:
    assert bundle.golden is not None
    texts = bundle.golden.texts[:8]

    def client(k: int) -> list[str]:
        connection = server.connection()
        path = f"/v1/models/{bundle.name}:classify"
        mine = texts[k:] + texts[:k]
        labels = [ask(connection, "POST", path, {"text": one})[1]["label"] for one in mine]
        connection.close()
        return labels[len(texts) - k :] + labels[: len(texts) - k]

    expected = [engine.classify(one).label for one in texts]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(client, range(4))) == [expected] * 4


@pytest.mark.parametrize(
    ("method", "path", "status", "fragment"),
    [
        ("GET", "/v2/models/nobody", 404, "'nobody'"),
        ("GET", "/v2/models/nobody/ready", 404, "'nobody'"),
        ("POST", "/v2/models/nobody/infer", 404, "'nobody'"),
        ("POST", "/v1/models/nobody:classify", 404, "'nobody'"),
        ("GET", "/v2/models/{model}/versions/999", 404, "'999'"),
        ("GET", "/v2/models/{model}/versions/999/ready", 404, "'999'"),
        ("POST", "/v2/models/{model}/versions/999/infer", 404, "'999'"),
        ("GET", "/nothing", 404, "path"),
        ("GET", "/v2/models/{model}/nothing", 404, "path"),
        ("POST", "/v2/models/{model}/../../etc/passwd", 404, "path"),
        ("GET", "/v2/models/{model}/infer", 405, "method"),
        ("GET", "/v1/models/{model}:classify", 405, "method"),
        ("DELETE", "/v2/models/{model}", 405, "method"),
        ("POST", "/v2/health/live", 405, "method"),
    ],
)
def test_wrong_address(
    tcp: http.client.HTTPConnection, bundle: Bundle, method: str, path: str, status: int, fragment: str
) -> None:
    body = {} if method == "POST" else None
    assert_error(ask(tcp, method, path.format(model=bundle.name), body), status, fragment)


def bad_infer_bodies(name: str, length: int) -> dict[str, tuple[object, str]]:
    row = [0] * length
    return {
        "empty": (b"", "not JSON"),
        "broken JSON": (b'{"inputs": [', "line 1, column 13"),
        "not UTF-8": (b'{"id": "\xff"}', "UTF-8"),
        "a list": ([], "JSON object"),
        "deep": (b"[" * 20000, "JSON"),
        "NaN": (b'{"inputs": NaN}', "NaN"),
        "no inputs": ({}, "'inputs'"),
        "wrong shape": (tensor(name, [0] * (length - 1), [1, length - 1]), f"[-1, {length}]"),
        "no batch axis": (tensor(name, row, [length]), f"[-1, {length}]"),
        "wrong dtype": (tensor(name, row, [1, length], "FP32"), "int32, not float32"),
        "no such dtype": (tensor(name, row, [1, length], "INT4"), "'INT4'"),
        "wrong count": (tensor(name, row[1:], [1, length]), f"needs {length} values, 'data' has {length - 1}"),
        "a text as number": (tensor(name, ["0"] * length, [1, length]), "INT32"),
        "a bool as number": (tensor(name, [True] * length, [1, length]), "INT32"),
        "too large a number": (tensor(name, [2**31] * length, [1, length]), "does not fit"),
        "no such input": (tensor("nobody", row, [1, length]), name),
        "text and ids": ({"inputs": tensor(name, row, [1, length])["inputs"] + text_input("a")["inputs"]}, "not both"),
        "too large a batch": (text_input(*["a"] * (MAX_BATCH + 1)), f"1 to {MAX_BATCH}"),
        "empty text": (text_input(""), "empty"),
        "no such output": ({**text_input("a"), "outputs": [{"name": "nobody"}]}, "'nobody'"),
        "an id that is no bucket": (tensor(name, [1, 2**31 - 1, *row[2:]], [1, length]), ""),
    }


@pytest.mark.parametrize("fault", bad_infer_bodies("ids", 4))
def test_bad_infer_request(tcp: http.client.HTTPConnection, bundle: Bundle, engine: Engine, fault: str) -> None:
    spec = engine.inputs[0]
    body, fragment = bad_infer_bodies(spec.name, spec.shape[1])[fault]
    assert_error(ask(tcp, "POST", f"/v2/models/{bundle.name}/infer", body), 400, fragment)
    assert ask(tcp, "GET", "/v2/health/live")[0] == 200


@pytest.mark.parametrize(
    ("body", "content_type", "fragment"),
    [
        (b"", "text/plain", "empty"),
        (b"\xff\xfe", "text/plain", "UTF-8"),
        (b"hello", JSON_TYPE, "JSON"),
        (b"{}", JSON_TYPE, "'text'"),
        (b'{"text": []}', JSON_TYPE, "'text'"),
        (b'{"text": ["a", 1]}', JSON_TYPE, "'text'"),
        (b'{"text": "a", "top_k": 0}', JSON_TYPE, "'top_k'"),
        (b'{"text": "a", "topk": 1}', JSON_TYPE, "'topk'"),
        (b"x" * 5000, "text/plain", "characters"),
    ],
)
def test_bad_classify_request(
    tcp: http.client.HTTPConnection, bundle: Bundle, body: bytes, content_type: str, fragment: str
) -> None:
    assert_error(ask(tcp, "POST", f"/v1/models/{bundle.name}:classify", body, content_type), 400, fragment)


class RawConnection:
    """Sends bytes that http.client would not."""

    def __init__(self, server: Server) -> None:
        self.sock = socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S)
        self._file = self.sock.makefile("rb")

    def __enter__(self) -> RawConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self.sock.close()

    def send(self, head: str, body: bytes = b"") -> None:
        self.sock.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)

    def answer(self) -> tuple[int, Any, dict[str, str]]:
        """The next answer: (status, JSON, headers)."""
        status = int(self._file.readline().split()[1])
        lines = iter(lambda: self._file.readline().decode().rstrip("\r\n"), "")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = self._file.read(int(headers.get("content-length", "0")))
        return status, json.loads(body or b"null"), headers

    def closed(self) -> bool:
        return self._file.read(1) == b""


def raw_request(server: Server, head: str, body: bytes = b"") -> tuple[int, Any, bool]:
    """(status, JSON of the answer, was the connection closed after it)."""
    with RawConnection(server) as raw:
        raw.send(head, body)
        status, answer, headers = raw.answer()
        closes = headers.get("connection") == "close"
        return status, answer, closes and raw.closed()


def chunked(*chunks: bytes) -> bytes:
    return b"".join(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in (*chunks, b""))


def test_a_declared_body_too_large_is_refused_unread(server: Server, bundle: Bundle) -> None:
    head = f"POST /v1/models/{bundle.name}:classify HTTP/1.1\nHost: localhost\nContent-Length: {10**12}"
    status, body, closed = raw_request(server, head)
    assert_error((status, body), 413, str(MAX_BODY))
    assert closed


def test_a_chunked_body_too_large_is_refused_on_the_way(server: Server, bundle: Bundle) -> None:
    head = f"POST /v2/models/{bundle.name}/infer HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked"
    endless = chunked(b"x" * (MAX_BODY + 1)).removesuffix(b"0\r\n\r\n")
    status, body, closed = raw_request(server, head, endless)
    assert_error((status, body), 413, str(MAX_BODY))
    assert closed


def test_a_chunked_body_that_fits_is_taken(server: Server, bundle: Bundle, engine: Engine, text: str) -> None:
    head = f"POST /v1/models/{bundle.name}:classify HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked"
    status, body, closed = raw_request(server, head, chunked(b'{"text": ', json.dumps(text).encode(), b"}"))
    assert (status, body["label"], closed) == (200, engine.classify(text).label, False)


def test_a_body_in_single_bytes_is_taken(server: Server, bundle: Bundle, engine: Engine, text: str) -> None:
    head = f"POST /v1/models/{bundle.name}:classify HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked"
    body = json.dumps({"text": text}).encode().ljust(MAX_BODY)
    status, got, _ = raw_request(server, head, chunked(*(bytes([byte]) for byte in body)))
    assert (status, got["label"]) == (200, engine.classify(text).label)


def test_requests_sent_ahead_are_answered_in_order(
    server: Server, bundle: Bundle, engine: Engine, without: tuple[str, ...]
) -> None:
    assert bundle.golden is not None
    texts = bundle.golden.texts[:3]

    def post(text: str) -> bytes:
        raw = text.encode()
        head = f"POST /v1/models/{bundle.name}:classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
        return head.encode() + f"Content-Length: {len(raw)}\r\n\r\n".encode() + raw

    get = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with RawConnection(server) as raw:
        raw.sock.sendall(post(texts[0]) + get + post(texts[1]) + post("") + get + post(texts[2]))
        answers = [raw.answer() for _ in range(6)]
    assert [status for status, _, _ in answers] == [200, 200, 200, 400, 200, 200]
    assert [answers[k][1]["label"] for k in (0, 2, 5)] == [engine.classify(text).label for text in texts]
    assert answers[1][1] == answers[4][1] == {"live": True}


def test_a_request_that_comes_in_pieces(server: Server, bundle: Bundle, engine: Engine, text: str) -> None:
    body = json.dumps({"text": text}).encode()
    head = f"POST /v1/models/{bundle.name}:classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    whole = head.encode() + body
    with RawConnection(server) as raw:
        for _ in range(2):
            for cut in (10, len(head) - 2, len(head) + 3, len(whole) - 1):
                raw.sock.sendall(whole[:cut])
                time.sleep(0.02)
                raw.sock.sendall(whole[cut:])
                status, got, _ = raw.answer()
                assert (status, got["label"]) == (200, engine.classify(text).label)


@pytest.mark.parametrize(
    "head",
    [
        "POST {path}?a=b HTTP/1.1\nHost: localhost",
        "POST {path}? HTTP/1.1\nHost: [::1]:80",
        "POST {path} HTTP/1.1\nHost: localhost\nX-Forwarded-For: 1.2.3.4",
        "POST {quoted} HTTP/1.1\nHost: localhost",
        "POST {path} HTTP/1.1\nhost: localhost\nCONTENT-TYPE: application/json; charset=utf-8",
    ],
)
def test_unusual_ways_to_say_the_same(server: Server, bundle: Bundle, engine: Engine, text: str, head: str) -> None:
    path = f"/v1/models/{bundle.name}:classify"
    quoted = path.replace("classify", "cl%61ssify").replace(":", "%3A")
    body = json.dumps({"text": text}).encode()
    head = head.format(path=path, quoted=quoted) + f"\nContent-Length: {len(body)}"
    status, got, closed = raw_request(server, head, body)
    assert (status, got.get("label"), closed) == (200, engine.classify(text).label, False)


def test_expect_continue(server: Server, bundle: Bundle, engine: Engine, text: str) -> None:
    body = json.dumps({"text": text}).encode()
    head = f"POST /v1/models/{bundle.name}:classify HTTP/1.1\nHost: localhost\nExpect: 100-continue\nContent-Length: "
    with RawConnection(server) as raw:
        raw.send(f"{head}{len(body)}")
        assert raw.answer()[0] == 100
        raw.sock.sendall(body)
        status, got, _ = raw.answer()
        assert (status, got["label"]) == (200, engine.classify(text).label)
    status, got, closed = raw_request(server, f"{head}{MAX_BODY + 1}")
    assert_error((status, got), 413)  # and not 100: the client need not send what will not be taken
    assert closed


@pytest.mark.parametrize("version", ["HTTP/1.0\nHost: localhost", "HTTP/1.1\nHost: localhost\nConnection: close"])
def test_a_client_that_wants_one_answer_only(
    server: Server, bundle: Bundle, engine: Engine, text: str, version: str
) -> None:
    raw = text.encode()
    head = f"POST /v1/models/{bundle.name}:classify {version}\nContent-Type: text/plain\nContent-Length: {len(raw)}"
    status, got, closed = raw_request(server, head, raw)
    assert (status, got["label"], closed) == (200, engine.classify(text).label, True)


@pytest.mark.parametrize("sent", [b"POST ", b"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"])
def test_a_client_that_leaves_halfway_harms_nobody(server: Server, bundle: Bundle, sent: bytes) -> None:
    path = f"/v1/models/{bundle.name}:classify".encode()
    for _ in range(5):
        with RawConnection(server) as raw:
            raw.sock.sendall(sent.replace(b"{path}", path))
    assert ask(server.connection(), "GET", "/v2/health/live")[0] == 200
    # … and does not fill the log: the fixture finds that out.


def test_an_upgrade_is_not_made_and_does_not_fill_the_log(server: Server) -> None:
    with RawConnection(server) as raw:
        raw.sock.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert raw.sock.recv(100).startswith(b"HTTP/1.1 200 ")  # the fixture looks at the log


def test_a_client_that_asks_much_and_hangs_up_does_not_fill_the_log(server: Server, bundle: Bundle) -> None:
    head = f"POST /v1/models/{bundle.name}:classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\n"
    for cut in range(40):
        with RawConnection(server) as raw:
            raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, at the end
            raw.sock.sendall(f"{head}Content-Length: 5\r\n\r\nhello".encode() * 100 + head.encode()[:cut])
    assert ask(server.connection(), "GET", "/v2/health/live")[0] == 200  # the fixture looks at the log


@pytest.mark.parametrize(
    "sent",
    [b"\x00\x01\x02\r\n\r\n", b"GET\r\n\r\n", b"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n"],
)
def test_what_is_not_http_is_refused(server: Server, bundle: Bundle, sent: bytes) -> None:
    path = f"/v1/models/{bundle.name}:classify".encode()
    with RawConnection(server) as raw:
        raw.sock.sendall(sent.replace(b"{path}", path))
        assert raw.sock.recv(100).startswith(b"HTTP/1.1 400 ")


def test_the_largest_body_is_taken_and_one_byte_more_is_not(
    server: Server, tcp: http.client.HTTPConnection, bundle: Bundle, text: str
) -> None:
    path = f"/v1/models/{bundle.name}:classify"
    body = json.dumps({"text": text}).encode().ljust(MAX_BODY)
    assert ask(tcp, "POST", path, body)[0] == 200
    assert_error(ask(tcp, "POST", path, body + b" "), 413)
    assert ask(server.connection(), "POST", path, body)[0] == 200


@pytest.mark.parametrize("transport", ["tcp", "unix"])
def test_a_client_that_still_sends_gets_the_refusal(
    server: Server, folder: Path, bundle: Bundle, transport: str, without: tuple[str, ...]
) -> None:
    """Not a reset: many clients read only when all is sent."""
    address: Any = ("127.0.0.1", server.port) if transport == "tcp" else str(folder / "socket")
    rest = bytes(4 * MAX_BODY)
    head = (
        f"POST /v1/models/{bundle.name}:classify HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(rest) + 9}\r\n\r\n"
    )
    with socket.socket(socket.AF_INET if transport == "tcp" else socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(address)
        sock.sendall(head.encode() + b'{"text": ')
        # Where httptools reads, the answer comes at once; h11 lets the client finish first.
        answer = b"" if without or find_spec("httptools") is None else sock.recv(4096)
        sock.sendall(rest)
        while more := sock.recv(4096):
            answer += more
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert answer.endswith(b"}")


def test_a_port_in_use_is_one_line(cli: Cli, bundle_path: Path, server: Server) -> None:
    done = cli("serve", bundle_path, "--port", server.port)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(complaints(done.stderr)) == 1
    assert f"port {server.port}" in done.stderr
    assert "take another --port" in done.stderr


def test_a_living_socket_is_not_taken_over(cli: Cli, bundle_path: Path, server: Server, folder: Path) -> None:
    done = cli("serve", bundle_path, "--port", "0", "--uds", folder / "socket")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(complaints(done.stderr)) == 1
    assert "another server listens" in done.stderr
    assert ask(UnixConnection(folder / "socket"), "GET", "/v2/health/live")[0] == 200


def test_a_file_that_is_no_socket_is_left_alone(cli: Cli, bundle_path: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("keep")
    done = cli("serve", bundle_path, "--port", "0", "--uds", tmp_path / "precious")
    assert (done.returncode, len(complaints(done.stderr))) == (1, 1)
    assert "not a socket" in done.stderr
    assert (tmp_path / "precious").read_text() == "keep"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_other_machines_are_kept_out_unless_meant(cli: Cli, tmp_path: Path, host: str) -> None:
    done = cli("serve", tmp_path / "not-even-read.edgekd", "--host", host, "--port", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--allow-remote" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(bundle_path: Path, tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))  # and never listened to: the file that a killed server leaves
    server = Server(tmp_path / "log", bundle_path, "--port", "0", "--uds", path)
    idle = UnixConnection(path)  # a client that keeps its connection must not hold the server up
    assert ask(idle, "GET", "/v2/health/ready")[0] == 200
    start = time.monotonic()
    assert server.stop(number) == 0
    assert time.monotonic() - start < 30
    assert not path.exists()
    assert complaints((tmp_path / "log").read_text()) == []
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S)
    idle.close()


def test_several_processes_answer_as_one(bundle_path: Path, bundle: Bundle, engine: Engine, tmp_path: Path) -> None:
    assert bundle.golden is not None
    texts = bundle.golden.texts[:4]
    arguments = ("--port", "0", "--uds", tmp_path / "http", "--ipc", tmp_path / "ipc", "--processes", "2")
    server = Server(tmp_path / "log", bundle_path, *arguments)
    uris = [f"http://127.0.0.1:{server.port}", f"unix://{tmp_path / 'http'}", f"ipc://{tmp_path / 'ipc'}"]
    clients = [Client(uri) for uri in uris * 2]  # at the same time, so that both serve some
    for client in clients:
        assert [one.label for one in client.classify(texts)] == [engine.classify(text).label for text in texts]
    for client in clients:
        client.close()
    assert server.stop() == 0
    assert complaints((tmp_path / "log").read_text()) == []


# --- our own client ---


@pytest.fixture(params=["http", "unix", "ipc"])
def uri(request: pytest.FixtureRequest, server: Server, folder: Path) -> str:
    return {"http": f"http://127.0.0.1:{server.port}", "unix": f"unix://{folder}/socket", "ipc": f"ipc://{folder}/ipc"}[
        request.param
    ]


def test_the_client_classifies_and_infers(uri: str, bundle: Bundle, engine: Engine) -> None:
    assert bundle.golden is not None
    texts = list(bundle.golden.texts[:5])
    with Client(uri) as client:
        assert client.ready(bundle.name)
        assert client.server_metadata()["name"] == "edgekd-runtime"
        assert [one.label for one in client.classify(texts)] == [engine.classify(text).label for text in texts]
        ids = np.concatenate([engine.preprocess(text)[0] for text in texts])
        by_ids = client.infer({engine.inputs[0].name: ids})
        by_texts = client.infer({"text": texts})
        for name, spec in zip([one.name for one in engine.outputs], engine.outputs, strict=True):
            assert by_ids[name].shape == (5, *spec.shape[1:])
            np.testing.assert_array_equal(by_ids[name], by_texts[name])
        with pytest.raises(ClientError, match="empty") as caught:
            client.classify("")
        assert caught.value.status == 400


def test_the_asynchronous_client(uri: str, bundle: Bundle, engine: Engine) -> None:
    assert bundle.golden is not None
    texts = list(bundle.golden.texts[:8])

    async def go() -> list[str]:
        async with AsyncClient(uri) as client:
            return [one.label for one in await asyncio.gather(*(client.classify(text) for text in texts))]

    assert asyncio.run(go()) == [engine.classify(text).label for text in texts]


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="this system has no memfd_create")
def test_the_client_shares_memory(
    server: Server, folder: Path, bundle: Bundle, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bundle.golden is not None
    monkeypatch.setattr(framed, "SHARED_FROM_BYTES", 0)
    with Client(f"ipc://{folder}/ipc") as client:
        for text in bundle.golden.texts[:3]:
            assert client.classify(text).label == engine.classify(text).label
            found = client.infer({"text": text})
            assert found["label"] == [engine.classify(text).label]
