"""Where a server is: ``http://host:port``, ``https://…``, ``unix:///path`` (HTTP) or ``ipc:///path`` (frames)."""

from __future__ import annotations

import socket
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from edgekd_runtime.errors import ClientError

RETRY_S = 0.01
"""How long to wait where a unix socket's queue is full."""

_PORTS = {"http": 80, "https": 443}


class Address(NamedTuple):
    """``path``: of a unix socket, empty on TCP."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """For the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS.get(self.scheme, 0) else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path or self.authority}"


def parse(uri: str) -> Address:
    """Raises ``ClientError``."""
    try:
        parts = urlsplit(uri)
        port = parts.port
        host = parts.hostname or ""
        if not host.isascii():
            host = host.encode("idna").decode()
    except ValueError as error:
        raise ClientError(f"{uri[:200]!r} is no address: {error}") from error
    if parts.scheme in ("unix", "ipc") and (path := unquote(parts.netloc + parts.path)):
        return Address(parts.scheme, "localhost", 0, path)
    if parts.scheme in _PORTS and host and parts.path in ("", "/"):
        return Address(parts.scheme, host, port or _PORTS[parts.scheme], "")
    raise ClientError(f"{uri[:200]!r} is no address; take http://HOST:PORT, https://…, unix:///PATH or ipc:///PATH")


def is_connected(sock: socket.socket, path: str) -> bool:
    """Connect ``sock``, which does not block; False while the server's queue is full. Raises ``OSError``.

    The kernel tells nobody when there is room again: ``connect`` waits itself, for ever, or is to be tried again.
    """
    try:
        sock.connect(path)
    except BlockingIOError:
        return False
    return True
