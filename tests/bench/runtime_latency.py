"""One client, every way in turn: the bare call, the bare echo of the same bytes, the server."""

from __future__ import annotations

import gc
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from common import percentile
from edgekd_runtime.bundle import load_bundle
from edgekd_runtime.engine import Engine
from runtime_models import Served
from runtime_ours import Running, binary_infer, frame
from runtime_process import Address, ask, connect, free_port, get

_BLOCK, _SETTLE = 60, 10  # requests in a row, of which the first are not counted: caches and the server's polling
LIMITS_US = {"ipc": 20.0, "unix": 60.0, "tcp": 80.0}
"""What the server may take on top of the bare call and the bare echo, at the median."""
Figures = dict[str, float]


def measure(model: Served, running: Running, request: bytes, seconds: float) -> dict[str, Figures]:
    """Way → p10, p50 and p99 in microseconds, and ``extra``, what the server adds to ``bare`` and its ``echo``.

    ``own``: what it adds to an echo that calls the model itself. Both costs are in that: of a call whose caches are
    cold because another process has been woken, and of waking a client that has waited for so long.
    """
    threads = _threads(running.port)
    framed = frame(binary_infer(model))
    ways: dict[str, tuple[Address, bytes]] = {
        "tcp": (running.port, request),
        "unix": (running.uds, request),
        "ipc": (running.ipc, framed),
    }
    if framed != frame(request):
        ways["ipc, json"] = running.ipc, frame(request)
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {"bare": bare_call(model, threads)}
        for way, (address, sent) in ways.items():
            served = stack.enter_context(connect(address))
            reply_bytes = first_reply(served, sent)
            called = [str(model.bundle), str(threads), *([model.text] if model.text is not None else [])]
            for name, calling in (("echo", []), ("calling echo", called)):
                at = free_port() if way == "tcp" else running.uds.with_name(f"{name} {way}.sock".replace(" ", "-"))
                echo = stack.enter_context(echoing(at, len(sent), reply_bytes, *calling))
                calls[f"{name} {way}"] = _call(echo, sent, reply_bytes)
            calls[way] = _call(served, sent, reply_bytes)
        taken = in_turn(calls, seconds)
    figures = {name: {f"p{p}": percentile(times, p) for p in (10, 50, 99)} for name, times in taken.items()}
    for way in ways:
        p50 = figures[way]["p50"]
        figures[way]["extra"] = p50 - figures["bare"]["p50"] - figures[f"echo {way}"]["p50"]
        figures[way]["own"] = p50 - figures[f"calling echo {way}"]["p50"]
    return figures


def _threads(port: int) -> int:
    """Of the server's interpreter."""
    with connect(port) as connection:
        _, page = ask(connection, get("/metrics"))
    found = re.search(rb'edgekd_model_info\{.*threads="(\d+)"', page)
    assert found is not None
    return int(found[1])


def bare_call(model: Served, threads: int) -> Callable[[], object]:
    """What must be done in any case: invoke, with the threads that the server has, and of a text the preprocessing."""
    engine, row, text = Engine(load_bundle(model.bundle), threads=threads), [model.row], model.text
    if text is not None:
        return lambda: engine.invoke(engine.preprocess(text))
    return lambda: engine.invoke(row)


def in_turn(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Microseconds of each call, in blocks, so that a machine whose speed drifts is fair to all."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    clock = time.perf_counter_ns
    gc.collect()
    gc.disable()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for name, call in calls.items():
            for i in range(_BLOCK):
                start = clock()
                call()
                if i >= _SETTLE:
                    taken[name].append((clock() - start) / 1000)
    gc.enable()
    return taken


def _call(connection: socket.socket, request: bytes, reply_bytes: int) -> Callable[[], object]:
    """Sends, and reads as many bytes as the answer has: the same work for the server and for the echo."""
    send, receive = connection.sendall, connection.recv

    def call() -> None:
        send(request)
        pending = reply_bytes
        while pending > 0:
            received = len(receive(1 << 18))
            if not received:
                raise RuntimeError("the server closed the connection")
            pending -= received

    return call


def first_reply(connection: socket.socket, request: bytes) -> int:
    """How many bytes the answer has; it is complete when nothing more comes."""
    connection.sendall(request)
    count = len(connection.recv(1 << 18))
    connection.settimeout(0.3)
    try:
        while received := len(connection.recv(1 << 18)):
            count += received
    except TimeoutError:
        pass
    connection.settimeout(30)
    return count


@contextmanager
def echoing(address: Address, request_bytes: int, reply_bytes: int, *calling: str) -> Iterator[socket.socket]:
    """A connection to ``echo.py``. ``calling``: the model that it calls."""
    program = Path(__file__).with_name("echo.py")
    command = [sys.executable, str(program), str(address), str(request_bytes), str(reply_bytes), *calling]
    with subprocess.Popen(command) as process:
        try:
            for _ in range(500):
                try:
                    connection = connect(address)
                    break
                except OSError:
                    time.sleep(0.02)
            else:
                raise RuntimeError(f"the echo does not listen on {address}")
            with connection:
                yield connection
        finally:
            process.terminate()
