"""The short way from socket to model: uvicorn's own HTTP protocol, which answers POSTs to a model without ASGI.

A small model answers in tens of microseconds, less than an ASGI task, its two writes and routing cost. Here httptools
still parses and uvicorn still owns connection, limits and shutdown; only a complete POST to a known path is answered
where its last byte arrives. A client says the same head every time, so heads that httptools has read once, byte for
byte, are remembered with what they mean. Everything else goes on as usual. Without httptools uvicorn takes its
pure-Python protocol and every request goes through ASGI: slower, same answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from io import BytesIO
from typing import Any, ClassVar, NamedTuple

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from edgekd_runtime.lanes import Handler
from edgekd_runtime.patience import NO_HTTP
from edgekd_runtime.poll import BusyPoll
from edgekd_runtime.reply import Body, Guard, Reply, error_reply, headers_of, too_large
from edgekd_runtime.routes import Site
from edgekd_runtime.server import LINGER_S, client_of, malformed, refusal

_HEAD = b"%b%b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n"
_BLANK_LINE = b"\r\n\r\n"
_MAX_HEADS, _MAX_HEAD_BYTES = 256, 2048  # that are remembered
_MAX_SILENT_BYTES = 64 << 10  # of a head, of trailers: httptools keeps them all
_MAX_PIPELINED = 64  # requests that wait for the answer to one before them
_STEP = 16 << 10  # bytes, after which that is looked at
_TO_DATE = {one.value: b"HTTP/1.1 %d %b\r\ndate: " % (one, one.phrase.encode()) for one in HTTPStatus}


def direct_protocol(site: Site, guards: Sequence[Guard], max_body_bytes: int, poll: BusyPoll) -> type[DirectProtocol]:
    """uvicorn's protocol class, answering the POSTs of ``site`` directly."""
    return type("DirectProtocol", (DirectProtocol,), {"shared": _Shared(site, guards, max_body_bytes, poll)})


@dataclass(frozen=True)
class _Shared:
    """What all connections have in common."""

    site: Site
    guards: Sequence[Guard]
    max_body_bytes: int
    poll: BusyPoll
    heads: dict[bytes, _Known] = field(default_factory=dict)


