"""Frames on a local socket: good ones are answered as over HTTP, all else is refused or hung up on."""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.runtime.live import LIMIT, Live, connected, live

from edgekd_runtime import frames, shared
from edgekd_runtime.client.framed import read
from edgekd_runtime.client.http1 import Response
from edgekd_runtime.engine import Engine
from edgekd_runtime.errors import InputError
from edgekd_runtime.frames import Span
from edgekd_runtime.routes import Limits

PATH = "/v2/models/dense/infer"
X = np.array([[1, 2, -1, 0.5]], np.float32)
OUT = [4.0, 1.0, 3.0]  # of X, by the weights in conftest


@pytest.fixture(scope="module")
def server(dense: Engine, add: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live({"dense": dense, "add": add}, tmp_path_factory.mktemp("ipc")) as started:
        yield started


@pytest.fixture
def client(server: Live) -> Iterator[socket.socket]:
    with ipc_client(server) as sock:
        yield sock


def ipc_path(server: Live) -> str:
    return server.uris["ipc"].removeprefix("ipc://")


def ipc_client(server: Live) -> socket.socket:
    return connected(ipc_path(server))


def frame(
    path: str, body: bytes = b"", *lines: str, method: str = "POST", number: int = 7, size: int | None = None
) -> bytes:
    head = "\n".join([f"{method} {path}", *lines]).encode()
    return frames.frame_head(0, number, head, len(body) if size is None else size) + body


def as_json(x: Any = X) -> bytes:
    return json.dumps({"inputs": [{"name": "in", "datatype": "FP32", "shape": [1, 4], "data": x.tolist()}]}).encode()


def receive(sock: socket.socket, number: int = 7) -> Response:
    reading = read(number, None)
    next(reading)
    try:
        while True:  # no more than what is needed, so that the next answer stays in the socket
            reading.send(sock.recv(1))
    except StopIteration as done:
        found: Response = done.value
        return found


def receive_all(sock: socket.socket, numbers: set[int]) -> dict[int, Response]:
    """The replies of those ids, which may overtake each other."""
    found: dict[int, Response] = {}
    while len(found) < len(numbers):
        prefix = sock.recv(frames.PREFIX.size, socket.MSG_PEEK | socket.MSG_WAITALL)
        number = frames.PREFIX.unpack(prefix)[3]
        assert number in numbers - found.keys()
        found[number] = receive(sock, number)
    return found


def ask(sock: socket.socket, path: str, body: bytes = b"", *lines: str, method: str = "POST") -> Response:
    sock.sendall(frame(path, body, *lines, method=method))
    return receive(sock)


def is_hung_up(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


def test_the_routes_of_http(client: socket.socket) -> None:
    found = ask(client, PATH, as_json())
    assert found.status == 200
    assert json.loads(found.body)["outputs"][0]["data"] == OUT
    assert json.loads(ask(client, "/v2/models/dense", method="GET").body)["name"] == "dense"
    assert json.loads(ask(client, "/v1/models/dense:predict", b'{"instances": [[1, 2, -1, 0.5]]}').body) == {
        "predictions": [OUT]
    }


def test_binary(client: socket.socket) -> None:
    entry = {"name": "in", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    for factor in (1, 2):  # the second with a head that the server knows
        found = ask(client, PATH, head + (X * factor).tobytes(), f"inference-header-content-length: {len(head)}")
        length = int(found.headers["inference-header-content-length"])
        assert found.headers["content-type"] == "application/octet-stream"
        assert np.frombuffer(found.body[length:], np.float32).tolist() == ([4, 1, 3] if factor == 1 else [7, 2, 8])


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/v2/models/no/infer", "POST", 404), ("/no", "GET", 404), (PATH, "GET", 405), (PATH, "POST", 400)],
)
def test_refusals_keep_the_connection(client: socket.socket, path: str, method: str, status: int) -> None:
    found = ask(client, path, b"{}", method=method)
    assert found.status == status
    assert set(json.loads(found.body)) == {"error"}
    assert ask(client, "/v2/health/live", method="GET").status == 200


def test_a_client_that_still_sends_gets_the_refusal(client: socket.socket) -> None:
    client.sendall(frames.PREFIX.pack(frames.MAGIC, 4, 0, 7, 4 * LIMIT))
    assert receive(client).status == 413
    client.sendall(bytes(4 * LIMIT))
    assert client.recv(1) == b""


@pytest.mark.parametrize("head", [b"", b"GET", b"PUT /v2", b"POST v2", b"GET /v2\nx", b"GET /v2\n: y", b"\xff" * 99])
def test_heads_that_are_none(client: socket.socket, head: bytes) -> None:
    client.sendall(frames.frame_head(0, 7, head, 0))
    assert receive(client).status == 400
    assert ask(client, "/v2/health/live", method="GET").status == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"EKD\x02" + bytes(12), 400),
        (bytes(16), 400),
        (frames.PREFIX.pack(frames.MAGIC, frames.MAX_HEAD + 1, 0, 7, 0), 400),
        (frames.PREFIX.pack(frames.MAGIC, 4, 0, 7, LIMIT + 1), 413),
        (frames.PREFIX.pack(frames.MAGIC, 65535, 0, 7, 2**32 - 1), 400),
    ],
)
def test_what_is_no_frame_is_refused_and_hung_up_on(client: socket.socket, sent: bytes, status: int) -> None:
    client.sendall(sent)
    assert receive(client).status == status
    assert is_hung_up(client)


