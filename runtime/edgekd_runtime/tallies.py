"""What each server process has counted, in memory that all of them see, so that any of them can answer ``/metrics``.

Each has a slot, which it alone writes, once a second; a process that takes the place of one that died goes on from what
that one had counted up to a second before its end.
"""

from __future__ import annotations

import json
import mmap
import struct
import time
import zlib
from typing import Any

_SLOT_BYTES = 1 << 20  # of which only what is written takes memory
_HEAD = struct.Struct("=dII")  # when, on the monotonic clock; length; CRC-32, which tells a slot that is half written
_TRIES = 3


class Tallies:
    """``count`` slots; made before the processes are."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._memory = mmap.mmap(-1, count * _SLOT_BYTES)

    def write(self, slot: int, content: dict[str, Any]) -> None:
        """What would not fit is left as it was."""
        data = json.dumps(content).encode()
        at = slot * _SLOT_BYTES
        if len(data) <= _SLOT_BYTES - _HEAD.size:
            self._memory[at + _HEAD.size : at + _HEAD.size + len(data)] = data
            _HEAD.pack_into(self._memory, at, time.monotonic(), len(data), zlib.crc32(data))

    def read(self, slot: int) -> dict[str, Any] | None:
        """None where nothing was written yet, or a process died while it wrote."""
        at = slot * _SLOT_BYTES
        for _ in range(_TRIES):
            _, length, crc = _HEAD.unpack_from(self._memory, at)
            data = self._memory[at + _HEAD.size : at + _HEAD.size + length]
            if length and zlib.crc32(data) == crc:
                found: dict[str, Any] = json.loads(data)
                return found
        return None

    def others(self, slot: int) -> dict[int, dict[str, Any]]:
        """What all but ``slot`` have written, by slot."""
        slots = (number for number in range(self._count) if number != slot)
        return {number: found for number in slots if (found := self.read(number)) is not None}

    def age_s(self, slot: int) -> float:
        """Since ``slot`` was written last."""
        written: float = _HEAD.unpack_from(self._memory, slot * _SLOT_BYTES)[0]
        return time.monotonic() - written
