"""Raw inputs, texts and files: as a whole body, or base64 inside JSON."""

from __future__ import annotations

import base64
import re
from functools import lru_cache

from edgekd_runtime.errors import InputError, MediaTypeError
from edgekd_runtime.reply import Body

TEXT = "text"

_RAW_KINDS = ("image/", "audio/", "text/plain")
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\";\s]*)", re.IGNORECASE)
_CHARSETS = re.compile(
    r"utf-?8|us-ascii|ascii|utf-?(16|32)-?([bl]e)?|iso-8859-\d\d?|latin-?1|windows-125\d|koi8-[ru]"
    r"|gb2312|gbk|gb18030|big5|shift_jis|euc-(jp|kr)"
)


def of_body(body: Body, content_type: str, takes: str | None) -> str | bytes | None:
    """The text or file that the whole body is; None where the content type says nothing of the kind, so it is JSON.

    ``takes``: text, image, audio, or None of a model of tensors. Raises ``InputError``.
    """
    kind = content_type.split(";")[0].strip().lower()
    if not kind.startswith(_RAW_KINDS):
        return None
    if kind == "text/plain" and takes in (TEXT, None):
        return decoded("the body", bytes(body), _charset(content_type) if ";" in content_type else "utf-8")
    if not kind.startswith(f"{takes}/"):
        raise MediaTypeError(f"the model takes {takes or 'tensors'}, not {kind[:40]!r}")
    return bytes(body)


@lru_cache(maxsize=64)
def _charset(content_type: str) -> str:
    """Of a text; only such as are few and well-behaved, for Python remembers every name that it is asked for.

    Raises ``MediaTypeError`` for others.
    """
    found = _CHARSET.search(content_type)
    charset = (found[1].lower() if found else "") or "utf-8"
    if _CHARSETS.fullmatch(charset) is None:
        raise MediaTypeError(f"charset {charset[:40]!r} is not known; take utf-8")
    return charset


def decoded(where: str, value: bytes, charset: str = "utf-8") -> str:
    """Bytes → text. Raises ``InputError``."""
    try:
        return value.decode(charset)
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not {charset.upper()}: {error.reason} at byte {error.start}") from error
    except LookupError as error:  # iso-8859-12 was never made
        raise MediaTypeError(f"charset {charset!r} is not known; take utf-8") from error


def file_of(name: str, coded: str) -> bytes:
    """Base64 → the file's bytes. Raises ``InputError``."""
    try:
        return base64.b64decode(coded, validate=True)
    except ValueError as error:
        raise InputError(f"{name!r} must hold files in base64: {error}") from error
