"""Servers under test as processes, and requests to them as bytes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from edgekd_runtime.frames import MAGIC, PREFIX

TIMEOUT_S = 120.0
Address = int | Path
"""A TCP port of the loopback interface, or a unix socket."""


class Process:
    """A started program and all that it starts; what it says goes to a file. Ends with the ``with``."""

    def __init__(self, command: Sequence[str | Path], variables: Mapping[str, str], folder: Path) -> None:
        self.command = [str(part) for part in command]
        self._log = tempfile.NamedTemporaryFile(prefix="edgekd-bench-", suffix=".log")  # noqa: SIM115  # closed with it
        self.started = time.perf_counter()
        self.first_answer_s = 0.0
        self._popen = subprocess.Popen(
            self.command,
            env=foreign_environment() | dict(variables),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def log(self) -> str:
        return Path(self._log.name).read_text(encoding="utf-8", errors="replace")

    def send(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._popen.poll()

    def wait(self, timeout: float = TIMEOUT_S) -> int:
        return self._popen.wait(timeout)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to the whole group if that is not enough."""
        try:
            if self._popen.poll() is None:
                self._popen.terminate()
                self._popen.wait(10)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):  # the whole group has ended
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()
            self._log.close()

    def wait_for_answer(self, address: Address, request: bytes) -> None:
        """Until it gives a good answer; ``first_answer_s`` then says how long after its start that was."""
        deadline = self.started + TIMEOUT_S
        why = "no answer"
        while time.perf_counter() < deadline:
            if self._popen.poll() is not None:
                raise RuntimeError(f"{' '.join(self.command[:4])} ended at once:\n{self.log()[-2000:]}")
            try:
                with connect(address) as connection:
                    status, body = ask(connection, request)
                if status == 200:
                    self.first_answer_s = time.perf_counter() - self.started
                    return
                why = f"{status} {body[:300]!r}"
            except (OSError, ValueError) as error:
                why = str(error)
            time.sleep(0.005)
        raise RuntimeError(
            f"{' '.join(self.command[:4])} did not answer within {TIMEOUT_S:g} s: {why}\n{self.log()[-2000:]}"
        )

    def pids(self) -> list[int]:
        """It and its descendants."""
        found, new = [], [self.pid]
        while new:
            found += new
            new = [child for pid in new for child in _children(pid)]
        return found

    def memory_mb(self) -> float:
        """Proportional set size of all its processes: pages that several share count once."""
        total = 0
        for pid in self.pids():
            try:
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            except (FileNotFoundError, ProcessLookupError):
                continue  # ended meanwhile
            total += int(rollup.split("\nPss:")[1].split()[0])
        return total * 1024 / 1e6

    def resident_mb(self) -> float:
        """Of the first process alone, as ``top`` shows it."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, task.read_text(encoding="ascii").split())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def foreign_environment() -> dict[str, str]:
    """This process's variables but those that would mix its packages into another Python."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}


def free_port() -> int:
    """A TCP port that nobody listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connect(address: Address, timeout: float = 30.0) -> socket.socket:
    """A connection without Nagle's algorithm."""
    if isinstance(address, int):
        connection = socket.create_connection(("127.0.0.1", address), timeout)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    connection.connect(str(address))
    return connection


def post(path: str, body: bytes, content_type: str, **headers: str) -> bytes:
    """The bytes of a POST; an underscore in a header's name stands for a hyphen."""
    given = {"Host": "localhost", "Content-Type": content_type, "Content-Length": str(len(body))}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def get(path: str) -> bytes:
    """The bytes of a GET."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


def ask(connection: socket.socket, request: bytes) -> tuple[int, bytes]:
    """(status, body) of the answer. Raises ``OSError`` where the connection ends and ``ValueError`` at nonsense."""
    connection.sendall(request)
    return read_answer(connection)


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """The next answer, which says how long it is."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _some(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    lengths = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
    if not lengths:
        raise ValueError(f"an answer without a length: {head!r}")
    while len(body) < lengths[0]:
        body += _some(connection)
    return int(lines[0].split()[1]), body


def read_frame(connection: socket.socket) -> tuple[int, bytes]:
    """(status, body) of the next frame. Raises as :func:`read_answer` does."""
    received = b""
    while len(received) < PREFIX.size:
        received += _some(connection)
    magic, head, status, _, body = PREFIX.unpack_from(received)
    if magic != MAGIC:
        raise ValueError(f"a frame that begins with {magic!r}")
    while len(received) < PREFIX.size + head + body:
        received += _some(connection)
    return status, received[PREFIX.size + head :]


def _some(connection: socket.socket) -> bytes:
    received = connection.recv(1 << 18)
    if not received:
        raise ConnectionError("the server closed the connection")
    return received
