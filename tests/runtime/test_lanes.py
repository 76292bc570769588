"""Large models, which threads answer off the event loop: order, overload, deadlines, and everybody else meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import numpy as np
import pytest
from tests.runtime.listen import listening

from edgekd_runtime import api
from edgekd_runtime.bundle import Bundle
from edgekd_runtime.engine import Engine
from edgekd_runtime.lanes import DEADLINE_HEADER
from edgekd_runtime.routes import Limits, Site

TIMEOUT_S = 30


class Gate:
    """Holds every invoke of the model until it is opened."""

    def __init__(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.seen: list[float] = []
        invoke = engine.pool.invoke

        def held(arrays: Any) -> list[Any]:
            self.entered.release()
            assert self.open.wait(TIMEOUT_S)
            self.seen.append(float(arrays[0][0, 0]))
            return invoke(arrays)

        monkeypatch.setattr(engine.pool, "invoke", held)


@pytest.fixture
def engine(int8_dense: bytes) -> Engine:
    return Engine(Bundle("dense", int8_dense, "int8", {"in": "x"}, {"out": "y"}))


@pytest.fixture
def site(engine: Engine) -> Iterator[Site]:
    site = Site({"dense": engine}, api.ROUTES, Limits(queue=2, inline_us=0))
    yield site
    site.close()


@pytest.fixture
def gate(engine: Engine, site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(engine, monkeypatch)
    yield gate
    gate.open.set()


def body_of(first: float) -> bytes:
    return json.dumps(
        {"inputs": [{"name": "in", "datatype": "FP32", "shape": [1, 4], "data": [first, 0, 0, 0]}]}
    ).encode()


class Client:
    def __init__(self, port: int) -> None:
        self.connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)

    def send(self, first: float = 0, **headers: str) -> Client:
        self.connection.request("POST", "/v2/models/dense/infer", body_of(first), headers)
        return self

    def answer(self) -> HTTPResponse:
        response = self.connection.getresponse()
        response.read()
        return response

    def get(self, path: str) -> bytes:
        self.connection.request("GET", path)
        return self.connection.getresponse().read()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_the_loop_answers_others_while_a_large_model_runs(site: Site, gate: Gate) -> None:
    with listening(site) as port:
        busy = Client(port).send()
        assert gate.entered.acquire(timeout=TIMEOUT_S)
        assert Client(port).get("/v2/health/live") == b'{"live":true}'
        gate.open.set()
        assert busy.answer().status == 200


def test_a_full_line_refuses_at_once_and_counts_it(site: Site, gate: Gate) -> None:
    with listening(site) as port:
        first = Client(port).send()
        assert gate.entered.acquire(timeout=TIMEOUT_S)
        waiting = [Client(port).send() for _ in range(2)]
        wait_for(lambda: site.lanes["dense"].depth == 2)
        refused = Client(port).send().answer()
        assert (refused.status, int(refused.headers["retry-after"]) >= 1) == (503, True)
        assert b'edgekd_queue_depth{model="dense"} 2\n' in Client(port).get("/metrics")
        gate.open.set()
        assert [client.answer().status for client in (first, *waiting)] == [200] * 3
        page = Client(port).get("/metrics").decode().splitlines()
    assert 'edgekd_requests_total{model="dense",code="200"} 3' in page
    assert 'edgekd_requests_total{model="dense",code="503"} 1' in page
    assert 'edgekd_request_seconds_count{model="dense"} 4' in page
    assert 'edgekd_request_seconds_bucket{model="dense",le="+Inf"} 4' in page


def test_a_deadline_is_kept_and_what_waited_too_long_is_not_run(site: Site, gate: Gate) -> None:
    with listening(site) as port:
        first = Client(port).send(1)
        assert gate.entered.acquire(timeout=TIMEOUT_S)
        late = Client(port).send(2, **{DEADLINE_HEADER: "30"})
        assert late.answer().status == 504
        last = Client(port).send(3)
        wait_for(lambda: site.lanes["dense"].depth == 2)
        gate.open.set()
        assert (first.answer().status, last.answer().status) == (200, 200)
        assert late.send(4).answer().status == 200  # the connection is as good as before
    assert gate.seen == [5, 9, 11]  # 0.5 a step from 3; the second, which nobody waited for, never ran


def test_the_servers_own_deadline_also_holds_on_the_event_loop(int8_dense: bytes) -> None:
    engine = Engine(Bundle("dense", int8_dense, "int8", {"in": "x"}, {"out": "y"}))
    site = Site({"dense": engine}, api.ROUTES, Limits(deadline_ms=1e-6, inline_us=1e9))
    assert not site.lanes
    with listening(site) as port:
        assert Client(port).send().answer().status == 504


@pytest.mark.parametrize("value", ["", "soon", "0", "-1", "nan", "inf", "1e12"])
@pytest.mark.parametrize("inline_us", [0, 1e9])
def test_what_is_no_deadline(engine: Engine, value: str, inline_us: float) -> None:
    site = Site({"dense": engine}, api.ROUTES, Limits(inline_us=inline_us))
    with listening(site) as port:
        assert Client(port).send(**{DEADLINE_HEADER: value}).answer().status == 400
        assert Client(port).send(**{DEADLINE_HEADER: "10000"}).answer().status == 200
    site.close()


@pytest.fixture
def threads(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """In which thread each request was answered: the server's own, or one of the lane's, ``edgekd-dense-N``."""
    seen: list[str] = []
    invoke = engine.pool.invoke

    def noted(arrays: Any) -> list[Any]:
        seen.append(threading.current_thread().name)
        return invoke(arrays)

    monkeypatch.setattr(engine.pool, "invoke", noted)
    return seen


def answered_by_lane(threads: list[str], client: Client, times: int, **headers: str) -> list[bool]:
    """Ask so often, and for each whether a thread of the lane answered."""
    before = len(threads)
    for _ in range(times):
        assert client.send(**headers).answer().status == 200
    return [name.startswith("edgekd-dense") for name in threads[before:]]


def test_a_client_that_has_the_server_to_itself_is_answered_on_the_event_loop(site: Site, threads: list[str]) -> None:
    with listening(site) as port:
        one, other = Client(port), Client(port)
        assert answered_by_lane(threads, one, 12) == [True] * 8 + [False] * 4
        assert answered_by_lane(threads, one, 1, **{DEADLINE_HEADER: "10000"}) == [True]
        assert answered_by_lane(threads, one, 1) == [False]
        assert answered_by_lane(threads, other, 1) == [True]
        assert answered_by_lane(threads, one, 9) == [True] * 8 + [False]
        other.get("/v2/health/live")  # whatever else is asked
        assert answered_by_lane(threads, one, 1) == [True]
        assert b'edgekd_request_seconds_count{model="dense"} 25\n' in other.get("/metrics")


@pytest.mark.parametrize("workers, alone_us", [(1, 0), (2, 1e9)])
def test_a_large_model_or_several_interpreters_keep_to_their_threads(
    int8_dense: bytes, workers: int, alone_us: float
) -> None:
    engine = Engine(Bundle("dense", int8_dense, "int8", {"in": "x"}, {"out": "y"}), workers=workers)
    site = Site({"dense": engine}, api.ROUTES, Limits(inline_us=0, alone_us=alone_us))
    assert not site.lanes["dense"].may_be_passed
    site.close()


def test_requests_sent_ahead_are_answered_in_order(site: Site, gate: Gate) -> None:
    def post(first: float) -> bytes:
        head = f"POST /v2/models/dense/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body_of(first))}\r\n\r\n"
        return head.encode() + body_of(first)

    get = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    gate.open.set()
    with listening(site) as port:
        client = Client(port)
        for _ in range(2):  # the second time the heads are known
            client.connection.connect()
            client.connection.sock.sendall(post(1) + get + post(2))
            client.connection.sock.sendall(post(3))
            got = b""
            while got.count(b"HTTP/1.1 200") < 4 or not got.endswith(b"}"):
                got += client.connection.sock.recv(65536)
            bodies = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in got.split(b"HTTP/1.1 200")[1:]]
            assert bodies[1] == {"live": True}
            outputs = [bodies[i]["outputs"][0]["data"][0] for i in (0, 2, 3)]
            assert outputs == sorted(set(outputs))
            client.connection.close()


def test_a_client_that_leaves_while_it_waits_harms_nobody(site: Site, gate: Gate) -> None:
    with listening(site) as port:
        gone = Client(port).send()
        assert gate.entered.acquire(timeout=TIMEOUT_S)
        gone.connection.close()
        stays = Client(port).send()
        gate.open.set()
        assert stays.answer().status == 200


def test_several_interpreters_run_at_the_same_time(int8_dense: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Bundle("dense", int8_dense, "int8", {"in": "x"}, {"out": "y"}), workers=2)
    site = Site({"dense": engine}, api.ROUTES)  # small as it is, two interpreters need threads
    gate = Gate(engine, monkeypatch)
    with listening(site) as port:
        clients = [Client(port).send(first) for first in (1, 2)]
        for _ in clients:
            assert gate.entered.acquire(timeout=TIMEOUT_S)
        gate.open.set()
        assert [client.answer().status for client in clients] == [200, 200]
    site.close()


def test_a_pool_never_lends_an_interpreter_twice(int8_dense: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(Bundle("dense", int8_dense, "int8", {"in": "x"}, {"out": "y"}), workers=3)
    inside: list[object] = []
    invoke = type(engine.backend).invoke

    def watched(backend: Any, arrays: Any) -> Any:
        assert backend not in inside
        inside.append(backend)
        time.sleep(0.001)
        outputs = invoke(backend, arrays)
        inside.remove(backend)
        return outputs

    monkeypatch.setattr(type(engine.backend), "invoke", watched)
    wrong: list[float] = []

    def ask(value: float) -> None:
        for _ in range(20):
            out = engine.infer({"in": np.full((1, 4), value, np.float32)})["out"]
            if not np.array_equal(out, expected[value]):
                wrong.append(value)

    expected = {value: engine.infer({"in": np.full((1, 4), value, np.float32)})["out"] for value in range(8)}
    threads = [threading.Thread(target=ask, args=(value,)) for value in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert not inside
    assert sum(engine.pool.times().counts) == 8 * 21


def test_a_request_whose_body_comes_after_its_model_was_replaced(site: Site, engine: Engine, gate: Gate) -> None:
    gate.open.set()
    body = body_of(1)
    with listening(site) as port:
        client = Client(port)
        client.connection.putrequest("POST", "/v2/models/dense/infer")
        client.connection.putheader("Content-Length", str(len(body)))
        client.connection.endheaders()
        client.connection.send(body[:5])
        assert Client(port).get("/v2/health/live")  # by now the head has been read
        site.add("dense", engine, site.lane_for("dense", engine))
        client.connection.send(body[5:])
        assert client.answer().status == 200
