"""Interpreters of one model, each used by one thread at a time (sharing one is undefined: tensorflow#26365)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from queue import SimpleQueue
from typing import Any

import numpy.typing as npt

from edgekd_runtime.backend import Backend
from edgekd_runtime.histogram import Histogram, merged


class Pool:
    """Lends out ``backends``. May be called from any number of threads; they wait where all are in use."""

    def __init__(self, backends: Sequence[Backend]) -> None:
        self._free: SimpleQueue[tuple[Backend, Histogram]] = SimpleQueue()
        # One histogram for each, so that counting needs no lock.
        self._taken = [Histogram() for _ in backends]
        for lent in zip(backends, self._taken, strict=True):
            self._free.put(lent)

    def __len__(self) -> int:
        return len(self._taken)

    def invoke(self, arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """As ``Backend.invoke``, in an interpreter that nobody else uses."""
        lent = self._free.get()
        backend, taken = lent
        try:
            start = time.perf_counter()
            outputs = backend.invoke(arrays)
            taken.observe(time.perf_counter() - start)
            return outputs
        finally:
            self._free.put(lent)

    def count_from_now(self) -> None:
        """Forget the invokes so far; nobody may be using the pool."""
        for one in self._taken:
            one.clear()

    def times(self) -> Histogram:
        """How long the invokes took."""
        return merged(self._taken)
