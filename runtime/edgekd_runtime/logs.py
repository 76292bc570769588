"""The server's log on standard error: one line an event, as text or JSON, never a request's content or a token.

An exception that nobody foresaw is logged by its kind and where it was raised, not by its message, which may quote what
the client sent.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from edgekd_runtime.reply import Guard, Headers, Reply

FORMATS, LEVELS = ("text", "json"), ("debug", "info", "warning", "error")
REQUEST_ID = "x-request-id"
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PLAIN = re.compile(r"[^\s\"=\\\x00-\x1f\x7f-\x9f]+")
_MAX_FRAMES = 6
_REFUSED_EVERY_S = 10.0

_log = logging.getLogger("edgekd_runtime")


def configure(style: str, level: str, **always: object) -> None:
    """Everything that this process logs, uvicorn and asyncio included, goes through here from now on.

    ``always``: fields of every event.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(style, always))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    _log.setLevel(level.upper())


def event(level: int, name: str, /, **fields: object) -> None:
    """Log ``name`` with ``fields``: short values that may be shown to whoever reads the log."""
    _log.log(level, name, extra={"fields": fields})


def failure(name: str, /, **fields: object) -> None:
    """Log, as an error, the exception that is being handled."""
    _log.error(name, exc_info=True, extra={"fields": fields})


def request_id(headers: Headers) -> str:
    """What the client calls its request, if that can stand in a log; otherwise a new name for it."""
    given = headers.get(REQUEST_ID, "")
    return given if _ID.fullmatch(given) else secrets.token_hex(6)


def logged(guard: Guard, clock: Callable[[], float] = time.monotonic) -> Guard:
    """``guard``, whose refusals are logged: of each status one in ten seconds, with how many there were since.

    A flood of strangers must not wear out the board's SD card.
    """
    since: dict[int, tuple[float, int]] = {}  # status → when it was logged last, refusals that were not

    def asked(headers: Headers, path: str, client: str | None) -> Reply | None:
        refused = guard(headers, path, client)
        if refused is not None:
            now = clock()
            last, unsaid = since.get(refused.status, (float("-inf"), 0))
            if now - last < _REFUSED_EVERY_S:
                since[refused.status] = last, unsaid + 1
            else:
                since[refused.status] = now, 0
                event(logging.WARNING, "refused", status=refused.status, client=client, path=path[:80], unsaid=unsaid)
        return refused

    return asked


class _Formatter(logging.Formatter):
    """ISO 8601 in UTC, level, event, fields: ``key=value``, or one JSON object."""

    def __init__(self, style: str, always: Mapping[str, object]) -> None:
        super().__init__()
        self._always = always
        self._is_json = style == "json"

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        fields: dict[str, Any] = {**getattr(record, "fields", {}), **self._always}
        if record.name != _log.name:
            fields["logger"] = record.name
        if record.exc_info and record.exc_info[0]:
            fields |= {"error": record.exc_info[0].__name__, "at": _where(record.exc_info[2])}
        level, what = record.levelname.lower(), record.getMessage()
        if self._is_json:
            said = {"time": moment, "level": level, "event": what, **fields}
            return json.dumps(said, ensure_ascii=False, default=str)
        pairs = "".join(f" {key}={_quoted(value)}" for key, value in fields.items())
        return f"{moment} {level} {' '.join(what.split())}{pairs}"


def _where(raised: TracebackType | None) -> str:
    """The innermost frames, the innermost first: ``wire.py:120 parse_infer < api.py:41 answer``."""
    frames = traceback.extract_tb(raised)[-_MAX_FRAMES:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))


def _quoted(value: object) -> str:
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)
