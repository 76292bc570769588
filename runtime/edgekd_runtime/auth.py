"""Bearer tokens (RFC 6750): who may ask, on sockets that others than this machine's users can reach.

A unix socket is guarded by its file's mode, so no token is asked there.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from pathlib import Path

from edgekd_runtime.errors import KeyFileError
from edgekd_runtime.private import read_private
from edgekd_runtime.reply import Guard, Headers, Reply, error_reply

VARIABLE = "EDGEKD_TOKEN"
OPEN_PATHS = frozenset({"/", "/healthz", "/v2/health/live", "/v2/health/ready"})
"""Answered without a token: whether the server lives, and the page, which holds nothing and asks for the token."""

_TOKEN = re.compile(r"[\x21-\x7e]{16,512}")
_SCHEME = re.compile(r"bearer +", re.IGNORECASE)


def read_token(file: Path | None, environment: Mapping[str, str]) -> str | None:
    """The token in ``file``, else in ``$EDGEKD_TOKEN``; none where neither is given. Raises ``KeyFileError``."""
    if file is not None:
        token, where = read_private(file).decode("latin-1").strip(), str(file)
    elif VARIABLE in environment:
        token, where = environment[VARIABLE], f"${VARIABLE}"
    else:
        return None
    if not _TOKEN.fullmatch(token):
        raise KeyFileError(
            f"{where} must hold one token of 16 to 512 visible ASCII characters; make one: openssl rand -hex 32"
        )
    return token


def token_guard(token: str) -> Guard:
    """Refuses whoever does not send ``Authorization: Bearer TOKEN`` over TCP."""
    wanted = token.encode()

    def guard(headers: Headers, path: str, client: str | None) -> Reply | None:
        if client is None or path in OPEN_PATHS:
            return None
        scheme = _SCHEME.match(given := headers.get("authorization", ""))
        sent = given[scheme.end() :].encode("utf-8", "replace") if scheme else b""
        if hmac.compare_digest(sent, wanted):
            return None
        challenge = ("www-authenticate", 'Bearer realm="edgekd"')
        what = "the token is wrong" if given else "send the server's token: 'Authorization: Bearer TOKEN'"
        return error_reply(401, what, (challenge,))

    return guard
