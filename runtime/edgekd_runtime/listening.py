"""Sockets that a server listens to, and the files of those that have one."""

from __future__ import annotations

import contextlib
import errno
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekd_runtime.errors import ServeError

_BACKLOG = 128


def listen_tcp(host: str, port: int) -> socket.socket:
    """A listening TCP socket. Raises ``ServeError``."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        # Named as TCP, or asyncio does not set TCP_NODELAY on what it accepts: 44 ms an answer without uvloop.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except (OSError, OverflowError, UnicodeError) as error:
        hint = "; take another --port" if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        raise ServeError(f"cannot listen on {host} port {port}: {getattr(error, 'strerror', error)}{hint}") from error
    return sock


def listen_unix(path: Path, option: str = "--uds") -> socket.socket:
    """A listening unix socket, for this user and group only. A dead server's socket file is replaced.

    ``option`` is the one that gave ``path``. Raises ``ServeError``.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists():
            _remove_stale(path, option)
        sock.bind(str(path))
        path.chmod(0o660)
        sock.listen(_BACKLOG)
    except OSError as error:
        raise ServeError(f"cannot listen on unix socket {path}: {error.strerror or error}") from error
    return sock


def _remove_stale(path: Path, option: str) -> None:
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise ServeError(f"{path} exists and is not a socket; remove it or take another {option}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # one that hangs has a full line, in which a probe would wait for ever
        with contextlib.suppress(BlockingIOError):
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
                return
    raise ServeError(f"another server listens on {path}; stop it or take another {option}")


@dataclass(frozen=True)
class SocketFile:
    """A unix socket's file, as it was when the server made it."""

    path: Path
    identity: tuple[int, ...]

    @classmethod
    def at(cls, path: Path) -> SocketFile:
        """The one that is at ``path`` now."""
        return cls(path, _identity(path))

    def remove(self) -> None:
        """Unless it has been replaced: a server that starts while this one ends listens there by now."""
        with contextlib.suppress(FileNotFoundError):
            if _identity(self.path) == self.identity:
                self.path.unlink()


def _identity(path: Path) -> tuple[int, ...]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_mtime_ns  # inodes are used again


@dataclass(frozen=True)
class Listening:
    """``where``: how clients name the sockets. ``remove``: what is to be gone at the end."""

    http: list[socket.socket]
    ipc: socket.socket | None
    where: list[str]
    remove: list[SocketFile]

    @property
    def sockets(self) -> list[socket.socket]:
        return [*self.http, self.ipc] if self.ipc is not None else self.http


def listen(
    inherited: list[socket.socket], host: str, port: int, uds: Path | None, ipc: Path | None, *, tls: bool
) -> Listening:
    """On ``host`` and ``port`` and on ``uds``, or by the sockets ``inherited``; and for frames on ``ipc``.

    Raises ``ServeError``; then no socket file is left.
    """
    http, framed, remove = list(inherited), None, list[SocketFile]()
    try:
        if not inherited:
            http.append(listen_tcp(host, port))
        if uds is not None and not inherited:
            http.append(listen_unix(uds))
            remove.append(SocketFile.at(uds))
        if ipc is not None:
            framed = listen_unix(ipc, "--ipc")
            remove.append(SocketFile.at(ipc))
    except ServeError:
        for file in remove:
            file.remove()
        raise
    where = [address(sock, None if inherited else host, tls) for sock in http]
    return Listening(http, framed, where + ([f"ipc:{ipc}"] if ipc is not None else []), remove)


def hosts_of(sockets: Sequence[socket.socket]) -> list[str]:
    """The addresses on which the TCP ones among them listen."""
    return [sock.getsockname()[0] for sock in sockets if sock.family != socket.AF_UNIX]


def address(sock: socket.socket, host: str | None, tls: bool) -> str:
    """Where clients find ``sock``: ``http://…``, or ``unix:PATH``. ``host``: the name that it was given, if any."""
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    number, port = sock.getsockname()[:2]
    named = host or (f"[{number}]" if sock.family == socket.AF_INET6 else number)
    return f"{'https' if tls else 'http'}://{named}:{port}"