def test_frames_in_pieces_and_many_at_once(client: socket.socket) -> None:
    whole = frame(PATH, as_json(), number=1)
    for cut in (1, 15, 16, 20, len(whole) - 1):
        client.sendall(whole[:cut])
        time.sleep(0.01)
        client.sendall(whole[cut:])
        assert receive(client, 1).status == 200
    numbers = range(1, 200)
    client.sendall(b"".join(frame(PATH, as_json(X * (k % 3)), number=k) for k in numbers))
    for k, reply in receive_all(client, set(numbers)).items():
        assert json.loads(reply.body)["outputs"][0]["data"][0] == [1, 4, 7][k % 3]


def test_large_bodies_and_answers(client: socket.socket) -> None:
    body = as_json().ljust(LIMIT)
    for _ in range(3):
        assert ask(client, PATH, body).status == 200
        assert ask(client, PATH, as_json()).status == 200


def test_a_client_that_does_not_read_is_not_read(server: Live) -> None:
    with ipc_client(server) as client:
        client.settimeout(0.5)
        one = frame(PATH, as_json())
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 50_000_000:
                sent += client.send(one)
        busy = max(server.ipc.connections, key=lambda connection: len(connection._out))
        assert len(busy._out) < 1 << 20
    with ipc_client(server) as other:
        assert ask(other, PATH, as_json()).status == 200


