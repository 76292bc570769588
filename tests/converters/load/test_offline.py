"""The network refused, below Python too. What is refused cannot be had back, so each runs in a process of its own."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

needs_filter = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="a filter of Linux on these"
)
REFUSED = "import ctypes, os, socket, sys\nfrom edgekd_converters.load.offline import refuse_network\n"


def run(code: str) -> str:
    """What it prints, once the network is refused."""
    done = subprocess.run([sys.executable, "-c", REFUSED + code], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout.strip()


@needs_filter
@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6", "AF_PACKET"])
def test_native_code_gets_no_socket(family: str) -> None:
    code = f"""
libc = ctypes.CDLL(None, use_errno=True)
assert refuse_network()
print(libc.socket(int(socket.{family}), 2, 0), os.strerror(ctypes.get_errno()))
"""
    assert run(code) == "-1 Permission denied"


@needs_filter
def test_threads_and_programs_started_get_none_either() -> None:
    code = """
import subprocess, threading
libc, go, said = ctypes.CDLL(None), threading.Event(), []
early = threading.Thread(target=lambda: (go.wait(), said.append(libc.socket(2, 1, 0))))
early.start()
assert refuse_network()
go.set()
early.join()
program = "import ctypes; print(ctypes.CDLL(None).socket(2, 1, 0))"
print(*said, subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout)
"""
    assert run(code) == "-1 -1"


@needs_filter
def test_sockets_by_the_other_door_of_the_kernel_are_refused() -> None:
    code = "assert refuse_network()\nprint(ctypes.CDLL(None).syscall(425, 8, bytes(120)))"
    assert run(code) == "-1"


@pytest.mark.parametrize("call", ["socket.socket()", "socket.socket(socket.AF_INET6)", "socket.gethostbyname('host')"])
def test_python_is_told_why(call: str) -> None:
    code = f"refuse_network()\ntry:\n    {call}\nexcept PermissionError as error:\n    print(error)"
    assert run(code) == "opening a model does not use the network"


def test_this_machines_own_sockets_stay() -> None:
    code = "refuse_network()\nleft, right = socket.socketpair()\nleft.send(b'hello')\nprint(right.recv(9).decode())"
    assert run(code) == "hello"
