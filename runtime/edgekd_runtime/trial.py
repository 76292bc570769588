"""A bundle is first run in a child process: a broken model can abort the process that runs it, not just fail.

``python -m edgekd_runtime.trial BUNDLE`` loads the bundle, replays its golden answers and runs the model once more on
zeros; it prints the SHA-256 of the model that it ran.
"""

from __future__ import annotations

import contextlib
import resource
import signal
import subprocess
import sys
from pathlib import Path

from edgekd_runtime.errors import BundleError, RuntimeFault, TrialError

_TIMEOUT_S = 120.0


def try_bundle(path: Path, *, backend: str = "auto", timeout_s: float = _TIMEOUT_S) -> str:
    """Run ``path`` in a child process; the SHA-256 of its model. Takes as long as starting a server.

    Raises ``TrialError`` where it crashes or hangs, ``BundleError`` with the child's own words where it is refused.
    """
    command = [sys.executable, "-m", "edgekd_runtime.trial", str(path), backend]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
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


_REFUSED = 3


def _main(path: str, backend: str) -> int:
    """In the child."""
    from edgekd_runtime.bundle import load_bundle
    from edgekd_runtime.engine import Engine
    from edgekd_runtime.timing import on_zeros

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        engine = Engine(load_bundle(Path(path)), backend=backend)
        with contextlib.suppress(RuntimeFault):  # zeros may be no input that the model takes
            on_zeros(engine)(0)
    except RuntimeFault as fault:
        sys.stdout.write(f"{fault}\n")
        return _REFUSED
    sys.stdout.write(f"{engine.model_sha256}\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
