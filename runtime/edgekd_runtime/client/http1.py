"""HTTP/1.1 as a client speaks it, without the socket: requests to bytes, and bytes to responses (RFC 9112)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

from edgekd_runtime.errors import ClientError

_MAX_HEAD = 1 << 16


class Request(NamedTuple):
    """``headers``: beside those that the protocol itself needs. ``body``: what it is made of, in order."""

    method: str
    path: str
    headers: dict[str, str]
    body: Sequence[bytes | memoryview] = ()


class Response(NamedTuple):
    """``is_last``: the server answers nothing more on this connection."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_last: bool = False


Reading = Generator[None, bytes, Response]
"""Is sent what has been received, ``b""`` at the end, and returns the response."""


def encode(request: Request, authority: str) -> bytes:
    """Head and body."""
    size = sum(len(part) for part in request.body)
    lines = [f"{request.method} {request.path} HTTP/1.1", f"host: {authority}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items()]
    if request.method != "GET":
        lines.append(f"content-length: {size}")
    return b"".join(["\r\n".join([*lines, "", ""]).encode("latin-1"), *request.body])


def read() -> Reading:
    """One response. Raises ``ClientError`` for what is none."""
    received = bytearray()
    status = 0
    while not 200 <= status <= 599:  # 100 Continue and the like come before it
        while (end := received.find(b"\r\n\r\n")) < 0:
            if len(received) > _MAX_HEAD:
                raise ClientError("the server's answer is no HTTP")
            received += yield from _more()
        status, headers, version = _head(bytes(received[:end]))
        del received[: end + 4]
    closes = headers.get("connection", "" if version == "HTTP/1.1" else "close").lower() == "close"
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = yield from _chunks(received)
    elif "content-length" in headers:
        size = _number(headers["content-length"], 10)
        while len(received) < size:
            received += yield from _more()
        body = bytes(received)
    else:
        while more := (yield):
            received += more
        body, closes = bytes(received), True
    return Response(status, headers, body, closes)


def _more() -> Generator[None, bytes, bytes]:
    data = yield
    if not data:
        raise ConnectionResetError("the server hung up before its answer was complete")
    return data


def _chunks(received: bytearray) -> Generator[None, bytes, bytes]:
    body = bytearray()
    while size := _number((yield from _line(received)).split(";")[0], 16):
        while len(received) < size + 2:
            received += yield from _more()
        body += received[:size]
        del received[: size + 2]
    while (yield from _line(received)):  # trailers
        pass
    return bytes(body)


def _line(received: bytearray) -> Generator[None, bytes, str]:
    """Taken out of ``received``."""
    while (end := received.find(b"\r\n")) < 0:
        if len(received) > _MAX_HEAD:
            raise ClientError("the server's answer is no HTTP")
        received += yield from _more()
    line = received[:end].decode("latin-1")
    del received[: end + 2]
    return line


def _head(raw: bytes) -> tuple[int, dict[str, str], str]:
    first, *lines = raw.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise ClientError("the server's answer is no HTTP")
    pairs = [line.partition(":") for line in lines]
    return _number(rest[:3], 10), {name.strip().lower(): value.strip() for name, _, value in pairs}, version


def _number(text: str, base: int) -> int:
    try:
        number = int(text, base)
    except ValueError:
        number = -1
    if number < 0:
        raise ClientError(f"the server's answer is no HTTP: {text[:40]!r} is no number")
    return number