def test_large_models_are_answered_off_the_loop(dense: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = threading.Event()
    go_on = threading.Event()
    run = dense.stored_outputs

    def slow(arrays: Any) -> Any:
        started.set()
        assert go_on.wait(20)
        return run(arrays)

    monkeypatch.setattr(dense, "stored_outputs", slow)
    limits = Limits(queue=30, inline_us=0)
    with live({"dense": dense}, tmp_path, limits=limits) as server, ipc_client(server) as client:
        client.sendall(frame(PATH, as_json(), number=1))
        assert started.wait(20)
        client.sendall(frame("/v2/health/live", method="GET", number=2))
        assert receive(client, 2).status == 200  # overtakes
        late = ["x-request-timeout-ms: 20"]
        client.sendall(frame(PATH, as_json(), *late, number=3))
        assert receive(client, 3).status == 504
        client.sendall(b"".join(frame(PATH, as_json(), number=k) for k in range(10, 60)))
        go_on.set()
        replies = receive_all(client, {1, *range(10, 60)})
        assert replies[1].status == 200
        assert {reply.status for reply in replies.values()} <= {200, 503}
        started.clear()
        client.sendall(frame(PATH, as_json(), number=99))
        assert receive(client, 99).status == 200


def test_a_client_that_sends_no_more_gets_its_answers(
    dense: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, run = threading.Event(), dense.stored_outputs
    monkeypatch.setattr(dense, "stored_outputs", lambda arrays: go_on.wait(20) and run(arrays))
    with live({"dense": dense}, tmp_path, limits=Limits(inline_us=0)) as server, ipc_client(server) as client:
        client.sendall(b"".join(frame(PATH, as_json(), number=k) for k in (1, 2)))
        client.shutdown(socket.SHUT_WR)
        time.sleep(0.1)
        go_on.set()
        assert {reply.status for reply in receive_all(client, {1, 2}).values()} == {200}
        assert client.recv(1) == b""


def test_guards_are_asked(dense: Engine, tmp_path: Path) -> None:
    from edgekd_runtime.reply import error_reply

    seen = []

    def guard(headers: Any, path: str, client: str | None) -> Any:
        seen.append((headers.get("x"), path, client))
        return error_reply(429, "no") if path == PATH else None

    with (
        live({"dense": dense}, tmp_path, guards=[guard]) as server,
        ipc_client(server) as client,
    ):
        assert ask(client, PATH, as_json(), "X: y").status == 429
        assert ask(client, "/v2/health/live", method="GET").status == 200
    assert seen == [("y", PATH, None), (None, "/v2/health/live", None)]


def test_a_half_frame_is_given_up(dense: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd_runtime.ipc._FRAME_TIMEOUT_S", 0.2)
    with (
        live({"dense": dense}, tmp_path) as server,
        ipc_client(server) as client,
        ipc_client(server) as idle,
    ):
        client.sendall(frame(PATH, as_json())[:-1])
        assert is_hung_up(client)
        time.sleep(0.3)
        assert ask(idle, PATH, as_json()).status == 200  # who has asked nothing may stay


def test_only_so_many_clients(server: Live) -> None:
    path = ipc_path(server)
    clients = [connected(path) for _ in range(140)]
    try:
        assert ask(clients[0], "/v2/health/live", method="GET").status == 200
        assert receive(clients[-1]).status == 503
        assert is_hung_up(clients[-1])
        wait_until(lambda: len(server.ipc.connections) <= 128)
    finally:
        for one in clients:
            one.close()


def test_no_descriptors_left_is_waited_out(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekd_runtime.ipc.ACCEPT_PAUSE_S", 0.1)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    highest = max(int(one.name) for one in Path("/proc/self/fd").iterdir())
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (client.fileno() + 1 if client.fileno() >= highest else highest, limits[1])
    )
    spare = []
    try:
        with pytest.raises(OSError, match="Too many open files"):
            while True:
                spare.append(os.dup(0))
        client.connect(ipc_path(server))
        client.settimeout(20)
        client.sendall(frame(PATH, as_json()))
        time.sleep(0.3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for fd in spare:
            os.close(fd)
    assert receive(client).status == 200
    client.close()


def test_heads_that_never_come_again_take_no_memory(server: Live, client: socket.socket) -> None:
    for k in range(600):
        assert ask(client, "/v2/health/live", b"", f"x: {k}", method="GET").status == 200
    assert len(server.ipc.heads) <= 256


def test_a_claimed_size_takes_no_memory(server: Live) -> None:
    clients = [ipc_client(server) for _ in range(20)]
    try:
        for one in clients:
            one.sendall(frame(PATH, b"", size=LIMIT) + bytes(100_000))
        wait_until(lambda: sum(one._filled > 100_000 for one in server.ipc.connections) == 20)
        assert max(len(one._buffer) for one in server.ipc.connections) <= 1 << 18
    finally:
        for one in clients:
            one.close()


def test_a_signal_lets_the_last_answer_out(dense: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = dense.infer

    def slow(inputs: Any) -> Any:
        time.sleep(0.5)
        return run(inputs)

    monkeypatch.setattr(dense, "infer", slow)
    answers = []
    with live({"dense": dense}, tmp_path, limits=Limits(inline_us=0)) as server:
        client = ipc_client(server)
        client.sendall(frame(PATH, as_json()))
        thread = threading.Thread(target=lambda: answers.append(receive(client).status))
        thread.start()
        time.sleep(0.2)
    thread.join(20)
    assert answers == [200]
    assert is_hung_up(client)
    client.close()


# --- shared memory ---


@pytest.fixture
def memory() -> Iterator[int]:
    fd = os.memfd_create("test")
    os.ftruncate(fd, 8192)
    yield fd
    os.close(fd)


def send_with(client: socket.socket, data: bytes, *fds: int) -> None:
    socket.send_fds(client, [data], list(fds))


def test_body_and_answer_in_shared_memory(client: socket.socket, memory: int) -> None:
    body = as_json()
    os.pwrite(memory, body, 100)
    lines = [f"shared-body: 100 {len(body)}", "shared-reply: 4096 4096"]
    send_with(client, frame(PATH, b"", *lines), memory)
    for _ in range(2):
        found = receive(client)
        assert (found.status, found.body) == (200, b"")
        offset, size = map(int, found.headers["shared-body"].split())
        assert offset == 4096
        assert json.loads(os.pread(memory, size, offset))["outputs"][0]["data"] == OUT
        client.sendall(frame(PATH, b"", *lines))  # the descriptor stays with the connection
    receive(client)


def test_an_answer_without_room_comes_over_the_socket(client: socket.socket, memory: int) -> None:
    for room in ("0 10", "8190 4096", "99999 4096"):
        send_with(client, frame(PATH, as_json(), f"shared-reply: {room}"), memory)
        found = receive(client)
        assert "shared-body" not in found.headers
        assert json.loads(found.body)["outputs"][0]["data"] == OUT
    assert os.fstat(memory).st_size == 8192


@pytest.mark.parametrize(
    "place",
    [
        *("8000 193", "8192 1", "9999999999999 1", "1099511627776 1", "0 1048577", "0 -1", "-1 1", "0", "0 1 2", "a b"),
        *("", "0x1 1", "1e3 1", "99999999999999999999 1", "0 99999999999999999999"),
    ],
)
def test_places_outside_of_the_memory(client: socket.socket, memory: int, place: str) -> None:
    send_with(client, frame(PATH, b"", f"shared-body: {place}"), memory)
    assert receive(client).status == (413 if place == "0 1048577" else 400)
    client.sendall(frame(PATH, as_json(), f"shared-reply: {place}"))
    assert receive(client).status in (200, 400)
    assert ask(client, PATH, as_json()).status == 200


def test_memory_that_shrinks_is_an_error_and_no_signal(client: socket.socket, memory: int) -> None:
    lines = ["shared-body: 0 8192", "shared-reply: 0 8192"]
    send_with(client, frame(PATH, b"", *lines), memory)
    receive(client)
    os.ftruncate(memory, 10)
    client.sendall(frame(PATH, b"", *lines))
    found = receive(client)
    assert found.status == 400
    assert "ends before byte 8192" in json.loads(found.body)["error"]


def test_no_memory_at_all(client: socket.socket) -> None:
    assert ask(client, PATH, b"", "shared-body: 0 16").status == 400


@pytest.mark.parametrize("kind", ["pipe", "file", "null", "socket", "folder"])
def test_descriptors_that_are_no_memory(client: socket.socket, tmp_path: Path, kind: str) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    opened: list[int] = []
    if kind == "pipe":
        opened = list(os.pipe())
    elif kind == "socket":
        opened = [socket.socket(socket.AF_UNIX).detach()]
    else:
        path = {"file": tmp_path / "file", "null": Path("/dev/null"), "folder": tmp_path}[kind]
        if kind == "file" and os.statvfs(tmp_path) == os.statvfs("/dev/shm"):
            pytest.skip("temporary files are memory here")
        opened = [os.open(path, os.O_RDONLY)]
    send_with(client, frame(PATH, b"", "shared-body: 0 16"), opened[0])
    assert receive(client).status == 400
    assert ask(client, PATH, as_json()).status == 200
    for fd in opened:
        os.close(fd)


def test_descriptors_do_not_pile_up(server: Live, memory: int) -> None:
    def count() -> int:
        gc.collect()
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    path = ipc_path(server)
    before = count()
    for _ in range(20):
        with connected(path) as client:
            send_with(client, frame(PATH, as_json())[:5], *[memory] * 10)
            send_with(client, frame(PATH, as_json())[5:], memory, memory)
            assert receive(client).status == 200
            send_with(client, b"EKD", *[memory] * 3)
    wait_until(lambda: not server.ipc.connections)
    assert count() <= before


def wait_until(holds: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def test_read_and_write_at_their_bounds(memory: int) -> None:
    own = shared.SharedMemory(os.dup(memory))
    assert own.read(Span(8191, 1)) == b"\0"
    assert own.read(Span(0, 0)) == b""
    with pytest.raises(InputError, match="ends before byte 8193"):
        own.read(Span(8192, 1))
    assert own.write(Span(8190, 2), b"ab")
    assert not own.write(Span(8190, 3), b"abc")
    assert not own.write(Span(0, 2), b"abc")
    assert os.fstat(memory).st_size == 8192
    own.close()


# --- anything at all ---

LINES = st.sampled_from(
    [
        *("content-type: text/plain", "inference-header-content-length: 3", "inference-header-content-length: 0"),
        *("shared-body: 0 16", "shared-reply: 0 99", "shared-body: x", "x-request-timeout-ms: 0", "no colon", ""),
    ]
)
PATHS = st.sampled_from([PATH, "/v2/models/add/infer", "/v1/models/dense:predict", "/v2", "/", "/\xff", "//", "*"])
BODIES = st.binary(max_size=40) | st.sampled_from([as_json(), b"{}", b"[" * 50, X.tobytes()])
FRAMES = st.builds(
    lambda path, body, lines, number, size: frame(path, body, *lines, number=number, size=size),
    PATHS,
    BODIES,
    st.lists(LINES, max_size=3),
    st.integers(0, 2**32 - 1),
    st.none() | st.sampled_from([0, 1, 50, LIMIT + 1, 2**32 - 1]),
)


@given(sent=st.lists(FRAMES | st.binary(max_size=40), min_size=1, max_size=5))
@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes(sent: list[bytes], server: Live, caplog: pytest.LogCaptureFixture) -> None:
    path = ipc_path(server)
    with caplog.at_level(logging.WARNING), connected(path) as hostile:
        try:
            hostile.sendall(b"".join(sent))
            hostile.shutdown(socket.SHUT_WR)
            while hostile.recv(65536):
                pass
        except (BrokenPipeError, ConnectionResetError):
            pass
    with connected(path) as good:
        assert ask(good, PATH, as_json()).status == 200
    assert caplog.records == []
