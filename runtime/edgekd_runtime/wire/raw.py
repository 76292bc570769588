"""Raw inputs, texts and files: as a whole body, or base64 inside JSON."""

from __future__ import annotations

import base64

from edgekd_runtime.errors import InputError, MediaTypeError
from edgekd_runtime.reply import Body

TEXT = "text"

_RAW_KINDS = ("image/", "audio/", "text/plain")


def of_body(body: Body, content_type: str, takes: str | None) -> str | bytes | None:
    """The text or file that the whole body is; None where the content type says nothing of the kind, so it is JSON.

    ``takes``: text, image, audio, or None of a model of tensors. Raises ``InputError``.
    """
    kind = content_type.split(";")[0].strip().lower()
    if not kind.startswith(_RAW_KINDS):
        return None
    if kind == "text/plain" and takes in (TEXT, None):
        return decoded("the body", bytes(body))
    if not kind.startswith(f"{takes}/"):
        raise MediaTypeError(f"the model takes {takes or 'tensors'}, not {kind[:40]!r}")
    return bytes(body)


def decoded(where: str, value: bytes) -> str:
    """UTF-8 → text. Raises ``InputError``."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8: {error.reason} at byte {error.start}") from error


def file_of(name: str, coded: str) -> bytes:
    """Base64 → the file's bytes. Raises ``InputError``."""
    try:
        return base64.b64decode(coded, validate=True)
    except ValueError as error:
        raise InputError(f"{name!r} must hold files in base64: {error}") from error
