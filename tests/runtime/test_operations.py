"""A real server process while it is operated: reloads, its end, crowds, silent clients."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.device.test_serve import FAST, Server

from edgekd_runtime import frames
from edgekd_runtime.bundle import Bundle

TIMEOUT_S = 60
BODY = json.dumps({"inputs": [{"name": "in", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, -1, 0.5]}]})


class Load:
    """Clients that ask all the time, and open a new connection when they are told that the old one ends."""

    def __init__(self, port: int, clients: int = 3) -> None:
        self.port = port
        self.answers = 0
        self.failures: list[str] = []
        self.is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self.is_over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
            try:
                connection.connect()
            except ConnectionRefusedError:
                return  # the server has ended, and this client had not asked yet
            try:
                while not self.is_over.is_set():
                    connection.request("POST", "/v2/models/dense/infer", BODY)
                    response = connection.getresponse()
                    if response.status != 200:
                        self.failures.append(f"{response.status}: {response.read()!r}")
                    response.read()
                    self.answers += 1
                    if response.headers["connection"] == "close":
                        break
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
            finally:
                connection.close()

    def wait(self, more: int = 20) -> None:
        target = self.answers + more
        wait_for(lambda: self.answers >= target)


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def folder(tmp_path: Path, dense_bundle: Bundle) -> Path:
    dense_bundle.save(tmp_path / "models" / "dense.edgekd")
    replace(dense_bundle, name="other").save(tmp_path / "models" / "other.edgekd")
    (tmp_path / "models" / "broken.edgekd").write_bytes(b"no bundle")
    return tmp_path / "models"


@pytest.fixture(params=[((), "1"), (FAST, "1"), ((), "3"), (FAST, "2")], ids=str)
def server(folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Server]:
    without, processes = request.param
    arguments = ("--model-dir", folder, "--port", "0", "--processes", processes)
    server = Server(tmp_path / "log", *arguments, without=without)
    yield server
    if server.process.poll() is None:
        assert server.stop() == 0


def get(server: Server, path: str, method: str = "GET") -> tuple[int, Any]:
    connection = server.connection()
    connection.request(method, path)
    response = connection.getresponse()
    raw = response.read()
    connection.close()
    return response.status, raw if path == "/metrics" else json.loads(raw)


def test_a_folder_is_served_and_followed_on_sighup(server: Server, folder: Path, dense_bundle: Bundle) -> None:
    assert "serving dense (int8, " in server.announced
    states = {entry["name"]: entry for entry in get(server, "/v2/repository/index", "POST")[1]}
    assert [states[name]["state"] for name in ("broken", "dense", "other")] == ["UNAVAILABLE", "READY", "READY"]
    assert "broken.edgekd" in states["broken"]["reason"]
    with Load(server.port) as load:
        load.wait()
        replace(dense_bundle, version="2").save(folder / "dense.edgekd")
        (folder / "other.edgekd").unlink()
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: get(server, "/v2/models/dense")[1]["versions"] == ["2"])
        wait_for(lambda: get(server, "/v2/models/other")[0] == 404)
        load.wait()
    assert load.failures == []


def test_sigterm_under_load_fails_nobody(server: Server) -> None:
    with Load(server.port) as load:
        load.wait(100)
        assert server.stop() == 0
        load.is_over.set()
    assert load.failures == []


@pytest.mark.parametrize("processes", ["1", "2"])
def test_sigterm_under_load_in_frames_fails_nobody(folder: Path, tmp_path: Path, processes: str) -> None:
    arguments = ("--model-dir", folder, "--port", "0", "--ipc", tmp_path / "ipc", "--processes", processes)
    server = Server(tmp_path / "log", *arguments)
    failures: list[str] = []
    answers = [0, 0, 0]

    def ask(which: int) -> None:
        head, asked = b"POST /v2/models/dense/infer", BODY.encode()
        try:
            with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as replies:
                client.connect(str(tmp_path / "ipc"))
                while True:
                    client.sendall(frames.frame_head(0, 1, head, len(asked)) + asked)
                    magic, size, status, _, body = frames.PREFIX.unpack(replies.read(frames.PREFIX.size))
                    said = replies.read(size)
                    assert (magic, status, len(replies.read(body))) == (frames.MAGIC, 200, body)
                    answers[which] += 1
                    if b"connection: close" in said:
                        break
        except (OSError, AssertionError, struct.error) as error:
            failures.append(repr(error))

    asking = [threading.Thread(target=ask, args=(which,)) for which in range(len(answers))]
    for one in asking:
        one.start()
    wait_for(lambda: min(answers) > 20 or bool(failures))
    assert server.stop() == 0
    for one in asking:
        one.join()
    assert failures == []


def test_sighup_before_there_is_anything_to_load_anew(folder: Path, tmp_path: Path) -> None:
    said_first = "import os, signal; from edgekd_runtime import cli_serve as c; l = c.load_bundle"
    hang_up = f"{said_first}; c.load_bundle = lambda *a, **k: (os.kill(os.getpid(), signal.SIGHUP), l(*a, **k))[1]"
    server = Server(tmp_path / "log", "--model-dir", folder, "--port", "0", first=hang_up)
    assert get(server, "/v2/models/dense")[0] == 200
    assert server.stop() == 0


def test_what_runs_before_there_are_requests_is_not_counted(server: Server) -> None:
    assert b'edgekd_inference_seconds_count{model="dense"} 0' in get(server, "/metrics")[1]


@pytest.mark.parametrize("without", [(), FAST], ids=["installed", "pure-python"])
def test_what_is_being_answered_when_the_end_comes_is_answered(
    folder: Path, tmp_path: Path, without: tuple[str, ...]
) -> None:
    slow = (
        "import time, edgekd_runtime.pool as p; real = p.Pool.invoke; "
        "p.Pool.invoke = lambda self, arrays: (time.sleep(0.25), real(self, arrays))[1]"
    )
    server = Server(tmp_path / "log", folder / "dense.edgekd", "--port", "0", without=without, first=slow)
    clients = [server.connection() for _ in range(5)]  # one is answered, four wait: more than the drain's last call
    for client in clients:
        client.request("POST", "/v2/models/dense/infer", BODY)
    wait_for(lambda: b'edgekd_queue_depth{model="dense"} 4' in get(server, "/metrics")[1])
    server.process.send_signal(signal.SIGTERM)
    for client in clients:
        response = client.getresponse()
        assert (response.status, response.headers["connection"]) == (200, "close")
        assert response.read()
        client.close()
    assert server.stop() == 0


def test_health_and_metrics(server: Server) -> None:
    for path in ("/healthz", "/v2/health/ready"):
        assert get(server, path) == (200, {"ready": True})
    assert b'edgekd_model_info{model="dense",version="1"' in get(server, "/metrics")[1]


def test_more_clients_than_there_may_be(folder: Path, tmp_path: Path) -> None:
    server = Server(tmp_path / "log", folder / "dense.edgekd", "--port", "0", "--max-connections", "2")
    held = [server.connection() for _ in range(2)]
    for connection in held:
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
    late = server.connection()
    late.connect()
    with late.sock.makefile("rb") as answer:
        assert b" 503 " in answer.readline()
        assert b"retry-after: 1\r\n" in answer.read()
    held.pop().close()
    wait_for(lambda: _is_let_in(server))
    assert server.stop() == 0


def _is_let_in(server: Server) -> bool:
    try:
        return get(server, "/healthz")[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def test_clients_that_never_finish_are_hung_up_on(folder: Path, tmp_path: Path) -> None:
    """With the patience of a test, by both parsers."""
    short = "import edgekd_runtime.patience as p; p.REQUEST_S = 1.0"
    for number, without in enumerate(((), FAST)):
        server = Server(tmp_path / f"log{number}", folder / "dense.edgekd", "--port", "0", without=without, first=short)
        silent, slow_head, slow_body = (
            socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S) for _ in range(3)
        )
        slow_head.sendall(b"POST /v2/models/dense/infer HTTP/1.1\r\nHost: localhost\r\nX")
        slow_body.sendall(b"POST /v2/models/dense/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n{")
        good = server.connection()
        end = time.monotonic() + 2.5
        while time.monotonic() < end:  # longer than the patience, but every request is quick
            good.request("POST", "/v2/models/dense/infer", BODY)
            assert good.getresponse().read()
            time.sleep(0.3)
        for client in (silent, slow_head, slow_body):
            client.settimeout(TIMEOUT_S)
            assert client.recv(1000) == b""
            client.close()
        good.close()
        assert server.stop() == 0


def test_the_log_says_once_what_would_make_it_faster(folder: Path, tmp_path: Path) -> None:
    for without in ((), ("orjson",), FAST):
        server = Server(tmp_path / "log", folder / "dense.edgekd", "--port", "0", without=without)
        assert server.stop() == 0
        advice = [line for line in (tmp_path / "log").read_text().splitlines() if "[fast]" in line]
        told = f"without {', '.join(without)}; pip install 'edgekd-runtime[fast]' makes the server faster"
        assert [line.split(maxsplit=1)[1] for line in advice] == ([f"info {told}"] if without else [])
