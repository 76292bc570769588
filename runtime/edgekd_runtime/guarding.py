"""The options of ``serve`` that keep strangers out, and what they come to."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from edgekd_runtime import auth, hosts, logs, rates, tls
from edgekd_runtime.finite import FiniteRange
from edgekd_runtime.reply import Guard

_Command = TypeVar("_Command", bound=Callable[..., None])
_PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Guarding:
    """``guards`` in the order in which they are asked. ``warnings``: what the operator should know."""

    guards: tuple[Guard, ...]
    tls: ssl.SSLContext | None
    warnings: tuple[str, ...]


def _authority(ctx: click.Context, param: click.Parameter, hosts_given: tuple[str, ...]) -> tuple[str, ...]:
    for host in hosts_given:
        if not hosts.is_authority(host):
            raise click.BadParameter(f"{host!r} is not a host, or host:port.")
    return hosts_given


_OPTIONS = (
    click.option(
        "--token-file",
        type=_PATH,
        help="Ask clients over TCP for the token in this file (mode 600). [default: that in $EDGEKD_TOKEN, if any]",
    ),
    click.option(
        "--allow-remote", is_flag=True, help="Let --host be an address that other machines reach, without a token."
    ),
    click.option(
        "--allow-host",
        multiple=True,
        metavar="HOST[:PORT]",
        callback=_authority,
        help="A name by which clients, or the web pages they use, may address the server; may be repeated.",
    ),
    click.option(
        "--rate-limit",
        type=FiniteRange(0, 1e6, min_open=True),
        metavar="N",
        help="Requests a second from each address; more are answered 429. [default: no limit]",
    ),
    click.option("--tls-cert", type=_PATH, help="Certificate chain (PEM) for TLS on the TCP port."),
    click.option("--tls-key", type=_PATH, help="Its private key (PEM, mode 600). [default: in the same file]"),
)


NAMES = ("token_file", "allow_remote", "allow_host", "rate_limit", "tls_cert", "tls_key")


def options(command: _Command) -> _Command:
    """Adds the options; the command gets them as keyword arguments, for ``guarding``."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def guarding(listening: Sequence[str], given: dict[str, Any]) -> Guarding:
    """What the options come to on a server that listens on these hosts.

    Raises ``KeyFileError``, and ``click.UsageError`` where other machines would get in unasked.
    """
    token = auth.read_token(given["token_file"], os.environ)
    os.environ.pop(auth.VARIABLE, None)  # children need not know it
    remote = [host for host in listening if not hosts.is_loopback(host)]
    local = not remote
    if not local and token is None and not given["allow_remote"]:
        raise click.UsageError(
            f"--host {remote[0]} lets other machines in: ask them for a token (--token-file or ${auth.VARIABLE}), "
            "or add --allow-remote to let in everybody"
        )
    if given["tls_key"] and not given["tls_cert"]:
        raise click.UsageError("--tls-key needs --tls-cert")
    certificate: Path | None = given["tls_cert"]
    context = tls.server_context(certificate, given["tls_key"] or certificate) if certificate else None
    guards: list[Guard] = [rates.rate_guard(given["rate_limit"])] if given["rate_limit"] else []
    guards.append(hosts.host_guard(local, given["allow_host"]))
    if token is not None:
        guards.append(auth.token_guard(token))
    exposed = token is not None and not local and context is None
    warnings = ("the token travels in the clear to other machines; --tls-cert encrypts it",) if exposed else ()
    return Guarding(tuple(map(logs.logged, guards)), context, warnings)
