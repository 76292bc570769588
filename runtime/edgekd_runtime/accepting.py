"""Taking clients from a listening socket, a few at once."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

ACCEPT_PAUSE_S = 1.0
"""Before asking again where there was no room: at once would be a busy loop."""
_AT_ONCE = 64


def clients(listener: socket.socket, no_room: Callable[[], None]) -> Iterator[tuple[socket.socket, Any]]:
    """Those that wait, and their addresses. ``listener`` does not block. ``no_room``: no descriptors or memory left."""
    for _ in range(_AT_ONCE):
        try:
            client, address = listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # nobody waits
            return
        except OSError:
            no_room()
            return
        yield client, address
