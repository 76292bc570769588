"""The ASGI application: guards, the table of routes, and no body larger than the limit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from edgekd_runtime.lanes import Handler
from edgekd_runtime.reply import Guard, Headers, Reply, error_reply, headers_of, too_large
from edgekd_runtime.routes import Site

DEFAULT_MAX_BODY_BYTES = 1 << 20
DISCARDED_BYTES = 16 << 20
LINGER_S = 2.0
"""So long, and through ASGI no more than those bytes, the rest of a refused body is read and thrown away: a client that
still sends would lose its answer in the reset of the connection (RFC 9112, section 9.6)."""

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


class Application:
    """Answers every request that :mod:`edgekd_runtime.direct` does not. ASGI 3, HTTP only."""

    def __init__(
        self, site: Site, *, guards: Sequence[Guard] = (), max_body_bytes: int = DEFAULT_MAX_BODY_BYTES
    ) -> None:
        self._site = site
        self._guards = tuple(guards)
        self._max_body_bytes = max_body_bytes
        site.max_inflated_bytes = max_body_bytes

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http" or (reply := await self._reply(scope, receive)) is None:
            return
        await _send(_closing(reply) if self._site.is_draining else reply, send)

    async def _reply(self, scope: _Message, receive: _Receive) -> Reply | None:
        """The answer; None when the client has left."""
        self._site.company.asked(None)
        headers = headers_of(scope["headers"])
        client, path = client_of(scope.get("client"), scope.get("server")), _path_of(scope["path"])
        refused = refusal(self._guards, headers, path, client) or malformed(headers, lambda: scope["http_version"])
        if refused:
            return refused
        found = self._site.find(scope["method"], path)
        if isinstance(found, Reply):
            return found
        declared = headers.get("content-length", "0")
        if declared.isdigit() and int(declared) > self._max_body_bytes:
            if "expect" not in headers:  # that client has not begun to send it
                await _discard(receive)
            return _closing(too_large(self._max_body_bytes))
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                await _discard(receive)
                return _closing(too_large(self._max_body_bytes))
            if not message.get("more_body", False):
                return await _answer(found, bytes(body), headers)


async def _discard(receive: _Receive) -> None:
    """Let a client finish that is still sending, in reason: uvicorn hangs up as soon as it has answered."""

    async def rest() -> None:
        discarded, more = 0, True
        while more and discarded < DISCARDED_BYTES:
            message = await receive()
            discarded += len(message.get("body", b""))
            more = message.get("more_body", False)

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(rest(), LINGER_S)


async def _answer(handler: Handler, body: bytes, headers: Headers) -> Reply:
    if handler.lane is None:
        return handler.now(body, headers)
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Reply] = loop.create_future()
    handler.later(body, headers, loop, lambda reply: None if answered.done() else answered.set_result(reply))
    return await answered


def client_of(client: Sequence[Any] | None, server: Sequence[Any] | None) -> str | None:
    """For guards: the client's address; None only on a unix socket, whose own address is a path without a port.

    A client that has hung up already may have none, and must not pass for one of this machine.
    """
    if client is not None:
        return str(client[0])
    return None if server is not None and server[1] is None else "unknown"


def refusal(guards: Sequence[Guard], headers: dict[str, str], path: str, client: str | None) -> Reply | None:
    """Of the first guard that refuses."""
    for guard in guards:
        if reply := guard(headers, path, client):
            return reply
    return None


def malformed(headers: Headers, version: Callable[[], str]) -> Reply | None:
    """The refusal of a head that no parser refuses, though RFC 9112 (3.2, 6.1) asks for it. ``version``: of HTTP."""
    if "host" not in headers and version() == "1.1":
        return error_reply(400, "a request needs a Host header")
    coding = headers.get("transfer-encoding")
    if coding is not None and coding.lower() != "chunked":
        return error_reply(501, f"transfer-encoding {coding[:40]!r} is not known; take chunked or none")
    return None


def _path_of(target: str) -> str:
    """The path alone, where a client says all of the URL as to a proxy (RFC 9112, 3.2.2): h11 does not look."""
    scheme, is_whole, rest = target.partition("://")
    return "/" + rest.partition("/")[2] if is_whole and scheme.isalpha() else target


def _closing(reply: Reply) -> Reply:
    """Nothing follows on this connection: what is left of a refused body stays unread, or the server ends."""
    return reply._replace(headers=(*reply.headers, ("connection", "close")))


async def _send(reply: Reply, send: _Send) -> None:
    named = (("content-type", reply.content_type), ("content-length", str(len(reply.body))), *reply.headers)
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in named]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
