"""``make bench-soak``: memory after very many requests, and after many hot reloads under load (4 minutes)."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import load
import runtime_models as models
import runtime_ours as ours
from common import finish
from runtime_process import ask, connect, post

_WARM_REQUESTS, _WARM_RELOADS = 20_000, 20
_CLIENTS, _CHUNK_S = 16, 2.0
_STEADY_PER_S = 100.0
MAX_GROWTH_MB = 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--reloads", type=int, default=120)
    options = parser.parse_args()
    models.FOLDER.mkdir(parents=True, exist_ok=True)
    model = models.text()
    with tempfile.TemporaryDirectory(prefix="edgekd-bench-") as folder:
        bundle = Path(shutil.copy(model.bundle, folder))
        result = {
            "requests": after_requests(model, bundle, options.requests),
            "reloads": after_reloads(model, bundle, options.reloads),
        }
    met = {name: one["growth_mb"] <= MAX_GROWTH_MB and not one["failed"] for name, one in result.items()}
    rows = [
        (
            f"{one['count']:,} {name}",
            f"{one['resident_mb'][0]:.2f} → {one['resident_mb'][-1]:.2f}",
            f"{one['growth_mb']:+.2f}",
            f"{one['failed']}",
            "met" if met[name] else "MISSED",
        )
        for name, one in result.items()
    ]
    finish(
        "soak",
        result | {"met": met},
        rows,
        ("after", "resident MB", "growth", "requests failed", f"≤ {MAX_GROWTH_MB:g} MB"),
    )
    sys.exit(0 if all(met.values()) else 1)


def after_requests(model: models.Served, bundle: Path, count: int) -> dict[str, Any]:
    """Half of them over TCP, half over the unix socket."""
    request = ours.requests(model)["json"]
    with ours.running(bundle, request) as running:
        done = failed = 0
        resident: list[float] = []
        while done < count + _WARM_REQUESTS:
            for address in (running.port, running.uds):
                figures = load.run(address, request, connections=_CLIENTS, seconds=_CHUNK_S)
                done, failed = done + figures["answered"], failed + figures["failed"]
            if done >= _WARM_REQUESTS:
                resident.append(running.process.resident_mb())
            _show(f"{done:,} requests, {running.process.resident_mb():.2f} MB")
    return _grown(done - _WARM_REQUESTS, failed, resident)


def after_reloads(model: models.Served, bundle: Path, count: int) -> dict[str, Any]:
    """One after the other, while clients ask."""
    request = ours.requests(model)["json"]
    again = post(f"/v2/repository/models/{model.engine.bundle.name}/load", b"{}", "application/json")
    with ours.running(bundle, request) as running, connect(running.port, timeout=120) as connection:
        steady = load.start(running.port, request, connections=2, seconds=86_400, rate=_STEADY_PER_S)
        resident: list[float] = []
        for number in range(count + _WARM_RELOADS):
            status, body = ask(connection, again)
            if status != 200:
                steady.kill()
                raise RuntimeError(f"reload {number} was answered {status} {body!r}")
            time.sleep(0.05)
            if number >= _WARM_RELOADS:
                resident.append(running.process.resident_mb())
            _show(f"{number + 1} reloads, {running.process.resident_mb():.2f} MB")
        steady.terminate()
        failed = load.result(steady)["failed"]
    return _grown(count, failed, resident)


def _grown(count: int, failed: int, resident: list[float]) -> dict[str, Any]:
    return {"count": count, "failed": failed, "growth_mb": resident[-1] - resident[0], "resident_mb": resident}


def _show(line: str) -> None:
    if sys.stdout.isatty():
        print(f"\r{line}  ", end="", flush=True)


if __name__ == "__main__":
    main()
