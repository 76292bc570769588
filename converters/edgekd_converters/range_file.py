"""``ranges.json``: the ranges of a conversion, to be read, edited and given back."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from edgekd_converters.calibrate import Ranges
from edgekd_converters.errors import RangeFileError

VERSION = 1


def write_ranges(ranges: Ranges, steps: tuple[str, ...]) -> bytes:
    """``steps``: how they came about, for people. One tensor a line."""
    lines = ",\n".join(f"  {json.dumps(name, ensure_ascii=False)}: {json.dumps(ends)}" for name, ends in ranges.items())
    head = f'{{\n "edgekd": "ranges",\n "schema_version": {VERSION},\n "steps": {json.dumps(steps)},\n'
    return f'{head} "ranges": {{\n{lines}\n }}\n}}\n'.encode()


def read_ranges(path: Path) -> Ranges:
    """Raises ``RangeFileError`` that names the tensor at fault."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RangeFileError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise RangeFileError(f"{path}: not JSON: {error}") from error
    known = isinstance(content, dict) and content.get("edgekd") == "ranges"
    if not known or not isinstance(content.get("ranges"), dict):
        raise RangeFileError(f'{path}: not a file of ranges: it has no "edgekd": "ranges" with an object "ranges"')
    if content.get("schema_version") != VERSION:
        raise RangeFileError(
            f"{path}: schema_version is {content.get('schema_version')!r}; this edgekd reads {VERSION}"
        )
    return {name: _pair(path, name, ends) for name, ends in content["ranges"].items()}


def _pair(path: Path, name: str, ends: Any) -> tuple[float, float]:
    numbers = isinstance(ends, list) and len(ends) == 2 and all(type(end) in (int, float) for end in ends)
    if not numbers or not all(math.isfinite(end) and abs(end) < 1e30 for end in ends) or ends[0] > ends[1]:
        raise RangeFileError(f"{path}: the range of {name!r} is {ends!r}; it must be [least, greatest], finite numbers")
    return float(ends[0]), float(ends[1])
