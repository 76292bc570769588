"""``make bench-steps``: what the server's own steps around a model take, from a frame's arrival to its answer.

All in one process: no other is woken, and no core has to wake up, so that it tells more of the code, and less of the
machine, than the latency of a client. A socket is written to, the server's connection reads and answers, and the answer
is read; only the middle is timed. The bare call between the same two system calls is taken off. The model runs each
time: it leaves the caches cold, and Python's steps take about twice as long as in a loop without it.

``--against FOLDER`` does the same with the runtime of another checkout, in turn with this one's.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from common import ROOT, finish

MODELS = ("resnet8", "text")
_ROUNDS, _BLOCK = 40, 100
_TURNS = 3
_PERCENT = 10  # of the calls: a shared machine's pauses are in the others
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, help="a checkout, to compare with")
    parser.add_argument("--models", default=",".join(MODELS), help="which, separated by commas; default: %(default)s")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child)))
        return
    folders = {"this": ROOT} | ({"other": options.against.resolve()} if options.against else {})
    found: dict[str, Figures] = {}
    for name in options.models.split(","):
        turns: dict[str, list[dict[str, Figures]]] = {which: [] for which in folders}
        for _ in range(_TURNS):
            for which, folder in folders.items():
                turns[which].append(_in_child(name, folder))
        for form, parts in turns["this"][0].items():
            found[f"{name}, {form}"] = {
                f"{which} {part}": median(turn[form][part] for turn in turns[which])
                for which in folders
                for part in parts
            }
    columns = [f"{which} {part}" for which in folders for part in ("bare", "steps")]
    rows = [(what, *(f"{figures[column]:.1f}" for column in columns)) for what, figures in found.items()]
    finish("steps", {"unit": "us", "models": found}, rows, ("", *columns))


def _in_child(name: str, folder: Path) -> dict[str, Figures]:
    environment = os.environ | {"PYTHONPATH": str(folder / "runtime")}
    command = [sys.executable, __file__, "--child", name]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Figures] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(name: str) -> dict[str, Figures]:
    """Form → microseconds of the ``bare`` call between two system calls, and of the server's ``steps`` on top."""
    import runtime_models
    from edgekd_runtime import api, shared
    from edgekd_runtime.ipc import IpcServer
    from edgekd_runtime.poll import BusyPoll
    from edgekd_runtime.routes import Site
    from runtime_latency import bare_call
    from runtime_ours import binary_infer, frame, requests

    model = {"resnet8": runtime_models.resnet8, "text": runtime_models.text}[name]()
    forms = {"binary": binary_infer(model), "json": requests(model)["json"]}
    site = Site({model.engine.bundle.name: model.engine}, api.ROUTES)
    server = IpcServer(site, (), 1 << 22, BusyPoll(200))
    bare = bare_call(model, 1)
    mine, its = socket.socketpair()
    loop = asyncio.new_event_loop()
    its.setblocking(False)
    server.take(loop, its)
    (connection,) = server.connections
    room, answer, found = memoryview(bytearray(1 << 20)), bytearray(1 << 20), {}
    gc.collect()
    gc.freeze()
    for form, request in forms.items():
        sent = frame(request)
        mine.sendall(sent)
        connection._readable()
        reply = bytes(answer[: mine.recv_into(answer)])

        def called(reply: bytes = reply) -> None:
            its.recvmsg_into([room], shared.ANCILLARY_BYTES)
            bare()
            its.send(reply)

        taken = _in_turn(mine, sent, answer, {"bare": called, "whole": connection._readable})
        found[form] = {"bare": taken["bare"], "steps": taken["whole"] - taken["bare"]}
    return found


def _in_turn(mine: socket.socket, sent: bytes, answer: bytearray, ways: dict[str, Callable[[], None]]) -> Figures:
    taken: dict[str, list[int]] = {way: [] for way in ways}
    for _ in range(_ROUNDS):
        for way, call in ways.items():
            for _ in range(_BLOCK):
                mine.sendall(sent)
                start = time.perf_counter_ns()
                call()
                taken[way].append(time.perf_counter_ns() - start)
                mine.recv_into(answer)
    return {way: sorted(times)[len(times) * _PERCENT // 100] / 1000 for way, times in taken.items()}


if __name__ == "__main__":
    main()
