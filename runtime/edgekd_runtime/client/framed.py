"""The local protocol (:mod:`edgekd_runtime.frames`) as a client speaks it, with shared memory for large bodies."""

from __future__ import annotations

import mmap
import os
from collections.abc import Generator, Sequence

from edgekd_runtime import frames
from edgekd_runtime.client.http1 import Reading, Request, Response
from edgekd_runtime.errors import ClientError, InputError
from edgekd_runtime.frames import Span

SHARED_FROM_BYTES = 1 << 18
"""From here on a body gets there faster through shared memory than through the socket, which takes it in pieces."""

_PAGE = 4096
_REPLY_BYTES = 1 << 20


class Region:
    """Memory shared with the server: a body from its start, room for the answer behind it."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("edgekd-client")
        self._size = 0
        self._map: mmap.mmap | None = None

    def put(self, parts: Sequence[bytes | memoryview]) -> tuple[Span, Span]:
        """Write a body; where it is, and where the answer may be."""
        size = sum(len(part) for part in parts)
        reply = Span(-(-size // _PAGE) * _PAGE, _REPLY_BYTES)
        memory = self._of(sum(reply))
        at = 0
        for part in parts:
            memory[at : at + len(part)] = part
            at += len(part)
        return Span(0, size), reply

    def get(self, place: Span) -> bytes:
        """What the server wrote there."""
        if self._map is None or sum(place) > self._size:
            raise ClientError("the server's answer is outside the shared memory")
        return self._map[place.offset : sum(place)]

    def _of(self, size: int) -> mmap.mmap:
        if self._map is None or size > self._size:
            if self._map is not None:
                self._map.close()
            os.ftruncate(self.fd, size)
            self._map, self._size = mmap.mmap(self.fd, size), size
        return self._map

    def close(self) -> None:
        """Give the memory back."""
        if self._map is not None:
            self._map.close()
        os.close(self.fd)


def encode(request: Request, request_id: int, region: Region | None) -> bytes:
    """The frame; its body is in ``region`` if there is one."""
    lines = [f"{request.method} {request.path}", *(f"{name}: {value}" for name, value in request.headers.items())]
    body = request.body
    if region is not None:
        place, room = region.put(body)
        lines += [f"{frames.SHARED_BODY}: {place.offset} {place.size}"]
        lines += [f"{frames.SHARED_REPLY}: {room.offset} {room.size}"]
        body = ()
    head = "\n".join(lines).encode("latin-1")
    return b"".join([frames.frame_head(0, request_id, head, sum(len(part) for part in body)), *body])


def read(request_id: int, region: Region | None) -> Reading:
    """The reply to the request of that id. Raises ``ClientError`` for what is none."""
    received = yield from _exactly(bytearray(), frames.PREFIX.size)
    magic, head_size, status, replied_id, body_size = frames.PREFIX.unpack_from(received)
    if magic != frames.MAGIC or replied_id not in (request_id, 0):  # 0: the server could not even read the id
        raise ClientError("what answers there does not speak edgekd's frames of version 1")
    body_at = frames.PREFIX.size + head_size
    received = yield from _exactly(received, body_at + body_size)
    try:
        headers = frames.parse_lines(bytes(received[frames.PREFIX.size : body_at]).decode("latin-1").split("\n"))
        place = frames.span(headers, frames.SHARED_BODY)
    except InputError as error:
        raise ClientError(f"the server's answer cannot be read: {error}") from error
    body = bytes(memoryview(received)[body_at:])
    if place is not None and region is not None:
        body = region.get(place)
    closes = replied_id != request_id or status == 413 or headers.get("connection", "").lower() == "close"
    return Response(status, headers, body, closes)


def _exactly(received: bytearray, size: int) -> Generator[None, bytes, bytearray]:
    while len(received) < size:
        more = yield
        if not more:
            raise ConnectionResetError("the server hung up before its answer was complete")
        received += more
    return received
