"""Many clients at once: ``load.c``, built with gcc."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import TypedDict

from common import RESULTS
from edgekd_targets.sysroot import last_lines
from runtime_process import Address


class Load(TypedDict):
    """Times in microseconds. ``failed``: answers with another status than 200, or none before the connection ended."""

    answered: int
    failed: int
    reopened: int
    per_second: float
    p50: float
    p90: float
    p99: float
    max: float


@cache
def program() -> Path:
    """The load generator. Ends the benchmark with a clear line where there is no gcc."""
    compiler = shutil.which("gcc")
    if compiler is None:
        print("skipped: gcc is not installed, and the load generator is written in C; run: apt-get install gcc")
        sys.exit(0)
    RESULTS.mkdir(parents=True, exist_ok=True)
    built = RESULTS / "load"
    command = [compiler, "-O2", "-Wall", "-o", str(built), str(Path(__file__).with_name("load.c"))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"skipped: gcc cannot build the load generator: {last_lines(done.stderr)}")
        sys.exit(0)
    return built


def start(
    address: Address, request: bytes, *, connections: int, seconds: float, rate: float = 0, reply_bytes: int = 0
) -> subprocess.Popen[str]:
    """Under way; :func:`result` waits for it. ``rate`` 0: every connection asks as soon as it is answered."""
    with tempfile.NamedTemporaryFile(prefix="edgekd-request-", delete=False) as file:
        file.write(request)
    numbers = [str(connections), str(seconds), str(rate), str(reply_bytes)]
    command = [str(program()), str(address), file.name, *numbers]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(running: subprocess.Popen[str]) -> Load:
    """What it measured. Raises ``RuntimeError`` where it could not go on."""
    out, err = running.communicate()
    Path(running.args[2]).unlink()  # type: ignore[index,arg-type]
    if running.returncode:
        raise RuntimeError(err.strip() or f"the load generator ended with {running.returncode}")
    figures: Load = json.loads(out)
    return figures


def run(
    address: Address, request: bytes, *, connections: int, seconds: float, rate: float = 0, reply_bytes: int = 0
) -> Load:
    """To its end."""
    running = start(address, request, connections=connections, seconds=seconds, rate=rate, reply_bytes=reply_bytes)
    return result(running)
