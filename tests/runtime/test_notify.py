"""systemd's side of a service, played by a test: the notify socket, the watchdog, and sockets passed on."""

from __future__ import annotations

import http.client
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.device.test_serve import FAST, TIMEOUT_S, UnixConnection

from edgekd_runtime import notify
from edgekd_runtime.errors import ServeError

# What systemd's own child does before it runs the service: sockets from 3 on, and the variables that say so.
ACTIVATE = """
import os, sys
passed = [int(fd) for fd in sys.argv[1].split(",") if fd]
held = [os.dup(fd) for fd in passed]
for number, fd in enumerate(held):
    os.dup2(fd, 3 + number)
    os.set_inheritable(3 + number, True)
os.environ.update(LISTEN_FDS=str(len(passed)), LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="http")
os.execv(sys.executable, [sys.executable, "-m", "edgekd_runtime.cli", *sys.argv[2:]])
"""


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    """A notify socket; its name, as in ``$NOTIFY_SOCKET``, is ``manager.getsockname()`` with '@' for NUL."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify") if request.param == "path" else f"\0edgekd-test-{os.getpid()}")
        sock.settimeout(TIMEOUT_S)
        yield sock


def name_of(manager: socket.socket) -> str:
    name = manager.getsockname()
    return name if isinstance(name, str) else f"@{name[1:].decode()}"


def test_a_message(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name_of(manager))
    notify.notify("READY=1", "STATUS=serving")
    assert manager.recv(1000) == b"READY=1\nSTATUS=serving"
    notify.reloading()
    lines = dict(line.split("=") for line in manager.recv(1000).decode().splitlines())
    assert lines["RELOADING"] == "1"
    assert abs(int(lines["MONOTONIC_USEC"]) / 1e6 - time.clock_gettime(time.CLOCK_MONOTONIC)) < TIMEOUT_S


@pytest.mark.parametrize("name", [None, "", "relative", "/nowhere/at/all", "@nobody-listens-here", "/" + "x" * 200])
def test_nobody_to_tell(monkeypatch: pytest.MonkeyPatch, name: str | None) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if name is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify.notify("READY=1")


def test_a_manager_that_does_not_read_holds_nobody_up(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name_of(manager))
    for _ in range(5000):  # more than a socket's line holds
        notify.notify("WATCHDOG=1")


def test_the_watchdog_is_told_twice_in_its_time(manager: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name_of(manager))
    monkeypatch.setenv("WATCHDOG_USEC", "10000000")
    now = [100.0]
    watchdog = notify.Watchdog(lambda: now[0])
    for tenth in range(301):
        now[0] = 100 + tenth / 10
        watchdog.tick()
    manager.setblocking(False)
    told = 0
    while select.select([manager], [], [], 0)[0]:
        assert manager.recv(100) == b"WATCHDOG=1"
        told += 1
    assert told == 7


@pytest.mark.parametrize("variables", [{}, {"WATCHDOG_USEC": "abc"}, {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}])
def test_a_watchdog_that_is_not_ours(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name_of(manager))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    watchdog = notify.Watchdog(lambda: 1e9)
    watchdog.tick()
    assert not select.select([manager], [], [], 0)[0]


@pytest.mark.parametrize(
    "variables",
    [{}, {"LISTEN_FDS": "1"}, {"LISTEN_FDS": "1", "LISTEN_PID": "1"}, {"LISTEN_FDS": "x", "LISTEN_PID": "me"}],
)
def test_sockets_for_somebody_else(variables: dict[str, str]) -> None:
    environment = {name: str(os.getpid()) if value == "me" else value for name, value in variables.items()}
    assert notify.inherited_sockets(environment) == []
    assert environment == {}


def test_descriptors_that_are_no_listening_sockets(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket() as silent,
        (tmp_path / "file").open("w") as file,
    ):
        for fd, said in (
            (datagrams.fileno(), "ListenStream="),
            (silent.fileno(), "ListenStream="),
            (file.fileno(), "no socket"),
        ):
            with pytest.raises(ServeError, match=said):
                notify._listening(os.dup(fd))


@pytest.mark.parametrize(("without", "processes"), [((), "1"), (FAST, "1"), ((), "2")], ids=str)
def test_a_service_from_start_to_stop(
    manager: socket.socket, bundle_path: Path, tmp_path: Path, without: tuple[str, ...], processes: str
) -> None:
    """Passed a TCP and a unix socket: requests that came before it was up are answered, and the sockets stay."""
    tcp = socket.create_server(("127.0.0.1", 0))
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unix.bind(str(tmp_path / "socket"))
    unix.listen()
    early = http.client.HTTPConnection("127.0.0.1", tcp.getsockname()[1], timeout=TIMEOUT_S)
    early.request("GET", "/v2/health/ready")
    environment = {**os.environ, "NOTIFY_SOCKET": name_of(manager), "WATCHDOG_USEC": "400000"}
    environment.pop("WATCHDOG_PID", None)
    blocked = f"import sys; sys.modules.update(dict.fromkeys({list(without)}));"
    script = ACTIVATE.replace(
        '"-m", "edgekd_runtime.cli"', f'"-c", {blocked + " from edgekd_runtime.cli import main; main()"!r}'
    )
    command = [sys.executable, "-c", script, f"{tcp.fileno()},{unix.fileno()}", "serve", str(bundle_path)]
    with subprocess.Popen(
        [*command, "--processes", processes],
        env=environment,
        pass_fds=[tcp.fileno(), unix.fileno()],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert manager.recv(1000) == b"READY=1"
            assert early.getresponse().status == 200
            late = UnixConnection(tmp_path / "socket")
            late.request("GET", "/v2/health/ready")
            assert late.getresponse().status == 200
            assert [manager.recv(1000) for _ in range(3)] == [b"WATCHDOG=1"] * 3
            process.send_signal(signal.SIGHUP)
            said = [manager.recv(1000)]
            while said[-1] != b"READY=1":
                said.append(manager.recv(1000))
            assert [one.split(b"\n")[0] for one in said if one != b"WATCHDOG=1"] == [b"RELOADING=1", b"READY=1"]
            process.send_signal(signal.SIGTERM)
            message = manager.recv(1000)
            while message == b"WATCHDOG=1":
                message = manager.recv(1000)
            assert message == b"STOPPING=1"
            assert process.wait(TIMEOUT_S) == 0
            assert process.stdout is not None
            where = f"on http://127.0.0.1:{tcp.getsockname()[1]} and unix:{tmp_path / 'socket'}"
            assert where in process.stdout.read()
        finally:
            process.kill()
    assert (tmp_path / "socket").exists()  # systemd's, not the server's
    tcp.close()
    unix.close()


def test_a_passed_socket_that_others_reach_wants_a_token_too(bundle_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as open_to_all:
        command = [sys.executable, "-c", ACTIVATE, str(open_to_all.fileno()), "serve", str(bundle_path)]
        done = subprocess.run(
            command, pass_fds=[open_to_all.fileno()], capture_output=True, text=True, timeout=TIMEOUT_S
        )
    assert done.returncode == 2
    assert "--host 0.0.0.0 lets other machines in" in done.stderr


def test_a_hung_loop_is_not_said_to_live(manager: socket.socket, bundle_path: Path) -> None:
    """A stopped process stands for a loop that hangs: the watchdog is fed by the loop alone."""
    environment = {**os.environ, "NOTIFY_SOCKET": name_of(manager), "WATCHDOG_USEC": "200000"}
    environment.pop("WATCHDOG_PID", None)
    command = [sys.executable, "-m", "edgekd_runtime.cli", "serve", str(bundle_path), "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            assert manager.recv(1000) == b"READY=1"
            manager.recv(1000)
            process.send_signal(signal.SIGSTOP)
            while select.select([manager], [], [], 0.5)[0]:
                manager.recv(1000)
            assert not select.select([manager], [], [], 1.0)[0]
            process.send_signal(signal.SIGCONT)
            assert manager.recv(1000) == b"WATCHDOG=1"
        finally:
            process.kill()


def test_a_hung_server_process_is_not_said_to_live(manager: socket.socket, bundle_path: Path) -> None:
    environment = {**os.environ, "NOTIFY_SOCKET": name_of(manager), "WATCHDOG_USEC": "200000"}
    environment.pop("WATCHDOG_PID", None)
    program = "import edgekd_runtime.supervisor as s; s._HUNG_S = 2.0; from edgekd_runtime.cli import main; main()"
    command = [sys.executable, "-c", program, "serve", str(bundle_path), "--port", "0", "--processes", "2"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            assert manager.recv(1000) == b"READY=1"
            assert manager.recv(1000) == b"WATCHDOG=1"
            hung = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
            os.kill(hung, signal.SIGSTOP)
            deadline = time.monotonic() + TIMEOUT_S
            while select.select([manager], [], [], 1.0)[0]:
                manager.recv(1000)
                assert time.monotonic() < deadline
            os.kill(hung, signal.SIGCONT)
            assert manager.recv(1000) == b"WATCHDOG=1"
        finally:
            process.send_signal(signal.SIGTERM)
