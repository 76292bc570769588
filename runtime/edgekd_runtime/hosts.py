"""Web pages of strangers: they are kept from a server on the reader's own machine.

DNS rebinding makes a name of an attacker's point at 127.0.0.1, so his page may talk to a server there as if it were his
own; the browser then names his host. And without any trick a page may send a POST anywhere, only not read the answer;
the browser then names the page's origin (Fetch Standard, 3.1). A page can forge neither header. No CORS header is ever
sent.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection

from edgekd_runtime.reply import Guard, Headers, Reply, error_reply

_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:/@\s]+)(?::(\d{1,5}))?", re.IGNORECASE)
_ORIGIN = re.compile(r"https?://([^/@\s]+)", re.IGNORECASE)
_MAX_KNOWN = 64


def is_loopback(host: str) -> bool:
    """Whether ``host`` reaches this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_authority(text: str) -> bool:
    """Whether ``text`` is a host, with or without a port, as it stands in a Host header."""
    return _AUTHORITY.fullmatch(text) is not None


def host_guard(loopback: bool, allowed: Collection[str]) -> Guard:
    """Refuses a Host that is neither in ``allowed`` nor, on a ``loopback`` server, a name of this machine.

    ``allowed``: hosts, or host:port. A server that others reach by names that are not known takes every Host, unless
    some are allowed. An Origin must be the Host itself or allowed. Unix sockets are out of a page's reach.
    """
    names = {name.lower() for name in allowed}
    known: dict[str, bool] = {}

    def answers_to(host: str) -> bool:
        if host not in known:
            if len(known) >= _MAX_KNOWN:
                known.clear()
            known[host] = _answers_to(host, loopback, names)
        return known[host]

    def guard(headers: Headers, path: str, client: str | None) -> Reply | None:
        if client is None:
            return None
        host = headers.get("host", "")
        if host and not answers_to(host):
            return error_reply(421, f"this server does not answer to the host {host[:80]!r}; --allow-host makes it")
        origin = headers.get("origin")
        if origin is not None and not _is_own(origin, host, names):
            return error_reply(403, f"pages of {origin[:80]!r} may not ask here; --allow-host lets them")
        return None

    return guard


def _answers_to(host: str, loopback: bool, names: Collection[str]) -> bool:
    found = _AUTHORITY.fullmatch(host.lower())
    if found is None:
        return False
    is_known = found[1] in names or found[0] in names or is_loopback(found[1].strip("[]"))
    return is_known if loopback or names else True


def _is_own(origin: str, host: str, names: Collection[str]) -> bool:
    found = _ORIGIN.fullmatch(origin.lower())
    if found is None:  # 'null', of a file or a sandbox
        return False
    authority = found[1]
    named = _AUTHORITY.fullmatch(authority)
    return authority == host.lower() or authority in names or (named is not None and named[1] in names)
