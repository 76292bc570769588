"""The short way from socket to model: uvicorn's own HTTP protocol, which answers POSTs to a model without ASGI.

A small model answers in tens of microseconds, less than an ASGI task, its two writes and routing cost. Here httptools
still parses and uvicorn still owns connection, limits and shutdown; only a complete POST to a known path is answered
where its last byte arrives. Everything else goes on as usual. Where httptools has no wheels (armv7l) uvicorn takes its
pure-Python protocol and every request goes through ASGI: slower, same answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from edgekd_runtime.server import Post, fault_reply, too_large

_HEAD = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%b\r\n"
_PHRASES = {status.value: status.phrase.encode() for status in HTTPStatus}


def direct_protocol(posts: Mapping[str, Post], max_body_bytes: int) -> type[HttpToolsProtocol]:
    """uvicorn's protocol class, answering ``posts`` (path → answer) directly."""
    by_url = {path.encode(): answer for path, answer in posts.items()}

    class DirectProtocol(HttpToolsProtocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._answer: Post | None = None
            self._body = bytearray()

        def on_headers_complete(self) -> None:
            self._answer = by_url.get(self.url) if self._may_answer() else None
            self._body = bytearray()
            if self._answer is None:
                super().on_headers_complete()
            elif self._declared_bytes() > max_body_bytes:
                self._write(*fault_reply(too_large(max_body_bytes)), keep_alive=False)

        def on_body(self, body: bytes) -> None:
            if self._answer is None:
                super().on_body(body)
            elif len(self._body) + len(body) <= max_body_bytes:
                self._body += body
            elif not self.transport.is_closing():
                self._write(*fault_reply(too_large(max_body_bytes)), keep_alive=False)

        def on_message_complete(self) -> None:
            if self._answer is None:
                super().on_message_complete()
            elif not self.transport.is_closing():
                content_type = next((value for name, value in self.headers if name == b"content-type"), b"")
                status, content = self._answer(bytes(self._body), content_type.decode("latin-1"))
                self._write(status, content, keep_alive=self.parser.should_keep_alive())
                self._answer = None

        def _declared_bytes(self) -> int:
            declared = next((value for name, value in self.headers if name == b"content-length"), b"0")
            return int(declared)  # httptools has refused what is not a number

        def _may_answer(self) -> bool:
            """A plain POST, nothing of an earlier request pending, and a client that reads its answers."""
            idle = self.cycle is None or self.cycle.response_complete
            plain = not self.expect_100_continue and not self.parser.should_upgrade()
            return idle and plain and not self.flow.write_paused and self.parser.get_method() == b"POST"

        def _write(self, status: int, content: bytes, *, keep_alive: bool) -> None:
            ending = b"" if keep_alive else b"connection: close\r\n"
            self.transport.write(_HEAD % (status, _PHRASES[status], len(content), ending) + content)
            if not keep_alive:
                self.transport.close()
            self.on_response_complete()  # uvicorn's: counts the request and arms the keep-alive timer

    return DirectProtocol
