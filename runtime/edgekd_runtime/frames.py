"""The frames of the local protocol (``--ipc``): what HTTP says, without HTTP's text around it.

A frame is a prefix of 16 bytes, a head and a body, one after the other on a unix stream socket, little-endian:

    4 bytes   ``EKD`` and the version, 1
    uint16    bytes of the head
    uint16    status: 0 in a request, in a reply as in HTTP
    uint32    id that the client gives a request and its reply carries; replies may overtake each other
    uint32    bytes of the body

The head of a request is ``POST /v2/models/m/infer``, in the lines after it ``name: value``; that of a reply has such
lines only. Bodies are those of HTTP. A body may stand in shared memory instead: the client sends the descriptor of a
memfd along with a frame (SCM_RIGHTS) and from then on names ``shared-body: OFFSET BYTES`` for its body and
``shared-reply: OFFSET BYTES`` for where there is room for the answer, whose head then says ``shared-body`` in turn.
``connection: close`` in the head of a reply: the server ends; nothing more may be asked by this connection.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from edgekd_runtime.errors import InputError

PREFIX = struct.Struct("<4sHHII")
MAGIC = b"EKD\x01"
MAX_HEAD = 8192
MAX_ID = (1 << 32) - 1
SHARED_BODY, SHARED_REPLY = "shared-body", "shared-reply"

_MAX_OFFSET = 1 << 40


class Span(NamedTuple):
    """A place in shared memory, in bytes."""

    offset: int
    size: int


class RequestHead(NamedTuple):
    """``headers``: names in lower case. ``body``, ``reply``: where they are in shared memory, if there."""

    method: str
    path: str
    headers: dict[str, str]
    body: Span | None
    reply: Span | None


def parse_request(head: bytes) -> RequestHead:
    """The head of a request. Raises ``InputError``."""
    first, *lines = head.decode("latin-1").split("\n")
    method, _, path = first.partition(" ")
    if method not in ("GET", "POST") or not path.startswith("/"):
        raise InputError(f"a head must begin with GET or POST and a path, not {first[:80]!r}")
    headers = parse_lines(lines)
    return RequestHead(method, path, headers, span(headers, SHARED_BODY), span(headers, SHARED_REPLY))


def parse_lines(lines: Iterable[str]) -> dict[str, str]:
    """``name: value`` each. Raises ``InputError``."""
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not name or not colon:
            raise InputError(f"a line of a head must be 'name: value', not {line[:80]!r}")
        headers[name.strip().lower()] = value.strip()
    return headers


def span(headers: dict[str, str], name: str) -> Span | None:
    """The place that the header ``name`` says, if it is there. Raises ``InputError``."""
    if name not in headers:
        return None
    parts = headers[name].split(" ")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 14 for part in parts):
        raise InputError(f"{name} must be an offset and a number of bytes, not {headers[name][:80]!r}")
    found = Span(int(parts[0]), int(parts[1]))
    if sum(found) > _MAX_OFFSET:
        raise InputError(f"{name} is beyond what shared memory can hold")
    return found


@lru_cache(maxsize=256)
def reply_lines(content_type: str, headers: tuple[tuple[str, str], ...]) -> bytes:
    """The head of a reply, which mostly is that of the one before."""
    return "\n".join(f"{name}: {value}" for name, value in (("content-type", content_type), *headers)).encode("latin-1")


def frame_head(status: int, request_id: int, head: bytes, body_size: int) -> bytes:
    """Prefix and head; the body follows."""
    return PREFIX.pack(MAGIC, len(head), status, request_id, body_size) + head
