"""What the benchmarks share: running commands and servers, percentiles, results as JSON and as a table."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
RESULTS = ROOT / "build" / "bench"


def need(path: Path) -> Path:
    """``path``, or the end of the benchmark with a clear line when the shared data are not on this machine."""
    if not path.exists():
        print(f"skipped: {path} is not here; this benchmark needs the shared data beside the checkout")
        sys.exit(0)
    return path


def edgekd(*arguments: object) -> dict[str, Any]:
    """One ``edgekd`` command; its ``--json`` report. Ends the benchmark if the command fails."""
    print("$ edgekd", *arguments, flush=True)
    command = [sys.executable, "-m", "edgekd", *map(str, arguments), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(done.returncode)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def digest(files: Iterable[Path]) -> str:
    """Of what is in them, in the order of their paths."""
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update(path.read_bytes())
    return whole.hexdigest()


def ready_for_onnx2tf(folder: Path) -> dict[str, str]:
    """The environment for plain onnx2tf in ``folder``: onnxsim is on its path; the file it would download is there."""
    np.save(folder / "calibration_image_sample_data_20x128x128x3_float32.npy", np.zeros((20, 128, 128, 3), np.float32))
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


@contextmanager
def serving(bundle: Path, *options: str, python: str = sys.executable) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The device runtime serving ``bundle`` in a process of its own: (process, port)."""
    command = [python, "-m", "edgekd_runtime", "serve", str(bundle), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server, int(server.stdout.readline().split("http://")[1].split()[0].split(":")[1])
        finally:
            server.terminate()


class RawClient:
    """HTTP/1.1 keep-alive over one socket with as little work of its own as can be."""

    def __init__(self, port: int, path: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._path = path

    def request(self, text: str) -> bytes:
        """The bytes of a POST of ``text``."""
        body = json.dumps({"text": text}).encode()
        head = f"POST {self._path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def send(self, request: bytes) -> bytes:
        """The body of the answer. Raises ``RuntimeError`` unless the status is 200."""
        self._socket.sendall(request)
        received = self._socket.recv(65536)
        while b"\r\n\r\n" not in received:
            received += self._socket.recv(65536)
        head, _, body = received.partition(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        while len(body) < length:
            body += self._socket.recv(65536)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the server answered {head.splitlines()[0]!r}: {body!r}")
        return body


def percentile(values: Sequence[float], percent: float) -> float:
    """Nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def finish(name: str, result: dict[str, Any], rows: Sequence[Sequence[str]], headings: Sequence[str]) -> None:
    """Write ``build/bench/NAME.json`` and print the table."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    machine = {"machine": platform.machine(), "python": platform.python_version()}
    path.write_text(json.dumps({"benchmark": name, **machine, **result}, indent=1) + "\n", encoding="utf-8")
    table = Table(title=name, title_justify="left")
    for i, heading in enumerate(headings):
        table.add_column(heading, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    print("written:", path)
