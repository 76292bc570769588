"""One point of the pruning curve: plan → prune → recover, kept on disk once it is finished; then int8, every time."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common import digest
from edgekd.cache import cache_root, content_key
from edgekd.verify import run_graph
from edgekd.versions import versions
from edgekd_converters.condition import condition
from edgekd_converters.cost import count_macs, count_parameters
from edgekd_converters.graph import Graph, read_graph
from edgekd_converters.observe import Columns
from edgekd_converters.optimise import QuantizeOptions, make_int8
from edgekd_converters.prune import PruneOptions, PrunePlan, plan_pruning, prune
from edgekd_converters.recover import RecoverOptions, recover
from edgekd_converters.trial import decide_blocks
from edgekd_runtime import atomic

CALIBRATION = 2000
_HEARTBEAT = 1000
_FILES = (
    "import sys, edgekd_converters.trial; "
    "print(*(one.__file__ for name, one in sys.modules.items() if name.startswith('edgekd_converters')), sep='\\n')"
)


@dataclass(frozen=True)
class Data:
    """Images ``(n, 32, 32, 3) float32``, 0 to 255, under the model's input name; labels ``(n,) int32``."""

    train: Columns
    train_labels: npt.NDArray[np.int32]
    test: Columns
    test_labels: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Job:
    """What is done to the original before it is quantised: nothing, or pruning and recovery."""

    name: str
    prune: PruneOptions | None = None
    recover: RecoverOptions | None = None
    labelled: bool = False


@dataclass(frozen=True)
class Point:
    """``record``: all that was measured. ``stale``: pruned and trained by other code than is here now."""

    name: str
    record: dict[str, Any]
    int8: Path
    stale: bool


def is_finished(original: Graph, job: Job) -> bool:
    """Whether the part that takes long was done once, in this run or an earlier one."""
    return (_folder(original, job) / "record.json").is_file()


def measure(original: Graph, job: Job, data: Data) -> Point:
    """Do the job, which may take an hour, unless it is finished; make it int8 and measure both."""
    folder = _folder(original, job)
    if not is_finished(original, job):
        graph, made = _shrunk(original, job, data)
        atomic.write_bytes(folder / "float.tflite", graph.content)
        atomic.write_bytes(folder / "record.json", json.dumps(made, indent=1).encode())  # last: now it counts
    made = json.loads((folder / "record.json").read_text("utf-8"))
    graph = condition(read_graph((folder / "float.tflite").read_bytes()))
    samples = {name: column[:CALIBRATION] for name, column in data.train.items()}
    int8 = make_int8(graph, samples, QuantizeOptions()).int8_graph
    atomic.write_bytes(folder / "int8.tflite", int8.content)
    record = {
        **made,
        "name": job.name,
        "options": _settings(job),
        "macs": [count_macs(original), count_macs(graph)],
        "parameters": [count_parameters(original), count_parameters(graph)],
        "top1": {"float": top1(graph, data), "int8": top1(int8, data)},
        "versions": versions(),
    }
    return Point(job.name, record, folder / "int8.tflite", stale=made["code"] != _code())


def _shrunk(original: Graph, job: Job, data: Data) -> tuple[Graph, dict[str, Any]]:
    """The float graph, and how it came about."""
    seconds: dict[str, float] = {}
    graph, made = original, dict[str, Any]()
    labels = data.train_labels if job.labelled else None
    if job.prune:
        cut, note = job.prune, _Heartbeat(job.name)
        if job.recover:
            with _timed(seconds, "trials"):
                cut = decide_blocks(original, original, data.train, cut, data.train, labels, job.recover, note)
        with _timed(seconds, "plan"):
            plan = plan_pruning(original, data.train, cut)
        with _timed(seconds, "prune"):
            graph = prune(original, plan, data.train, cut)
        made["plan"] = _describe(plan)
    if job.recover:
        with _timed(seconds, "recover"):
            recovered = recover(graph, original, data.train, job.recover, labels, _Heartbeat(job.name))
        graph = recovered.graph
        made |= {"loss": recovered.loss, "agreement": recovered.agreement}
    return graph, {**made, "seconds": seconds, "code": _code()}


def top1(graph: Graph, data: Data) -> float:
    """On all test images, by the device runtime."""
    return float((run_graph(graph, data.test).argmax(1) == data.test_labels).mean())


def _describe(plan: PrunePlan) -> dict[str, Any]:
    widths = [f"{group.before} → {group.after}  {group.name}" for group in plan.groups]
    return {"blocks": [block.name for block in plan.blocks], "widths": widths, "notes": list(plan.notes)}


def _settings(job: Job) -> dict[str, Any]:
    return {
        "prune": asdict(job.prune) if job.prune else None,
        "recover": asdict(job.recover) if job.recover else None,
        "labelled": job.labelled,
    }


def _folder(original: Graph, job: Job) -> Path:
    key = content_key(model=hashlib.sha256(original.content).hexdigest(), **_settings(job))
    return cache_root() / "bench" / "prune" / key


@functools.cache
def _code() -> str:
    """A digest of the sources that prune and train."""
    printed = subprocess.run([sys.executable, "-c", _FILES], stdout=subprocess.PIPE, text=True, check=True).stdout
    return digest(map(Path, printed.splitlines()))


@contextmanager
def _timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = round(time.perf_counter() - start, 1)


class _Heartbeat:
    """Prints now and then how far a training is."""

    def __init__(self, name: str) -> None:
        self._name, self._steps, self._start = name, 0, time.perf_counter()

    def __call__(self, note: str) -> None:
        self._steps += 1
        if self._steps % _HEARTBEAT == 0:
            print(f"{self._name}: {note}, {(time.perf_counter() - self._start) / 60:.1f} min", flush=True)
