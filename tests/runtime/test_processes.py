"""Several server processes behind one address: who serves whom, what they share, and what happens when one dies."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.device.test_serve import Server
from tests.runtime.test_operations import BODY, TIMEOUT_S, Load, get, wait_for

from edgekd_runtime.bundle import Bundle
from edgekd_runtime.channel import Channel
from edgekd_runtime.client import Client
from edgekd_runtime.counts import Counts, total
from edgekd_runtime.histogram import Histogram
from edgekd_runtime.tallies import Tallies

PROCESSES = 2


@pytest.fixture
def bundle_file(tmp_path: Path, dense_bundle: Bundle) -> Path:
    dense_bundle.save(tmp_path / "dense.edgekd")
    return tmp_path / "dense.edgekd"


@pytest.fixture
def server(bundle_file: Path, tmp_path: Path) -> Iterator[Server]:
    arguments = ("--port", "0", "--uds", tmp_path / "http", "--ipc", tmp_path / "ipc", "--processes", str(PROCESSES))
    server = Server(tmp_path / "log", bundle_file, *arguments)
    yield server
    if server.process.poll() is None:
        assert server.stop() == 0
    assert not (tmp_path / "http").exists()
    assert not (tmp_path / "ipc").exists()


def children(server: Server) -> list[int]:
    """The server processes' ids."""
    pid = server.process.pid
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def sockets_of(pid: int) -> int:
    links = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(fd.readlink()))
        except FileNotFoundError:  # it was closed in between
            continue
    return sum(link.startswith("socket:") for link in links)


def infer(connection: http.client.HTTPConnection) -> int:
    connection.request("POST", "/v2/models/dense/infer", BODY)
    response = connection.getresponse()
    response.read()
    return response.status


def counter(server: Server, name: str) -> float:
    page = get(server, "/metrics")[1].decode()
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", page, re.MULTILINE))


def versions(server: Server, count: int = 2 * PROCESSES) -> set[str]:
    """What clients at the same time, of which every process has some, are told is served; "" for nothing."""
    found, held = set(), [server.connection() for _ in range(count)]
    for connection in held:
        connection.request("GET", "/v2/models/dense")
        found.add("".join(json.loads(connection.getresponse().read()).get("versions", ())))
    for connection in held:
        connection.close()
    return found


def all_serve(server: Server) -> bool:
    """Whether every process is given some of a few clients."""
    before = {pid: sockets_of(pid) for pid in children(server)}
    held = [server.connection() for _ in range(2 * PROCESSES)]
    for connection in held:
        connection.request("GET", "/healthz")
        connection.getresponse().read()
    served = [sockets_of(pid) > count for pid, count in before.items()]
    for connection in held:
        connection.close()
    return len(served) == PROCESSES and all(served)


def test_clients_are_shared_out_evenly(server: Server) -> None:
    before = {pid: sockets_of(pid) for pid in children(server)}
    assert len(before) == PROCESSES
    held = [server.connection() for _ in range(8)]
    assert {infer(one) for one in held} == {200}
    assert [sockets_of(pid) - count for pid, count in before.items()] == [4, 4]
    for one in held[::2]:  # those of one process leave …
        one.close()
    wait_for(lambda: sum(sockets_of(pid) - count for pid, count in before.items()) == 4)
    time.sleep(0.3)  # … and the supervisor hears of it
    held = [*held[1::2], *(server.connection() for _ in range(4))]
    assert {infer(one) for one in held} == {200}
    assert [sockets_of(pid) - count for pid, count in before.items()] == [4, 4]
    for one in held:
        one.close()


def test_all_ways_are_served(server: Server, tmp_path: Path) -> None:
    assert server.announced.count("serving ") == 1
    for uri in (f"http://127.0.0.1:{server.port}", f"unix://{tmp_path / 'http'}", f"ipc://{tmp_path / 'ipc'}"):
        for _ in range(PROCESSES):
            with Client(uri) as client:
                assert client.infer({"in": np.ones((1, 4), np.float32)})["out"].shape[0] == 1