class DirectProtocol(HttpToolsProtocol):
    """One connection. uvicorn gives a protocol nothing of ours, so that ``shared`` is an attribute of the class."""

    shared: ClassVar[_Shared]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._answer: Handler | None = None
        self._path = ""
        self._headers: dict[str, str] = {}
        self._length = -1
        self._body = BytesIO()  # as much as has come of it
        self._known: _Known | None = None  # whose body is coming
        self._between = True  # two messages, so that the next byte begins a head
        self._begun = 0  # messages that httptools has seen
        self._silent = 0  # bytes since a head, a part of a body or a message was complete
        self._in_head = False
        self._hung_up = False  # but what still comes is read

    def unfinished(self) -> object:
        """What stands for the request that has begun to arrive; None between two requests."""
        return None if self._between else self._begun

    def data_received(self, data: bytes) -> None:
        if self._hung_up:
            return
        self.shared.poll.asked()
        if self._known is not None:
            self._takes_more(self._known, data)
            return
        began = self._between
        head, body = _split(data) if began else (b"", b"")
        known = self.shared.heads.get(head) if began else None
        if known is not None and self._idle() and self._takes(known, body):
            return
        self._length = -1
        self._parse(data)
        one_request = began and self._between and self._length == len(body)
        heads = self.shared.heads
        if one_request and self._answer and len(heads) < _MAX_HEADS and len(head) <= _MAX_HEAD_BYTES:
            heads[head] = _Known(self._path, self._headers, self._length)
        if self._between:
            self._answer = None  # or an idle connection would keep a model that is served no longer

    def _parse(self, data: Body) -> None:
        """uvicorn's ``data_received``, with an end to heads and an answer to requests that want to upgrade."""
        if len(data) > _STEP:
            for at in range(0, len(data), _STEP):
                if self._hung_up or self.transport.is_closing():
                    return
                self._parse(memoryview(data)[at : at + _STEP])
            return
        while data:
            self._silent += len(data)
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = self._without_upgrade() + bytes(data[upgrade.args[0] :])
            except httptools.HttpParserError:
                self.send_400_response(NO_HTTP)
                break
        if self._silent > _MAX_SILENT_BYTES:
            self._refuse(error_reply(431, f"a request's head has more than {_MAX_SILENT_BYTES} bytes"))

    def _without_upgrade(self) -> bytes:
        """The head that has just been read, for a new parser: this one takes nothing behind an Upgrade for a body.

        A server may ignore that header (RFC 9110, 7.8).
        """
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%b: %b" % one for one in self.headers if one[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        with suppress(AttributeError):  # httptools < 0.6.3
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self._silent = 0
        return b"\r\n".join(lines) + _BLANK_LINE

    def send_400_response(self, msg: str) -> None:
        self._refuse(error_reply(400, msg))

    def _refuse(self, reply: Reply) -> None:
        """The last answer, to what cannot be read on."""
        if self._hung_up or self.transport.is_closing():
            return
        if self._idle():
            self._write(reply, keep_alive=False)
        else:
            self.transport.write(_head(reply, False, self.server_state.default_headers) + reply.body)
            self.transport.close()

    def _takes(self, known: _Known, body: Body) -> bool:
        """Of a request whose head is known, what has come of its body; False where httptools must look at it."""
        missing = known.length - len(body)
        if missing < 0:
            return False
        if missing:
            self._known, self._body = known, BytesIO()
            self._body.write(body)
            self._between = False
            self._begun += 1
            self._unset_keepalive_if_required()
        if self.shared.guards and (refused := self._refusal(known.path, known.headers)):
            self._write(refused, keep_alive=not missing)
        elif not missing:
            self._ask(known, body)
        return True

    def _takes_more(self, known: _Known, data: bytes) -> None:
        """The rest of that body, or a part of it; what follows is the next request."""
        missing = known.length - self._body.tell()
        self._body.write(data if len(data) <= missing else data[:missing])
        if len(data) < missing:
            return
        self._known, self._between = None, True
        self._ask(known, self._whole_body())
        if len(data) > missing:
            self.data_received(data[missing:])

    def _whole_body(self) -> bytes:
        body, self._body = self._body, BytesIO()
        return body.getvalue()

    def _ask(self, known: _Known, body: Body) -> None:
        found = self.shared.site.find("POST", known.path)
        if isinstance(found, Reply):
            self._write(found, keep_alive=True)
        else:
            self._run(found, known.headers, body, keep_alive=True)

    def _run(self, handler: Handler, headers: dict[str, str], body: Body, *, keep_alive: bool) -> None:
        if handler.is_now(headers, self.shared.site.company.asked(self)):
            self._write(handler.now(body, headers), keep_alive=keep_alive)
            self.shared.poll.answered(self.loop)
            return
        self._unset_keepalive_if_required()  # httptools may not have seen this request
        # To uvicorn a request that is being answered: what follows waits for it, and so does the end of the server.
        pending = _Pending(keep_alive)
        self.cycle = pending  # type: ignore[assignment]
        handler.later(bytes(body), headers, self.loop, lambda reply: self._finish(pending, reply))

    def _finish(self, pending: _Pending, reply: Reply) -> None:
        pending.response_complete = True
        if not self.transport.is_closing():
            self._write(reply, keep_alive=pending.keep_alive)

    def _refusal(self, path: str, headers: dict[str, str]) -> Reply | None:
        return refusal(self.shared.guards, headers, path, client_of(self.client, self.server))

    def on_message_begin(self) -> None:
        self._unset_keepalive_if_required()  # not before: empty lines are no request (RFC 9112, 2.2)
        self._between = False
        self._begun += 1
        self._in_head = True
        # uvicorn's part of it, the ASGI scope, waits until it is known that ASGI answers.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._in_head:
            return  # a trailer: it must not pass for a header (RFC 9110, 6.5.1)
        name, value = name.lower(), value.rstrip(b" \t")
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("this server is no proxy")
            return  # it comes again, without
        self._silent, self._in_head = 0, False
        self._path = self.url.decode("latin-1")
        found = self.shared.site.find("POST", self._path) if self._may_answer() else None
        if found is None or isinstance(found, Reply):
            self._answer = None
            self._hand_over()
            return
        self._headers = headers_of(self.headers)
        self._body = BytesIO()
        self._answer = found
        refused = self._refusal(self._path, self._headers) or malformed(self._headers, self.parser.get_http_version)
        if refused:
            self._write(refused, keep_alive=False)
            return
        declared = int(self._headers.get("content-length", "0"))  # httptools has refused what is not a number
        if declared > self.shared.max_body_bytes:
            self._write(too_large(self.shared.max_body_bytes), keep_alive=False)

    def on_body(self, body: bytes) -> None:
        self._silent = 0
        if self._answer is None:
            super().on_body(body)
        elif self._body.tell() + len(body) <= self.shared.max_body_bytes:
            self._body.write(body)
        elif not self._hung_up:
            self._write(too_large(self.shared.max_body_bytes), keep_alive=False)

    def on_message_complete(self) -> None:
        if self._in_head:
            return
        self._silent, self._between = 0, True
        if self._answer is None:
            super().on_message_complete()
        elif self._hung_up:
            self.transport.close()
        elif not self.transport.is_closing():
            # A client of 1.0 that asks for it would have to be told that its connection is kept.
            asks = "connection" in self._headers and self.parser.get_http_version() == "1.0"
            keep_alive = self.parser.should_keep_alive() and not asks
            body = self._whole_body()
            self._length = len(body) if keep_alive else -1
            self._run(self._answer, self._headers, body, keep_alive=keep_alive)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.pipeline:
            self.flow.pause_reading()  # uvicorn goes on reading what would only wait
        elif self._hung_up and self._idle():
            self._between = False  # what was asked too far ahead still comes
            self._hang_up()

    def _hand_over(self) -> None:
        """Give uvicorn the request as if it had seen it from the start."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        super().on_headers_complete()
        if len(self.pipeline) >= _MAX_PIPELINED:
            self._hung_up = True  # when those are answered; the client may ask the others again (RFC 9112, 9.3.2)
        self.cycle.send = partial(_send_if_there, self.cycle, self.cycle.send)  # type: ignore[method-assign]

    def _may_answer(self) -> bool:
        """A plain POST, and nobody waits."""
        plain = not self.expect_100_continue and b"%" not in self.url
        return plain and self.parser.get_method() == b"POST" and self._idle()

    def _idle(self) -> bool:
        """Nothing of an earlier request is pending, and the client reads its answers."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and not self.flow.write_paused and not self.transport.is_closing()

    def _write(self, reply: Reply, *, keep_alive: bool) -> None:
        keep_alive = keep_alive and not self.shared.site.is_draining
        self.transport.write(_head(reply, keep_alive, self.server_state.default_headers) + reply.body)
        self.on_response_complete()  # uvicorn's: counts the request and arms the keep-alive timer
        if not keep_alive:
            self._hang_up()

    def _hang_up(self) -> None:
        if self._between:
            self.transport.close()
            return
        self._hung_up = True
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)


