"""``make bench-faults``: what goes wrong in years of service, one thing after the other, while clients ask steadily.

Counts requests that were not answered, or by anything but 200 (about 3 minutes).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import load
import runtime_models as models
import runtime_ours as ours
from common import finish
from edgekd_runtime.bundle import Bundle, load_bundle
from faults_models import aborting
from runtime_process import TIMEOUT_S, ask, connect, get, post

_CLIENTS, _PER_S = 4, 200.0
_CALM_S = 0.5  # of undisturbed load before and after
_RELOADS, _KILLS = 20, 6
_FAKETIME = ("/usr/lib/*-linux-gnu*/faketime/libfaketimeMT.so.1",)


class Skipped(Exception):
    """Something that a fault needs is not here; says what in one line."""


@dataclass
class Scene:
    """A running server, the file that it serves, which faults may replace, and a folder for them."""

    running: ours.Running
    bundle: Path
    good: Bundle
    folder: Path

    def replace_file(self, content: bytes | Bundle) -> None:
        """At once, as a careful copy would."""
        draft = self.bundle.with_suffix(".new")
        if isinstance(content, Bundle):
            content.save(draft)
        else:
            draft.write_bytes(content)
        draft.replace(self.bundle)

    def versions(self) -> list[str]:
        with connect(self.running.port, TIMEOUT_S) as connection:
            status, body = ask(connection, get(f"/v2/models/{self.good.name}"))
        if status != 200:
            raise RuntimeError(f"the metadata are answered {status} {body!r}")
        served: list[str] = json.loads(body)["versions"]
        return served

    def reason(self) -> str:
        """Why the model's last load failed; empty if it did not."""
        with connect(self.running.port, TIMEOUT_S) as connection:
            _, body = ask(connection, post("/v2/repository/index", b"{}", "application/json"))
        return str(next(one["reason"] for one in json.loads(body) if one["name"] == self.good.name))

    def reload(self) -> None:
        self.running.process.send(signal.SIGHUP)


@dataclass(frozen=True)
class Fault:
    """``act`` does it under load and gives what was seen. ``ends``: the server is meant to end.

    ``processes``: that serve. ``may_fail``: requests that were being answered by what the fault kills.
    """

    name: str
    act: Callable[[Scene], str]
    ends: bool = False
    variables: Callable[[Path], dict[str, str]] = lambda folder: {}
    processes: int = 1
    may_fail: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="faults whose name holds this")
    options = parser.parse_args()
    models.FOLDER.mkdir(parents=True, exist_ok=True)
    chosen = [fault for fault in FAULTS if not options.only or options.only in fault.name]
    results = {fault.name: suffer(fault) for fault in chosen}
    allowed = {fault.name: fault.may_fail for fault in chosen}
    met = {
        name: one["failed"] <= allowed[name] and one["as it should"]
        for name, one in results.items()
        if "skipped" not in one
    }
    rows = [
        (name, *_row(one), "" if name not in met else "met" if met[name] else "MISSED") for name, one in results.items()
    ]
    headings = ("fault", "answered", "failed", "p50 µs", "slowest ms", "seen", "")
    finish("faults", {"clients": _CLIENTS, "per_second": _PER_S, "faults": results, "met": met}, rows, headings)
    sys.exit(0 if all(met.values()) else 1)


def _row(one: dict[str, Any]) -> Sequence[str]:
    if "skipped" in one:
        return ("", "", "", "", f"skipped: {one['skipped']}")
    figures = (one["answered"], one["failed"], f"{one['p50']:.0f}", f"{one['max'] / 1000:.0f}", one["seen"])
    return [str(figure) for figure in figures]


def suffer(fault: Fault) -> dict[str, Any]:
    """One fault, in a server of its own."""
    arguments = ("--processes", str(fault.processes))
    model = models.text()
    request = ours.requests(model)["json"]
    print(fault.name, flush=True)
    with tempfile.TemporaryDirectory(prefix="edgekd-bench-") as name:
        folder = Path(name)
        bundle = Path(shutil.copy(model.bundle, folder))
        try:
            variables = fault.variables(folder)
        except Skipped as reason:
            return {"skipped": str(reason)}
        with ours.running(bundle, request, *arguments, variables=variables) as running:
            scene = Scene(running, bundle, load_bundle(model.bundle), folder)
            steady = load.start(running.port, request, connections=_CLIENTS, seconds=86_400, rate=_PER_S)
            time.sleep(_CALM_S)
            try:
                seen, as_it_should = fault.act(scene), True
            except Skipped as reason:
                steady.kill()
                return {"skipped": str(reason)}
            except (RuntimeError, OSError, ValueError) as error:
                seen, as_it_should = f"{type(error).__name__}: {error}", False
            time.sleep(_CALM_S)
            steady.terminate()
            figures = load.result(steady)
            if not fault.ends and (code := running.process.exit_code()) is not None:
                seen, as_it_should = f"the server ended with {code}: {running.process.log()[-300:]}", False
    return {**figures, "seen": seen, "as it should": as_it_should}


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        if time.monotonic() > deadline:
            raise RuntimeError(f"{what} within {TIMEOUT_S:g} s: no")
        time.sleep(0.02)


