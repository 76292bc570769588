"""Bodies that a client has compressed (RFC 9110, 8.4)."""

from __future__ import annotations

import zlib

from edgekd_runtime.errors import BodyTooLargeError, InputError, MediaTypeError
from edgekd_runtime.reply import Body

_EITHER_FORMAT = 32 + zlib.MAX_WBITS  # zlib tells gzip and deflate apart by their first bytes
_STEP = 4 << 10  # bytes; of a gzip of many short members, what follows each is copied


def inflate(body: Body, coding: str, max_bytes: int) -> Body:
    """What was compressed as ``Content-Encoding`` says.

    ``max_bytes`` may come out at most; a few kilobytes can say gigabytes.
    Raises ``InputError`` or ``BodyTooLargeError``.
    """
    coding = coding.lower()
    if coding in ("identity", ""):
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise MediaTypeError(f"content-encoding {coding[:40]!r} is not known; take gzip, deflate or none")
    stream, content, at = zlib.decompressobj(_EITHER_FORMAT), bytearray(), 0
    try:
        while at < len(body):
            if stream.eof and coding != "deflate":  # a gzip may have several members (RFC 1952, 2.2)
                stream = zlib.decompressobj(_EITHER_FORMAT)
            part = memoryview(body)[at : at + _STEP]
            content += stream.decompress(part, max_bytes + 1 - len(content))
            if len(content) > max_bytes:
                raise BodyTooLargeError(f"the body holds more than {max_bytes} bytes, which is the most that is taken")
            at += len(part) - len(stream.unused_data)
            if stream.eof and coding == "deflate":
                break
    except zlib.error as error:
        raise InputError(f"the body is not {coding}: {error}") from error
    if not stream.eof or at < len(body):
        raise InputError(f"the body is not {coding}: it is cut off, or more follows it")
    return bytes(content)
