"""How many clients a server has, and how long it waits for one: uvicorn's protocols with limits to both.

uvicorn gives up a connection that is idle between two requests, but waits without end for one that begins a request
and sends a byte now and then ("slow loris"), or that says nothing at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from edgekd_runtime.reply import error_reply

REQUEST_S = 30.0
"""A client has this long for its first byte, and for a whole request."""

NO_HTTP = "this is not a valid HTTP/1.1 request"
"""What a client is told of bytes that no parser can read."""


def last_words(status: int, message: str, more: bytes = b"") -> bytes:
    """An error as a whole HTTP answer, after which the connection is closed. ``more``: lines of its head."""
    error = error_reply(status, message).body
    line = b"HTTP/1.1 %d %b\r\n" % (status, HTTPStatus(status).phrase.encode())
    head = b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % (more, len(error))
    return line + head + error


_FULL = last_words(503, "too many clients are here; try again later", b"retry-after: 1\r\n")


def limited(base: Any, max_connections: int | None) -> Any:
    """``base``, a protocol with ``unfinished``, that refuses more clients than ``max_connections`` and silent ones."""

    class Limited(base):  # type: ignore[misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            if max_connections is not None and len(self.connections) > max_connections:
                transport.write(_FULL)
                transport.close()
                return
            # uvicorn's own timer for the time between requests, from which the first byte releases.
            self.timeout_keep_alive_task = self.loop.call_later(REQUEST_S, self.timeout_keep_alive_handler)

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            # After an error uvicorn leaves the timer running, and with it all that the connection held.
            self._unset_keepalive_if_required()

        def eof_received(self) -> bool:
            """A client that has said all may still wait for its answer. TLS cannot be closed by halves."""
            owes = self.cycle is not None and not self.cycle.response_complete and self.unfinished() is None
            if owes:
                self.cycle.keep_alive = False
            return owes and self.scheme != "https"

        def _unsupported_upgrade_warning(self) -> None:
            """uvicorn would advise, at every such request, to install what nobody here wants."""

    return Limited


class Overseer:
    """Closes connections whose request takes too long to arrive, or whose client does not read its answers."""

    def __init__(self) -> None:
        self._since: dict[tuple[Any, str], tuple[object, float]] = {}

    def look(self, connections: Iterable[Any], now: float) -> None:
        """To be called every second or so, with the loop's time in seconds."""
        before, self._since = self._since, {}
        for one in list(connections):
            if self._stays(before, (one, "request"), one.unfinished(), now):
                one.transport.close()
            # What a client does not read keeps even a connection that has been closed.
            if self._stays(before, (one, "answer"), one.transport.get_write_buffer_size() or None, now):
                one.transport.abort()

    def _stays(
        self, before: dict[tuple[Any, str], tuple[object, float]], key: tuple[Any, str], mark: object, now: float
    ) -> bool:
        """Whether ``mark``, None for nothing, has been the same for too long."""
        if mark is None:
            return False
        old, since = before.get(key, (None, now))
        self._since[key] = mark, since if old == mark else now
        return now - self._since[key][1] > REQUEST_S
