"""JSON to and from bytes: by orjson, of the extra ``fast``, where it is installed.

Whatever orjson does not take the standard library gets, so that both give the same answers and the same refusals.
It is looked for when the first JSON comes: a server of binary tensors can do without it, and without its memory.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

_orjson: Any = None
_is_looked_for = False


def dumps(content: object) -> bytes:
    """``content`` in UTF-8, without spaces."""
    if _orjson is not None:
        try:
            written: bytes = _orjson.dumps(content)
            return written
        except TypeError:  # half a surrogate pair, an integer of more than 64 bits, a subclass
            pass
    return encode(content).encode("utf-8", "replace")


def loads(text: bytes) -> Any:
    """UTF-8, without NaN and infinity, which other languages' readers fail on → the value. Raises ``ValueError``."""
    if not _is_looked_for:
        _look()
    if _orjson is not None:
        try:
            return _orjson.loads(text)
        except ValueError:  # the standard library words it, or takes it
            pass
    return loads_once(text)


def loads_once(text: bytes) -> Any:
    """:func:`loads` of what is remembered, so that it need not be fast."""
    return _decode(text.decode())


def _look() -> None:
    global _orjson, _is_looked_for
    _is_looked_for = True
    try:
        _orjson = importlib.import_module("orjson")
    except ImportError:
        _orjson = None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode
