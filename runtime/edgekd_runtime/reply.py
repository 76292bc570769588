"""What a handler gets and gives: the few types that the server, its routes and its guards share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from edgekd_runtime import errors, jsontext

Headers = Mapping[str, str]
"""Of a request: names in lower case; what was sent several times is joined by commas (RFC 9110, 5.3)."""


class Reply(NamedTuple):
    """An HTTP answer. ``headers`` are those beside content-type and content-length, names in lower case."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


Body = bytes | memoryview
"""Of a request, empty of a GET. A view is of a buffer that holds the next request as soon as this one is answered."""
Post = Callable[[Body, Headers], Reply]
"""Answers the body and headers of one request; never raises."""
Guard = Callable[[Headers, str, "str | None"], "Reply | None"]
"""Headers, path and the client's address (none on a unix socket) → a refusal, or None to let the request in.

Asked on the event loop before the body is read, so it must be quick; never raises.
"""

STATUS: dict[type[Exception], int] = {
    errors.ModelNotFoundError: 404,
    errors.BodyTooLargeError: 413,
    errors.MediaTypeError: 415,
    errors.InputError: 400,
    errors.BundleError: 422,
    errors.MissingExtraError: 501,
    errors.RuntimeFault: 500,
}
"""HTTP statuses of faults; the first class that fits counts."""


def headers_of(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Raw headers as they came, names already in lower case."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in pairs:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def json_reply(content: object, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """``content`` as JSON."""
    return Reply(status, jsontext.dumps(content), headers=headers)


def error_reply(status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    """``{"error": "one line"}``."""
    return json_reply({"error": message}, status, headers)


def status_of(fault: errors.RuntimeFault) -> int:
    """The HTTP status of ``fault``."""
    return next(status for kind, status in STATUS.items() if isinstance(fault, kind))


def fault_reply(fault: errors.RuntimeFault) -> Reply:
    """A fault as the client sees it."""
    return error_reply(status_of(fault), str(fault))


def too_large(limit: int) -> Reply:
    """The refusal of a body of more than ``limit`` bytes."""
    return fault_reply(
        errors.BodyTooLargeError(f"the body has more than {limit} bytes, which is the most that is taken")
    )
