"""JSON as bodies hold it: an object."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from typing import Any

from edgekd_runtime import jsontext
from edgekd_runtime.errors import InputError
from edgekd_runtime.reply import Body


def parse(body: Body, loads: Callable[[bytes], Any] = jsontext.loads) -> dict[str, Any]:
    """The body → JSON object. Raises ``InputError`` with the place of the fault."""
    try:
        value = loads(bytes(body).removeprefix(codecs.BOM_UTF8))
    except UnicodeDecodeError as error:
        raise InputError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
    except json.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"the body is not JSON that can be read here: {error}") from error
    if not isinstance(value, dict):
        raise InputError("the body must be a JSON object")
    return value
