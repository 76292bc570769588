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
from collections.abc import Callable, Hashable, Mapping
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
    handler.addFilter(_Foreign())
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


class _Seldom:
    """What is said once in ten seconds: a flood of strangers must not wear out the board's SD card."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since: dict[Hashable, tuple[float, int]] = {}  # when it was said last, how often it was not since

    def unsaid(self, what: Hashable) -> int | None:
        """How often ``what`` was not said; None where it is not to be said now either."""
        now = self._clock()
        last, unsaid = self._since.get(what, (float("-inf"), 0))
        is_now = now - last >= _REFUSED_EVERY_S
        self._since[what] = (now, 0) if is_now else (last, unsaid + 1)
        return unsaid if is_now else None


def logged(guard: Guard, clock: Callable[[], float] = time.monotonic) -> Guard:
    """``guard``, whose refusals are logged: of each status one in ten seconds, with how many there were since."""
    seldom = _Seldom(clock)

    def asked(headers: Headers, path: str, client: str | None) -> Reply | None:
        refused = guard(headers, path, client)
        if refused is not None and (unsaid := seldom.unsaid(refused.status)) is not None:
            event(logging.WARNING, "refused", status=refused.status, client=client, path=path[:80], unsaid=unsaid)
        return refused

    return asked


class _Foreign(logging.Filter):
    """Of what libraries say, such as uvicorn of every request that is none, each sentence seldom."""

    def __init__(self) -> None:
        super().__init__()
        self._seldom = _Seldom()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name == _log.name:
            return True
        unsaid = self._seldom.unsaid(str(record.msg)[:80])
        if unsaid:
            record.fields = {"unsaid": unsaid}
        return unsaid is not None


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
