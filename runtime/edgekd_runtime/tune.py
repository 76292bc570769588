"""Which threads × workers suit a model on this very board; no rule of thumb holds (three threads are often no faster
than two). What was measured is kept beside the bundle for later starts.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from edgekd_runtime import atomic, timing
from edgekd_runtime.backend import installed
from edgekd_runtime.bundle import Bundle
from edgekd_runtime.engine import Engine
from edgekd_runtime.routes import Limits

SUFFIX = ".tune.json"
Goal = Literal["latency", "throughput"]
GOALS: tuple[Goal, ...] = ("latency", "throughput")

_ROUNDS = 3
_PAUSE_S = 1e-3
"""Before each answer that a client waits for: threads of XNNPACK that sleep by then must be woken, which can take
longer than they save; called in a loop they would not go to sleep."""
_METHOD = 2  # of measuring; what was kept by an earlier one is measured anew
_WORTH = 1.05
"""A setting that takes more of the board must be this much better to be preferred."""


@dataclass(frozen=True)
class Setting:
    """``threads`` of XNNPACK in each of ``workers`` interpreters."""

    threads: int
    workers: int


@dataclass(frozen=True)
class Measured:
    """``p50_us``: of one client's whole answers, which it asks for now and then; ``per_second``: answers of as many
    clients as there are workers, without a pause."""

    setting: Setting
    p50_us: float
    per_second: float


@dataclass(frozen=True)
class Tuned:
    """What was measured, and the best of it for either goal."""

    measured: tuple[Measured, ...]

    def best(self, goal: Goal) -> Setting:
        """Of those within 5 % of the best the one that needs least."""
        if goal == "latency":
            limit = min(one.p50_us for one in self.measured) * _WORTH
            good = [one for one in self.measured if one.p50_us <= limit]
        else:
            least = max(one.per_second for one in self.measured) / _WORTH
            good = [one for one in self.measured if one.per_second >= least]
        return min((one.setting for one in good), key=lambda one: (one.threads * one.workers, one.workers))


def settings(cores: int) -> list[Setting]:
    """All that keep no more threads busy than there are cores."""
    return [Setting(t, w) for t in range(1, cores + 1) for w in range(1, cores // t + 1)]


def measure(
    bundle: Bundle, *, backend: str = "auto", seconds: float = 0.3, done: Callable[[], None] = lambda: None
) -> Tuned:
    """Time every setting for ``3 · 2 · seconds``, in turn; ``done`` is called after each of ``steps``.

    Raises what opening an engine does.
    """
    cores = len(os.sched_getaffinity(0))
    wanted = settings(cores)
    engines = {t: Engine(bundle, threads=t, workers=cores // t, backend=backend) for t in range(1, cores + 1)}
    calls = {t: timing.whole_answer(engine) for t, engine in engines.items()}
    if timing.answer_us(engines[1]) <= Limits().inline_us:
        # The event loop answers small models itself; a second interpreter would have nothing to do.
        wanted = [one for one in wanted if one.workers == 1]
    p50: dict[int, list[float]] = {one.threads: [] for one in wanted}
    rates: dict[Setting, list[float]] = {one: [] for one in wanted}
    for _ in range(_ROUNDS):
        for t, taken in p50.items():
            taken.append(_p50_us(calls[t], seconds))
        for one, rate in rates.items():
            rate.append(_per_second(calls[one.threads], one.workers, seconds))
            done()
    return Tuned(tuple(Measured(one, _median(p50[one.threads]), _median(rates[one])) for one in wanted))


def steps() -> int:
    """How often ``measure`` calls ``done``, at most."""
    return _ROUNDS * len(settings(len(os.sched_getaffinity(0))))


def _p50_us(call: timing.Call, seconds: float) -> float:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    while not taken or time.perf_counter() < end:
        time.sleep(_PAUSE_S)
        start = time.perf_counter()
        call(len(taken))
        taken.append(time.perf_counter() - start)
    return _median(taken) * 1e6


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]  # the statistics module costs a server almost a megabyte


def _per_second(call: timing.Call, clients: int, seconds: float) -> float:
    counts = [0] * clients
    start = time.perf_counter()

    def ask(client: int) -> None:
        while not counts[client] or time.perf_counter() - start < seconds:
            call(counts[client])
            counts[client] += 1

    threads = [threading.Thread(target=ask, args=(client,)) for client in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)


def path_beside(bundle: Path) -> Path:
    """Where the measurements of ``bundle`` are kept."""
    return bundle.with_name(bundle.name + SUFFIX)


def save(path: Path, model_sha256: str, backend: str, tuned: Tuned) -> bool:
    """Keep ``tuned`` beside the bundle at ``path``; False where nothing can be written there."""
    content = {"key": _key(model_sha256, backend), "measured": [asdict(one) for one in tuned.measured]}
    with contextlib.suppress(OSError):
        atomic.write_bytes(path_beside(path), (json.dumps(content, indent=1) + "\n").encode())
        return True
    return False


def load(path: Path, model_sha256: str, backend: str) -> Tuned | None:
    """What was kept for this model on this board with this interpreter; None where there is nothing of the kind."""
    try:
        content = json.loads(path_beside(path).read_bytes())
        if content["key"] != _key(model_sha256, backend):
            return None
        measured = tuple(_read(content["measured"]))
    except (OSError, ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None
    return Tuned(measured) if measured else None


def _read(entries: Sequence[dict[str, Any]]) -> Iterator[Measured]:
    allowed = settings(len(os.sched_getaffinity(0)))
    for entry in entries:
        setting = Setting(**entry["setting"])
        if setting not in allowed or not all(type(value) is int for value in entry["setting"].values()):
            raise ValueError(f"{setting} was not measured here")
        p50_us, per_second = float(entry["p50_us"]), float(entry["per_second"])
        if not (0 < p50_us < math.inf and 0 < per_second < math.inf):
            raise ValueError(f"{p50_us} µs and {per_second} answers a second were not measured")
        yield Measured(setting, p50_us, per_second)


def _key(model_sha256: str, backend: str) -> dict[str, Any]:
    name, version = installed(backend)
    machine = f"{platform.machine()} {_board()}".strip()
    cores = len(os.sched_getaffinity(0))
    backend_version = f"{name} {version}"
    return {"model": model_sha256, "machine": machine, "cores": cores, "backend": backend_version, "method": _METHOD}


def _board() -> str:
    """Of a Raspberry Pi its device tree knows the name, of a PC the processor's."""
    with contextlib.suppress(OSError):
        return Path("/proc/device-tree/model").read_text("utf-8", "replace").rstrip("\0")
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return ""
