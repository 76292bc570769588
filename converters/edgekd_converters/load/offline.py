"""The network refused to this process: to Python by an audit hook, which says why, to all other code by the kernel.

The kernel's part is a seccomp filter, which needs no privileges, also holds for every program that is started, and
cannot be taken back. See seccomp(2) and Documentation/userspace-api/seccomp_filter.rst of Linux.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import sys
from dataclasses import dataclass
from typing import Any

_LOCAL = (1, 16)
"""Address families: files of this machine (``AF_UNIX``), and the kernel itself (``AF_NETLINK``)."""
_RESOLVING = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_SET_NO_NEW_PRIVS, _FILTER, _ALL_THREADS = 38, 1, 1
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | errno.EACCES
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16  # where they lie in struct seccomp_data
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_OTHER_ABI = 0x40000000
"""Of x86-64: system calls from here on are those of its 32-bit twin, x32."""


@dataclass(frozen=True)
class _Calls:
    """An architecture's number in the kernel, and those of its system calls."""

    architecture: int
    seccomp: int
    socket: int
    io_uring_setup: int = 425  # it opens sockets too


_CALLS = {"x86_64": _Calls(0xC000003E, 317, 41), "aarch64": _Calls(0xC00000B7, 277, 198)}


class _Instruction(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_uint16),
        ("if_true", ctypes.c_uint8),
        ("if_false", ctypes.c_uint8),
        ("operand", ctypes.c_uint32),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("first", ctypes.POINTER(_Instruction)))


def refuse_network() -> bool:
    """From now on. Whether the kernel refuses it too: other systems, emulators and odd processors have no filter."""
    sys.addaudithook(_refuse)
    return _filter()


def _refuse(event: str, args: tuple[Any, ...]) -> None:
    if event in _RESOLVING or (event == "socket.__new__" and args[1] not in _LOCAL):
        raise PermissionError("opening a model does not use the network")


def _filter() -> bool:
    calls = _CALLS.get(platform.machine())
    if calls is None or sys.platform != "linux":
        return False
    program = [  # a jump's distances are counted from the instruction behind it
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, 7, calls.architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 5, 0, _OTHER_ABI),
        (_EQUAL, 4, 0, calls.io_uring_setup),
        (_EQUAL, 0, 4, calls.socket),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_EQUAL, 2, 0, _LOCAL[0]),
        (_EQUAL, 1, 0, _LOCAL[1]),
        (_RETURN, 0, 0, _REFUSE),
        (_RETURN, 0, 0, _ALLOW),
    ]
    instructions = (_Instruction * len(program))(*(_Instruction(*one) for one in program))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0):  # without it only root may
        return False
    whole = _Program(len(program), instructions)
    return bool(libc.syscall(calls.seccomp, _FILTER, _ALL_THREADS, ctypes.byref(whole)) == 0)
