"""A bundle is first run in a child process: a broken model can abort the process that runs it, not just fail.

The child loads the bundle, replays its golden answers and runs the model once more on zeros; it prints the SHA-256 of
the model that it ran.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import resource
import signal
import subprocess
import sys
from pathlib import Path

from edgekd_runtime.errors import BundleError, RuntimeFault, TrialError

_TIMEOUT_S = 120.0
_REFUSED = 3
CHANGED = "was changed while it was being loaded; load it again"
_PROGRAM = (
    "import sys; sys.path[:] = sys.argv[5:]; from edgekd_runtime.trial import main; sys.exit(main(*sys.argv[1:5]))"
)
"""Imports from where this process does, not from the current directory, whose ``queue.py`` nobody meant to run; ``-P``
is unknown to Python 3.10."""
_PR_SET_PDEATHSIG = 1  # prctl(2)


def try_bundle(path: Path, *, backend: str = "auto", model_sha256: str = "", timeout_s: float = _TIMEOUT_S) -> str:
    """Run ``path`` in a child process; the SHA-256 of its model. Takes as long as starting a server.

    ``model_sha256``: of the only model that may run, where somebody has decided that already.
    Raises ``TrialError`` where it crashes or hangs, ``BundleError`` with the child's own words where it is refused.
    """
    limit = str(math.ceil(timeout_s))
    command = [sys.executable, "-c", _PROGRAM, str(path), backend, limit, model_sha256, *filter(None, sys.path)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise TrialError(f"{path}: refused: it did not end within {timeout_s:g} s in a trial") from error
    except OSError as error:
        raise TrialError(f"{path}: no trial could be started: {error.strerror or error}") from error
    last = (done.stdout.splitlines() or [""])[-1]
    if done.returncode < 0:
        with contextlib.suppress(ValueError):
            raise TrialError(f"{path}: refused: it ended a trial with {signal.Signals(-done.returncode).name}")
    if done.returncode == _REFUSED:
        raise BundleError(last)
    if done.returncode or not last:
        raise TrialError(f"{path}: refused: it ended a trial with status {done.returncode}")
    return last


def main(path: str, backend: str, limit_s: str, model_sha256: str) -> int:
    """In the child, which ends after ``limit_s`` whole seconds."""
    from edgekd_runtime import members
    from edgekd_runtime.bundle import load_bundle
    from edgekd_runtime.engine import Engine
    from edgekd_runtime.timing import on_zeros

    # A trial that hangs must not outlive the server. The thread whose end sends the signal waits for this child.
    signal.alarm(int(limit_s))
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        bundle = load_bundle(Path(path))
        if model_sha256 and members.sha256(bundle.model) != model_sha256:
            raise BundleError(f"{path}: {CHANGED}")
        engine = Engine(bundle, backend=backend)
        with contextlib.suppress(RuntimeFault):  # zeros may be no input that the model takes
            on_zeros(engine)(0)
        said, status = engine.model_sha256, 0
    except RuntimeFault as fault:
        said, status = str(fault), _REFUSED
    sys.stdout.buffer.write(f"{said}\n".encode("utf-8", "replace"))  # whatever the locale can write
    return status