async def _send_if_there(cycle: RequestResponseCycle, send: Callable[[Any], Awaitable[None]], message: Any) -> None:
    """Of requests sent ahead uvicorn tells only the newest that the client has left; the others would fail to write."""
    if cycle.transport.is_closing():
        cycle.disconnected = True
    await send(message)


class _Known(NamedTuple):
    """A head that has been read before. ``length``: of the body, in bytes."""

    path: str
    headers: dict[str, str]
    length: int


class _Pending:
    """A request in a lane, in uvicorn's eyes a cycle that is not complete."""

    message_event = asyncio.Event()  # nobody waits for it

    def __init__(self, keep_alive: bool) -> None:
        self.keep_alive = keep_alive  # uvicorn's shutdown takes it away
        self.response_complete = False
        self.disconnected = False


def _split(data: bytes) -> tuple[bytes, Body]:
    """A head and what follows it, which may be large and is not copied; all of it is head where that does not end."""
    end = data.find(_BLANK_LINE)
    return (data[:end], memoryview(data)[end + len(_BLANK_LINE) :]) if end >= 0 else (data, b"")


def _head(reply: Reply, keep_alive: bool, stamps: Sequence[tuple[bytes, bytes]]) -> bytes:
    """``stamps``: the date, as uvicorn writes it anew every second; none before it has begun to."""
    date = stamps[0][1] if stamps else formatdate(usegmt=True).encode()
    more = b"" if keep_alive else b"connection: close\r\n"
    if reply.headers:
        more += b"".join([f"{name}: {value}\r\n".encode("latin-1") for name, value in reply.headers])
    return _HEAD % (_TO_DATE[reply.status], date, reply.content_type.encode(), len(reply.body), more)
