"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable

TIMEOUT_S = 60


def soon(happened: Callable[[], bool]) -> bool:
    """Whether it happens within a minute."""
    end = time.monotonic() + TIMEOUT_S
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
