"""Messages between the supervisor and a server process, and clients that are handed over with them.

A pair of sockets that keep messages apart (``SOCK_SEQPACKET``, unix(7)); a message is a JSON object, and may carry one
connection (``SCM_RIGHTS``).
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

_MAX_BYTES = 1 << 16

Message = dict[str, Any]


class Channel:
    """One end. Nothing here waits."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Both ends."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, message: Mapping[str, Any], client: socket.socket | None = None) -> bool:
        """False where the other end is gone, or has not read for long. ``client`` stays the caller's to close."""
        try:
            socket.send_fds(self._sock, [json.dumps(message).encode()], [client.fileno()] if client else [])
        except OSError:
            return False
        return True

    def receive(self) -> tuple[Message, socket.socket | None] | None:
        """The next message, and the client that came with it; None at the end. Raises ``BlockingIOError``: none yet."""
        try:
            data, fds, _, _ = socket.recv_fds(self._sock, _MAX_BYTES, 1)
        except BlockingIOError:
            raise
        except OSError:
            return None
        client = socket.socket(fileno=fds[0]) if fds else None
        return (json.loads(data), client) if data else None

    def close(self) -> None:
        self._sock.close()
