"""What systemd is told, and what it hands over: sd_notify(3), its watchdog, and sockets that it listens on.

Both are small protocols over the environment and one datagram socket, and do nothing where systemd has not set them up.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping

from edgekd_runtime.errors import ServeError

_FIRST_FD = 3  # SD_LISTEN_FDS_START


def notify(*lines: str) -> None:
    """Send ``READY=1``, ``STOPPING=1``, ``STATUS=…`` and the like to ``$NOTIFY_SOCKET``, if there is one."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path.startswith(("/", "@")):
        return
    address = f"\0{path[1:]}" if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)  # a manager that does not read must not hold requests up
        sock.sendto("\n".join(lines).encode(), address)


def reloading() -> None:
    """Between this and ``READY=1`` a reload is under way."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def forget(environment: MutableMapping[str, str]) -> None:
    """In a process of which systemd does not know: what it does is not the service's to tell."""
    environment.pop("NOTIFY_SOCKET", None)


class Watchdog:
    """Says that the server lives, twice in the time after which systemd would restart it. ``tick`` is cheap.

    ``due``: when ``tick`` will say so next, on ``clock``; infinity where systemd does not ask for it.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        microseconds = os.environ.get("WATCHDOG_USEC", "")
        mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._interval_s = int(microseconds) / 2e6 if microseconds.isdigit() and mine else 0.0
        self._clock = clock
        self.due = clock() if self._interval_s else float("inf")

    def tick(self) -> None:
        """To be called from the event loop, so that a loop that hangs is found out."""
        now = self._clock()
        if now >= self.due:
            self.due = now + self._interval_s
            notify("WATCHDOG=1")


def inherited_sockets(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The listening sockets that systemd passed to this process (sd_listen_fds(3)), none without activation.

    The variables are taken out, so that children do not think them theirs. Raises ``ServeError`` for other sockets.
    """
    count, pid = environment.pop("LISTEN_FDS", ""), environment.pop("LISTEN_PID", "")
    environment.pop("LISTEN_FDNAMES", None)
    if not count.isdigit() or pid != str(os.getpid()):
        return []
    return [_listening(fd) for fd in range(_FIRST_FD, _FIRST_FD + int(count))]


def _listening(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        is_stream = sock.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX) and sock.type == socket.SOCK_STREAM
        if is_stream and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            return sock
    except OSError as error:
        raise ServeError(f"descriptor {fd}, which LISTEN_FDS promises, is no socket: {error.strerror}") from error
    raise ServeError(f"descriptor {fd} is not a listening stream socket; the socket unit wants ListenStream=")
