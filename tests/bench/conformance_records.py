"""What is known of every case of the conformance table, kept on disk so that a run can be ended and taken up again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import edgekd_converters
from common import digest
from edgekd.cache import cache_root
from edgekd.versions import versions
from edgekd_runtime import atomic

Record = dict[str, Any]


def read(family: str, name: str) -> Record | None:
    """``stale``: made by other code of the converters than is here now."""
    path = _path(family, name)
    if not path.is_file():
        return None
    record: Record = json.loads(path.read_text("utf-8"))
    return record | {"stale": record["code"] != code_digest()}


def save(family: str, name: str, record: Record) -> None:
    whole = {**record, "code": code_digest(), "versions": versions()}
    atomic.write_bytes(_path(family, name), json.dumps(whole, indent=1).encode())


def code_digest() -> str:
    return digest(Path(edgekd_converters.__file__).parent.rglob("*.py"))


def _path(family: str, name: str) -> Path:
    return cache_root() / "bench" / "conformance" / family / f"{name}.json"