def sigterm(scene: Scene) -> str:
    start = time.monotonic()
    scene.running.process.send(signal.SIGTERM)
    code = scene.running.process.wait()
    if code:
        raise RuntimeError(f"it ended with {code}")
    return f"ended in {time.monotonic() - start:.2f} s with 0"


def reloads(scene: Scene) -> str:
    for number in range(_RELOADS):
        version = f"r{number}"
        scene.replace_file(replace(scene.good, version=version))
        scene.reload()
        _until(lambda version=version: scene.versions() == [version], f"version {version} is served")  # type: ignore[misc]
    return f"{_RELOADS} new versions served"


def corrupt(scene: Scene) -> str:
    content = bytearray(scene.bundle.read_bytes())
    content[len(content) // 2] ^= 0xFF
    return _refused(scene, bytes(content))


def aborts(scene: Scene) -> str:
    bad = scene.folder / "aborts.edgekd"
    if not aborting(models.resnet8().bundle, scene.good.name, bad):
        raise Skipped("no altered model was found that aborts this interpreter")
    return _refused(scene, bad.read_bytes())


def _refused(scene: Scene, content: bytes) -> str:
    """The old version serves on, the index says why, and the next good file is taken."""
    scene.replace_file(content)
    scene.reload()
    _until(lambda: bool(scene.reason()), "a reason is given")
    reason = scene.reason()
    if scene.versions() != [scene.good.version]:
        raise RuntimeError(f"{scene.versions()} is served in place of {scene.good.version}")
    scene.replace_file(replace(scene.good, version="mended"))
    scene.reload()
    _until(lambda: scene.versions() == ["mended"], "the mended file is served")
    return reason.split(": ", 1)[-1][:80]


def disk_full(scene: Scene) -> str:
    """No file of the server, its log included, can grow by a byte; children inherit that."""
    scene.replace_file(replace(scene.good, version="full"))
    pid = scene.running.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    scene.reload()
    _until(lambda: scene.versions() == ["full"] or bool(scene.reason()), "the reload ends")
    seen = "reloaded" if scene.versions() == ["full"] else f"refused: {scene.reason()[:60]}"
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    scene.replace_file(replace(scene.good, version="room"))
    scene.reload()
    _until(lambda: scene.versions() == ["room"], "with room again a reload works")
    return f"{seen}; with room again reloaded"


def trial_killed(scene: Scene) -> str:
    """``kill -9`` of the child that tries a bundle before it is served."""
    process = scene.running.process
    scene.replace_file(replace(scene.good, version="next"))
    scene.reload()
    _until(lambda: len(process.pids()) > 1, "a trial runs")
    os.kill(process.pids()[-1], signal.SIGKILL)
    _until(lambda: bool(scene.reason()), "a reason is given")
    if scene.versions() != [scene.good.version]:
        raise RuntimeError(f"{scene.versions()} is served though its trial was killed")
    return scene.reason().split(": ", 1)[-1][:60]


def server_killed(scene: Scene) -> str:
    """Another takes its place, and its clients connect anew."""
    process = scene.running.process
    for number in range(_KILLS):
        before = process.pids()
        os.kill(before[1 + number % 2], signal.SIGKILL)
        _until(lambda before=before: len(process.pids()) == 3 and process.pids() != before, "it is replaced")  # type: ignore[misc]
        time.sleep(1.0)  # so that the new one serves some
    return f"replaced {_KILLS} times"


def _fake_clock(folder: Path) -> dict[str, str]:
    found = [path for pattern in _FAKETIME for path in Path("/").glob(pattern.lstrip("/"))]
    if not found:
        raise Skipped("libfaketime is not installed; run: apt-get install libfaketime")
    clock = folder / "clock"
    clock.write_text("+0")
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def clock_jump(scene: Scene) -> str:
    clock, jumps = scene.folder / "clock", ("+400d", "-400d", "+0")
    for number, jump in enumerate(jumps):
        clock.write_text(jump)
        time.sleep(0.5)
        scene.replace_file(replace(scene.good, version=f"j{number}"))
        _until(lambda number=number: _reloaded(scene, f"j{number}"), "it reloads after the jump")  # type: ignore[misc]
    return f"{', '.join(jumps)}; reloaded after each"


def _reloaded(scene: Scene, version: str) -> bool:
    """Whether ``version`` is served, after one more reload: libfaketime 0.9.10 itself lets most sleeps end in EINVAL,
    and with them the wait for a trial."""
    scene.reload()
    time.sleep(2)
    return scene.versions() == [version]


FAULTS = (
    Fault("SIGTERM", sigterm, ends=True),
    Fault(f"SIGHUP, {_RELOADS} times", reloads),
    Fault("a corrupt bundle", corrupt),
    Fault("a bundle that aborts the interpreter", aborts),
    Fault("disk full", disk_full),
    Fault("clock jump", clock_jump, variables=_fake_clock),
    Fault("kill -9 of a reload's trial", trial_killed),
    Fault(f"kill -9 of a server process of two, {_KILLS} times", server_killed, processes=2, may_fail=_KILLS),
    Fault(f"SIGHUP of two processes, {_RELOADS} times", reloads, processes=2),
    Fault("SIGTERM of two processes", sigterm, ends=True, processes=2),
)


if __name__ == "__main__":
    main()
