"""Compressed bodies, and those that pretend to be."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd_runtime.errors import BodyTooLargeError, InputError, MediaTypeError
from edgekd_runtime.reply import Body
from edgekd_runtime.wire.compressed import inflate as inflate_up_to

MAX_BYTES = 1 << 20


def inflate(body: Body, coding: str) -> Body:
    return inflate_up_to(body, coding, MAX_BYTES)


@given(body=st.binary(max_size=200))
def test_there_and_back(body: bytes) -> None:
    assert inflate(gzip.compress(body), "gzip") == body
    assert inflate(zlib.compress(body), "deflate") == body
    assert inflate(body, "identity") == inflate(body, "") == body
    assert inflate(gzip.compress(body), "GZip") == inflate(gzip.compress(body), "x-gzip") == body
    assert inflate(b"".join(gzip.compress(body[i : i + 9]) for i in range(0, 200, 9)), "gzip") == body


def test_a_bomb_is_not_blown_up() -> None:
    assert len(inflate(gzip.compress(bytes(MAX_BYTES)), "gzip")) == MAX_BYTES
    bomb = gzip.compress(bytes(MAX_BYTES + 1))
    assert len(bomb) < 1 << 16
    with pytest.raises(BodyTooLargeError, match=str(MAX_BYTES)):
        inflate(bomb, "gzip")
    with pytest.raises(BodyTooLargeError, match=str(MAX_BYTES)):
        inflate(gzip.compress(bytes(MAX_BYTES // 2)) * 3, "gzip")
    with pytest.raises(InputError, match="more follows"):
        inflate(zlib.compress(b"a") * 2, "deflate")


def test_other_codings() -> None:
    for coding in ("br", "zstd", "gzip, gzip", "x" * 1000):
        with pytest.raises(MediaTypeError, match="take gzip, deflate or none"):
            inflate(b"", coding)


@given(body=st.binary(max_size=60))
def test_any_bytes(body: bytes) -> None:
    whole = gzip.compress(b"hello")
    for broken in (body, whole[:-1], whole + body + b"x", whole[: len(body)]):
        try:
            inflate(broken, "gzip")
        except InputError as error:
            assert "\n" not in str(error)
