"""JSON to and from bytes: by orjson, of the extra ``fast``, where it is installed.

Whatever orjson does not take the standard library gets, so that both give the same answers and the same refusals.
"""

from __future__ import annotations

import json
from typing import Any

try:
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def dumps(content: object) -> bytes:
    """``content`` in UTF-8, without spaces."""
    if orjson is not None:
        try:
            return orjson.dumps(content)
        except TypeError:  # half a surrogate pair, an integer of more than 64 bits, a subclass
            pass
    return encode(content).encode("utf-8", "replace")


def loads(text: bytes) -> Any:
    """UTF-8, without NaN and infinity, which other languages' readers fail on → the value. Raises ``ValueError``."""
    if orjson is not None:
        try:
            return orjson.loads(text)
        except ValueError:  # the standard library words it, or takes it
            pass
    return _decode(text.decode())


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
