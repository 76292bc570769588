"""Memory that a client shares by sending its descriptor: read and written here, never mapped.

What another process can change or cut short at any moment must not be looked at twice, and a mapping that was cut short
kills whoever touches it (SIGBUS). So bytes are copied out once, by a call that reports a short file like any other
error; that is the copy which validation would need anyway.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterable
from typing import Any

from edgekd_runtime.errors import InputError
from edgekd_runtime.frames import Span

_INT = array.array("i").itemsize
ANCILLARY_BYTES = socket.CMSG_SPACE(4 * _INT)
"""Room for some descriptors; the kernel closes those that do not fit."""


def descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """The file descriptors that came with a message; whoever calls owns them."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % _INT])
    return found.tolist()


class SharedMemory:
    """A client's memory. Owns the descriptor."""

    def __init__(self, fd: int) -> None:
        """Raises ``InputError``, with ``fd`` closed, where it is no memory: a read elsewhere could wait for ever."""
        try:
            fcntl.fcntl(fd, fcntl.F_GET_SEALS)  # fails on all that is not memory (memfd_create, /dev/shm)
            is_memory = stat.S_ISREG(os.fstat(fd).st_mode)
        except OSError:
            is_memory = False
        if not is_memory:
            os.close(fd)
            raise InputError("the descriptor that was sent is not of shared memory (memfd_create)")
        self._fd = fd

    def read(self, place: Span) -> bytes:
        """The bytes there now. Raises ``InputError`` where the memory ends before."""
        try:
            data = os.pread(self._fd, place.size, place.offset)
        except OSError as error:
            raise InputError(f"the shared memory cannot be read: {error.strerror}") from error
        if len(data) != place.size:
            raise InputError(f"the shared memory ends before byte {sum(place)}")
        return data

    def write(self, place: Span, data: bytes) -> bool:
        """Whether ``data`` fit ``place`` and was written there."""
        with contextlib.suppress(OSError):
            if len(data) <= place.size and place.offset + len(data) <= os.fstat(self._fd).st_size:
                return os.pwrite(self._fd, data, place.offset) == len(data)
        return False

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._fd)


def send_descriptor(sock: socket.socket, data: bytes, fd: int) -> int:
    """Send the first of ``data`` with a copy of ``fd``; how many bytes went out."""
    rights: list[tuple[int, int, Any]] = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    return sock.sendmsg([data], rights)
