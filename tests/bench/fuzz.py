"""``make bench-fuzz``: hostile clients of many kinds at once, while a good one must be answered throughout (4 minutes).

``--minutes 60`` for the long run. Afterwards Schemathesis asks everything that the served OpenAPI document describes.
Anything that is answered by a 5xx other than "overloaded" (503) and "too late" (504) is written to build/bench/fuzz/.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import runtime_models as models
import runtime_ours as ours
from common import RESULTS, finish, percentile
from fuzz_attacks import ATTACKS, Attack, Target
from fuzz_frames import FRAME_ATTACKS
from fuzz_openapi import openapi_findings
from runtime_process import Address, ask, connect, read_frame

_SETTLE = 0.2  # of the time, until memory counts
_ALLOWED = (503, 504)
MAX_GROWTH_MB = 4.0  # of each process
Asks = Callable[[socket.socket, bytes], tuple[int, bytes]]
FOLDER = RESULTS / "fuzz"


@dataclass
class Seen:
    """What the clients have seen until now."""

    attacks: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    good: list[float] = field(default_factory=list)
    """Milliseconds of good requests."""
    lost: list[str] = field(default_factory=list)
    """Good requests that were not answered as they should."""
    memory_mb: list[tuple[float, float]] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="of mixed attacks; default: %(default)s")
    parser.add_argument("--attackers", type=int, default=4, help="at once; default: %(default)s")
    parser.add_argument("--processes", type=int, default=1, help="that serve; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--examples", type=int, default=50, help="Schemathesis' per operation; default: %(default)s")
    options = parser.parse_args()
    for folder in (models.FOLDER, FOLDER):
        folder.mkdir(parents=True, exist_ok=True)
    model, seen = models.text(), Seen()
    good = ours.requests(model)["json"]
    with ours.running(model.bundle, good, "--processes", str(options.processes)) as running:
        attack(running, model, seen, options)
        openapi = openapi_findings(running.port, options.examples, FOLDER)
        ended = running.process.exit_code()
        running.process.send(signal.SIGTERM)
        code, log = running.process.wait(), running.process.log()
    report(seen, openapi, {"ended": ended, "exit code": code, "tracebacks": log.count("Traceback")}, log, options)


def attack(running: ours.Running, model: models.Served, seen: Seen, options: argparse.Namespace) -> None:
    """Attackers, a good client and a look at the memory, until the time is over."""
    until = time.monotonic() + 60 * options.minutes
    http: list[Address] = [running.port, running.uds]
    ways = [(one, attack) for attack in ATTACKS for one in http] + [(running.ipc, attack) for attack in FRAME_ATTACKS]
    target = _target(model)
    threads = [
        threading.Thread(target=_attacker, args=(ways, target, random.Random(options.seed + k), seen, until))
        for k in range(options.attackers)
    ]
    request = ours.requests(model)["json"]
    clients = [(address, request, ask) for address in http] + [(running.ipc, ours.frame(request), _ask_frames)]
    threads.append(threading.Thread(target=_good_client, args=(clients, seen, until)))
    for thread in threads:
        thread.start()
    started = time.monotonic()
    while any(thread.is_alive() for thread in threads):
        if running.process.exit_code() is None:
            process = running.process
            memory_mb = process.resident_mb() if options.processes == 1 else process.memory_mb()
            seen.memory_mb.append((time.monotonic() - started, memory_mb))
        if sys.stdout.isatty():
            print(f"\r{sum(seen.attacks.values())} attacks, {len(seen.good)} good answers", end="", flush=True)
        time.sleep(1)
    print()


def _attacker(ways: list[tuple[Address, Attack]], target: Target, rng: random.Random, seen: Seen, until: float) -> None:
    while time.monotonic() < until:
        address, one = rng.choice(ways)
        sent = one(address, target, rng)
        name = f"{one.__module__.removeprefix('fuzz_')}.{one.__name__}"
        seen.attacks[name] += 1
        seen.statuses[str(sent.status)] += 1
        if sent.status is not None and sent.status >= 500 and sent.status not in _ALLOWED:
            path = FOLDER / f"{name}-{len(seen.findings)}.request"
            path.write_bytes(sent.request)
            seen.findings.append(f"{sent.status}: {path.name}")


def _ask_frames(connection: socket.socket, request: bytes) -> tuple[int, bytes]:
    connection.sendall(request)
    return read_frame(connection)


def _good_client(clients: list[tuple[Address, bytes, Asks]], seen: Seen, until: float) -> None:
    """On one connection for a while, and then on a new one of another kind; all must say the same."""
    expected = None
    while time.monotonic() < until:
        for address, request, asks in clients:
            try:
                with connect(address) as connection:
                    for _ in range(20):
                        start = time.perf_counter()
                        answer = asks(connection, request)
                        seen.good.append((time.perf_counter() - start) * 1000)
                        expected = expected or answer
                        if answer != expected or answer[0] != 200:
                            seen.lost.append(f"{answer}")
                        time.sleep(0.01)
            except (OSError, ValueError) as error:
                seen.lost.append(f"{type(error).__name__}: {error}")


def _target(model: models.Served) -> Target:
    name, spec = model.engine.bundle.name, model.engine.inputs[0]
    one = {"name": spec.name, "shape": list(model.row.shape), "datatype": "INT32", "data": model.row.ravel().tolist()}
    classified = json.dumps({"text": model.text}).encode()
    return Target(f"/v2/models/{name}/infer", f"/v1/models/{name}:classify", {"inputs": [one]}, classified)


def report(
    seen: Seen, openapi: dict[str, Any] | str, server: dict[str, Any], log: str, options: argparse.Namespace
) -> None:
    settled = [memory for at, memory in seen.memory_mb if at >= _SETTLE * seen.memory_mb[-1][0]]
    growth, allowed = settled[-1] - settled[0], MAX_GROWTH_MB * options.processes
    met = {
        "no 5xx": not seen.findings,
        "good requests answered": not seen.lost and len(seen.good) > 0,
        "server alive until the end": server["ended"] is None and server["exit code"] == 0,
        "no traceback in the log": server["tracebacks"] == 0,
        f"memory grows by {allowed:g} MB at most": growth <= allowed,
        "no 5xx by Schemathesis": not isinstance(openapi, str) and not openapi["server_errors"],
    }
    result = {
        "minutes": options.minutes,
        "seed": options.seed,
        "attacks": dict(seen.attacks),
        "statuses": dict(seen.statuses),
        "findings": seen.findings[:50],
        "good": {"answers": len(seen.good), "p50_ms": percentile(seen.good, 50), "p99_ms": percentile(seen.good, 99)},
        "lost": seen.lost[:50],
        "memory_mb": {"settled": settled[0], "end": settled[-1], "every 30 s": [mb for _, mb in seen.memory_mb[::30]]},
        "schemathesis": openapi,
        "server": server,
        "met": met,
    }
    (FOLDER / "server.log").write_text(log, encoding="utf-8")
    good = result["good"]
    rows = [
        ("attacks", f"{sum(seen.attacks.values()):,} of {len(seen.attacks)} kinds in {options.minutes:g} minutes"),
        ("their answers", ", ".join(f"{status}: {count}" for status, count in sorted(seen.statuses.items()))),
        ("5xx", f"{len(seen.findings)} {seen.findings[:3] or ''}"),
        ("good requests", f"{len(seen.good)} answered, {len(seen.lost)} lost {seen.lost[:2] or ''}"),
        ("their p50, p99", f"{good['p50_ms']:.2f}, {good['p99_ms']:.2f} ms"),
        ("memory", f"{settled[0]:.1f} → {settled[-1]:.1f} MB ({growth:+.1f})"),
        ("Schemathesis", openapi if isinstance(openapi, str) else openapi["summary"]),
        *((what, "met" if is_met else "MISSED") for what, is_met in met.items()),
    ]
    finish("fuzz", result, rows, ("", f"seed {options.seed}"))
    sys.exit(0 if all(met.values()) else 1)


if __name__ == "__main__":
    main()