def test_metrics_are_of_all_and_survive_a_death(server: Server, tmp_path: Path) -> None:
    held = [server.connection() for _ in range(4)]
    assert {infer(one) for one in held for _ in range(5)} == {200}
    wait_for(lambda: counter(server, "edgekd_requests_total") == 20)
    time.sleep(1.2)  # by now whichever process answers knows what the others have counted
    assert counter(server, "edgekd_request_seconds_count") == 20
    inferred = counter(server, "edgekd_inference_seconds_count")
    assert inferred >= 20
    (stats,) = get(server, "/v2/models/dense/stats")[1]["model_stats"]
    assert stats["inference_count"] == inferred
    assert counter(server, "edgekd_server_processes") == PROCESSES
    killed = children(server)[0]
    os.kill(killed, signal.SIGKILL)
    wait_for(lambda: len(children(server)) == PROCESSES and killed not in children(server))
    wait_for(lambda: counter(server, "edgekd_server_processes") == PROCESSES)
    time.sleep(1.2)
    assert {infer(one) for one in [server.connection() for _ in range(4)]} == {200}
    wait_for(lambda: counter(server, "edgekd_requests_total") == 24)
    time.sleep(1.2)
    assert counter(server, "edgekd_inference_seconds_count") >= inferred + 4
    assert "a server process died process=0 how=SIGKILL" in (tmp_path / "log").read_text()
    for one in held:
        one.close()


def test_a_death_under_load_costs_at_most_what_was_being_answered(server: Server) -> None:
    with Load(server.port, clients=4) as load:
        load.wait(50)
        killed = children(server)[1]
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: len(children(server)) == PROCESSES and killed not in children(server))
        load.wait(200)
    assert len(load.failures) <= 4  # of the two clients that it had, and of those that it was just given


def test_the_repository_is_one(server: Server, bundle_file: Path, dense_bundle: Bundle) -> None:
    assert get(server, "/v2/repository/models/dense/unload", "POST")[0] == 200
    assert versions(server) == {""}
    killed = children(server)[0]
    os.kill(killed, signal.SIGKILL)  # its successor does not serve it either
    wait_for(lambda: killed not in children(server) and all_serve(server))
    assert versions(server) == {""}
    replace(dense_bundle, version="2").save(bundle_file)
    assert get(server, "/v2/repository/models/dense/load", "POST")[0] == 200
    assert versions(server) == {"2"}
    bundle_file.write_bytes(b"broken")
    assert get(server, "/v2/repository/models/dense/load", "POST")[0] == 422
    assert versions(server) == {"2"}


def test_changes_at_the_same_time_are_made_by_all_in_one_order(server: Server) -> None:
    def change(verb: str, codes: list[int]) -> None:
        codes.append(get(server, f"/v2/repository/models/dense/{verb}", "POST")[0])

    for _ in range(4):
        codes: list[int] = []
        asking = [threading.Thread(target=change, args=(verb, codes)) for verb in ("load", "unload", "load", "unload")]
        for one in asking:
            one.start()
        server.process.send_signal(signal.SIGHUP)
        for one in asking:
            one.join()
        assert set(codes) <= {200, 404}  # not loaded, where two unloads came together
        assert len(versions(server)) == 1
    change("load", codes)
    assert versions(server) == {"1"}
    assert get(server, "/v2/repository/models/none/load", "POST")[0] == 404


def test_what_dies_while_its_bundle_is_broken_comes_back_without_it(
    server: Server, bundle_file: Path, dense_bundle: Bundle, tmp_path: Path
) -> None:
    bundle_file.write_bytes(b"broken")
    killed = children(server)
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not {*killed} & {*children(server)} and all_serve(server))
    assert get(server, "/healthz")[0] == 200
    (entry,) = get(server, "/v2/repository/index", "POST")[1]
    assert (entry["name"], entry["state"]) == ("dense", "UNAVAILABLE")
    dense_bundle.save(bundle_file)
    server.process.send_signal(signal.SIGHUP)
    wait_for(lambda: versions(server) == {"1"})


def test_a_reload_reaches_all_and_loses_nothing(server: Server, bundle_file: Path, dense_bundle: Bundle) -> None:
    with Load(server.port) as load:
        load.wait()
        for version in ("2", "3"):
            replace(dense_bundle, version=version).save(bundle_file)
            server.process.send_signal(signal.SIGHUP)
            wait_for(lambda version=version: versions(server) == {version})  # type: ignore[misc]
        load.wait()
    assert load.failures == []


