"""What the extra ``fast`` brings: optional packages with which the server gives the same answers sooner."""

from __future__ import annotations

import platform
from importlib.util import find_spec

_EVERYWHERE = ("orjson",)
_WITH_64_BITS = ("httptools", "uvloop", *_EVERYWHERE)  # PyPI has no armv7l wheels of the others


def advice() -> str | None:
    """One line that says what to install; None where nothing is missing."""
    packages = _WITH_64_BITS if platform.machine() in ("x86_64", "aarch64") else _EVERYWHERE
    missing = [name for name in packages if find_spec(name) is None]
    if not missing:
        return None
    return f"without {', '.join(missing)}; pip install 'edgekd-runtime[fast]' makes the server faster"
