"""The bare pool: interpreters in threads, with nothing to serve them."""

from __future__ import annotations

import os
import threading
import time

from edgekd_runtime.backend import open_model
from runtime_models import Served


def best_per_second(model: Served, seconds: float) -> tuple[float, str]:
    """(invokes a second, "WORKERS × THREADS") of the better of one interpreter with all cores and one for each core."""
    cores = len(os.sched_getaffinity(0))
    shapes = {(1, cores), (cores, 1), (1, 1)}
    measured = {f"{workers} × {threads}": _per_second(model, workers, threads, seconds) for workers, threads in shapes}
    best = max(measured, key=measured.__getitem__)
    return measured[best], best


def _per_second(model: Served, workers: int, threads: int, seconds: float) -> float:
    bundle, row = model.engine.bundle, model.row
    pool = [open_model(bundle.model, bundle.inputs, bundle.outputs, threads=threads) for _ in range(workers)]
    counts = [0] * workers
    for backend in pool:
        backend.invoke([row])
    start = time.perf_counter()

    def work(k: int) -> None:
        while time.perf_counter() - start < seconds:
            pool[k].invoke([row])
            counts[k] += 1

    running = [threading.Thread(target=work, args=(k,)) for k in range(workers)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(counts) / (time.perf_counter() - start)