def test_a_bundle_that_cannot_be_served_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "x.edgekd").write_bytes(b"no bundle")
    command = [sys.executable, "-m", "edgekd_runtime", "serve", str(tmp_path / "x.edgekd"), "--port", "0"]
    uds = tmp_path / "http"
    done = subprocess.run(
        [*command, "--processes", "3", "--uds", str(uds)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.count("edgekd-runtime: ") == 1
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not uds.exists()


def test_without_the_supervisor_they_end(server: Server, tmp_path: Path) -> None:
    pids = children(server)
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    for name in ("http", "ipc"):
        (tmp_path / name).unlink()


def test_a_rate_holds_for_an_address_whoever_serves_it(bundle_file: Path, tmp_path: Path) -> None:
    arguments = ("--port", "0", "--processes", str(PROCESSES), "--rate-limit", "3")
    server = Server(tmp_path / "log", bundle_file, *arguments)
    statuses = Counter(get(server, "/v2/models/dense")[0] for _ in range(8))
    assert statuses[429] >= 4
    assert server.stop() == 0


def test_limits_are_shared_out(bundle_file: Path, tmp_path: Path) -> None:
    arguments = ("--port", "0", "--processes", str(PROCESSES), "--max-connections", "4")
    server = Server(tmp_path / "log", bundle_file, *arguments)
    held = [server.connection() for _ in range(4)]
    assert {infer(one) for one in held} == {200}
    with socket.create_connection(("127.0.0.1", server.port), TIMEOUT_S) as late, late.makefile("rb") as answer:
        assert b" 503 " in answer.readline()
    for one in held:
        one.close()
    assert server.stop() == 0


def test_tuned_for_throughput_it_takes_the_cores(bundle_file: Path, tmp_path: Path) -> None:
    server = Server(tmp_path / "log", bundle_file, "--port", "0", "--tuned-for", "throughput")
    cores = min(4, len(os.sched_getaffinity(0)))
    assert len(children(server)) == (cores if cores > 1 else 0)
    assert b'threads="1"' in get(server, "/metrics")[1]
    assert server.stop() == 0


def test_a_channel_carries_messages_and_clients() -> None:
    ours, theirs = Channel.pair()
    with pytest.raises(BlockingIOError):
        ours.receive()
    one, other = socket.socketpair()
    with one, other:
        assert theirs.send({"a": 1}, other)
        assert theirs.send({"b": 2})
        message, client = ours.receive() or ({}, None)
        assert message == {"a": 1}
        assert client is not None
        with client:
            client.sendall(b"hello")
            assert one.recv(10) == b"hello"
    assert ours.receive() == ({"b": 2}, None)
    while theirs.send({"more": "x" * 1000}):  # an end that does not read
        pass
    theirs.close()
    while heard := ours.receive():
        assert heard[0] == {"more": "x" * 1000}
    assert not ours.send({"c": 3})
    ours.close()


def test_tallies_are_whole_or_not_there() -> None:
    tallies = Tallies(3)
    assert tallies.read(0) is None
    tallies.write(0, {"a": 1})
    tallies.write(2, {"b": [2]})
    assert tallies.others(1) == {0: {"a": 1}, 2: {"b": [2]}}
    assert tallies.others(0) == {2: {"b": [2]}}
    assert tallies.age_s(2) < 10
    tallies.write(0, {"a": "x" * (2 << 20)})
    assert tallies.read(0) == {"a": 1}
    tallies._memory[18] ^= 1  # half written
    assert tallies.read(0) is None


def test_counts_are_written_and_added() -> None:
    def some(seconds: float) -> Counts:
        taken = Histogram()
        taken.observe(seconds)
        return Counts({"m": Counter({200: 2})}, {"m": taken}, {"m": taken}, Counter(m=1), Counter(m=8), 10, 0.5)

    read = Counts.from_json(json.loads(json.dumps(some(1e-5).to_json())))
    whole = total([read, some(1.0)])
    assert whole.statuses == {"m": Counter({200: 4})}
    assert sum(whole.taken["m"].counts) == 2
    assert whole.taken["m"].total_s == pytest.approx(1.00001)
    assert (whole.waiting["m"], whole.limit["m"], whole.resident_bytes, whole.cpu_s) == (2, 16, 20, 1.0)
    assert whole.processes == 2
    left = total([some(1.0), read.ended()])
    assert left.statuses == whole.statuses
    assert (left.processes, left.waiting["m"], left.resident_bytes) == (1, 1, 10)
    assert sum(read.taken["m"].counts) == 1
