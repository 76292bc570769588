"""Adaptive busy polling: an event loop that stays awake for clients that ask again at once.

Putting a process to sleep and waking it costs tens of microseconds, more than a small model's whole answer. So while
requests come closer together than a short window, the loop looks for the next one without sleeping; one window without
a request, and it sleeps as usual. Linux does the same for network devices (``net.core.busy_poll``) and for idle virtual
processors (``halt_poll_ns``). An idle server costs nothing, and on a single core, where polling would take the client's
time, there is none. A window in vain is followed by a rest without polling, twice as long after each until one is not
in vain: a client that has only paused is waited for again soon, but where other work keeps the cores busy, the loop may
hold the very core that its client is waiting for, and every window would be in vain.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

DEFAULT_WINDOW_US = 200
_LEAST_REST_S, _MOST_REST_S = 0.0005, 0.016


class Loop(Protocol):
    """What is asked of an ``asyncio`` event loop here."""

    def call_soon(self, callback: Callable[..., object], *args: object) -> object: ...


class BusyPoll:
    """One for each event loop. ``window_us`` is 0 where there is to be no polling."""

    def __init__(
        self, window_us: int, *, cores: int | None = None, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        cores = cores if cores is not None else len(os.sched_getaffinity(0))
        self._window_s = window_us / 1e6 if cores > 1 else 0.0
        self._clock = clock
        self._last_answer = float("-inf")
        self._soon = False
        self._until = self._rests_until = 0.0
        self._polls = False
        self._rest_s = _LEAST_REST_S

    def asked(self) -> None:
        """Bytes of a client have come."""
        if self._polls:
            self._rest_s = _LEAST_REST_S
        self._soon = self._clock() - self._last_answer < self._window_s

    def answered(self, loop: Loop) -> None:
        """What was asked last has been answered."""
        self._last_answer = now = self._clock()
        if self._soon and now >= self._rests_until:
            self._until = now + self._window_s
            if not self._polls:
                self._polls = True
                loop.call_soon(self._poll, loop)

    def _poll(self, loop: Loop) -> None:
        # A loop with something to call soon asks its sockets without waiting for them.
        now = self._clock()
        self._polls = now < self._until
        if self._polls:
            loop.call_soon(self._poll, loop)
        else:
            self._rests_until = now + self._rest_s
            self._rest_s = min(2 * self._rest_s, _MOST_REST_S)
