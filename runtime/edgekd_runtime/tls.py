"""TLS on the TCP port, by the standard library: 1.2 and later, with OpenSSL's own choice of ciphers."""

from __future__ import annotations

import ssl
from pathlib import Path

from edgekd_runtime.errors import KeyFileError
from edgekd_runtime.private import read_private


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """``certificate``: PEM, the server's own first, then those up the chain. Raises ``KeyFileError``."""
    read_private(key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: _refuse(key))
    except FileNotFoundError as error:
        raise KeyFileError(f"{certificate}: no such file") from error
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise KeyFileError(f"{certificate} and {key} are no certificate with its key in PEM: {why}") from error
    context.set_alpn_protocols(["http/1.1"])
    return context


def _refuse(key: Path) -> str:
    """In place of OpenSSL's question at the terminal, which a service cannot answer."""
    raise KeyFileError(f"{key}: the key is encrypted; a server starts unattended, so decrypt it: openssl pkey")
