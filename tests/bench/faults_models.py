"""A bundle whose model aborts the process that runs it."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekd_runtime.backend import open_model
from edgekd_runtime.bundle import Bundle, load_bundle
from edgekd_runtime.errors import RuntimeFault

_SEEDS = range(2000)
_FLIPS = 12


def aborting(bundle: Path, name: str, path: Path) -> bool:
    """Write it to ``path``: the model of ``bundle`` with some bytes altered, hashes right. False where no alteration
    that was tried ends a process by a signal."""
    first = 0
    while first < len(_SEEDS):
        command = [sys.executable, __file__, str(bundle), str(first)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        seed = int(done.stdout.split()[-1]) if done.stdout else first
        if done.returncode < 0:
            loaded = load_bundle(bundle)
            replace(loaded, name=name, model=_altered(loaded.model, seed), golden=None).save(path)
            return True
        first = seed + 1
    return False


def _altered(model: bytes, seed: int) -> bytes:
    rng, altered = np.random.default_rng(seed), bytearray(model)
    for _ in range(_FLIPS):
        altered[int(rng.integers(8, len(altered)))] = int(rng.integers(256))
    return bytes(altered)


def _try(bundle: Bundle, seed: int) -> None:
    with contextlib.suppress(RuntimeFault):
        backend = open_model(_altered(bundle.model, seed), bundle.inputs, bundle.outputs, threads=1)
        backend.invoke([np.zeros(spec.shape, spec.dtype) for spec in backend.inputs])


if __name__ == "__main__":
    loaded = load_bundle(Path(sys.argv[1]))
    for number in _SEEDS[int(sys.argv[2]) :]:
        print(number, flush=True)
        _try(loaded, number)
