"""Bodies that a client has compressed (RFC 9110, 8.4)."""

from __future__ import annotations

import zlib

from edgekd_runtime.errors import BodyTooLargeError, InputError, MediaTypeError
from edgekd_runtime.reply import Body

MAX_BYTES = 16 << 20
"""Of what comes out; a few kilobytes can say gigabytes."""

_EITHER_FORMAT = 32 + zlib.MAX_WBITS  # zlib tells gzip and deflate apart by their first bytes


def inflate(body: Body, coding: str) -> Body:
    """What was compressed as ``Content-Encoding`` says. Raises ``InputError`` or ``BodyTooLargeError``."""
    if coding == "identity":
        return body
    if coding not in ("gzip", "deflate"):
        raise MediaTypeError(f"content-encoding {coding[:40]!r} is not known; take gzip, deflate or none")
    stream = zlib.decompressobj(_EITHER_FORMAT)
    try:
        content = stream.decompress(body, MAX_BYTES + 1)
    except zlib.error as error:
        raise InputError(f"the body is not {coding}: {error}") from error
    if len(content) > MAX_BYTES:
        raise BodyTooLargeError(f"the body holds more than {MAX_BYTES} bytes, which is the most that is taken")
    if not stream.eof or stream.unused_data:
        raise InputError(f"the body is not {coding}: it is cut off, or more follows it")
    return content
