"""A folder of finished things, each named by the stamp of its recipe and put there whole or not at all."""

import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

KEEP_DAYS = 30
_ENTRY = re.compile(r"\.?(sysroot|packages|project|core)-[0-9a-f]{16}(-\w+)?")


def stamp(recipe: Iterable[str]) -> str:
    """Return a short digest that changes with any part of the recipe."""
    digest = hashlib.sha256()
    for part in recipe:
        digest.update(len(part.encode()).to_bytes(8, "big") + part.encode())
    return digest.hexdigest()[:16]


def cached(cache_dir: Path, kind: str, recipe: Iterable[str], fill: Callable[[Path, Path], None]) -> Path:
    """Return the entry of this recipe, calling ``fill(draft, final)`` if it is not there yet.

    `fill` writes into `draft`; `final` is where the content will be, for paths that must be written down.
    An interrupted build leaves no entry, and of two builds at once the first to finish counts.
    """
    final = cache_dir / f"{kind}-{stamp(recipe)}"
    if final.is_dir():
        os.utime(final)  # used now: see prune()
        return final
    cache_dir.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=cache_dir))
    try:
        fill(draft, final)
        draft.chmod(0o755)
        try:
            draft.rename(final)
        except OSError:
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return final


def prune(cache_dir: Path, keep_days: float = KEEP_DAYS) -> None:
    """Remove entries that nobody used for so long, and what killed builds left behind."""
    oldest = time.time() - keep_days * 86400
    for entry in cache_dir.iterdir():
        # The change time, because unpacking an archive sets modification times to the archive's.
        if _ENTRY.fullmatch(entry.name) and entry.stat().st_ctime < oldest:
            shutil.rmtree(entry, ignore_errors=True)
