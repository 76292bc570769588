"""A build folder's ``report.json`` and ``ranges.json``, read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from edgekd.errors import DataError, UsageError
from edgekd.report import SCHEMA_VERSION
from edgekd_converters.calibrate import Ranges
from edgekd_converters.errors import RangeFileError
from edgekd_converters.range_file import read_ranges

REPORT, RANGES, PAGE = "report.json", "ranges.json", "report.html"


def read_report(folder: Path) -> dict[str, Any]:
    """What ``edgekd convert`` reported. Raises ``UsageError`` where there is nothing, ``DataError`` for anything else.

    Args:
        folder: the build folder, or the file itself.
    """
    path = folder / REPORT if folder.is_dir() else folder
    if not path.is_file():
        raise UsageError(f"{path}: no such file; 'edgekd convert' writes it into its --output folder")
    report = _read(path)
    if report.get("edgekd") != "conversion":
        raise DataError(f'{path}: not the report of a conversion, which says "edgekd": "conversion"')
    version = report.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise DataError(f"{path}: schema_version {version} is newer than this edgekd's {SCHEMA_VERSION}")
    return report


def ranges_beside(folder: Path) -> Ranges:
    """The ranges beside a report; none where the folder has none. Raises ``DataError``."""
    path = (folder if folder.is_dir() else folder.parent) / RANGES
    try:
        return read_ranges(path) if path.is_file() else {}
    except RangeFileError as error:
        raise DataError(str(error)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: must hold an object")
    return content
