"""How a request gets to its model: at once on the event loop, or in a bounded line before the model's threads.

A small model answers in less time than handing it to a thread takes, so it runs where the request arrives. A large one
would keep every other client waiting there; it has threads of its own, and a line that is full refuses at once. While
one client has the server to itself there is nobody to keep waiting, and a model that is not too large answers it where
its request arrives, too.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from edgekd_runtime.errors import InputError
from edgekd_runtime.metrics import Meter
from edgekd_runtime.reply import Body, Headers, Post, Reply, error_reply, fault_reply

DEADLINE_HEADER = "x-request-timeout-ms"
"""What a client gives to say when an answer is of no more use to it."""

_MAX_DEADLINE_MS = 3_600_000
_ALONE_AFTER = 8
Done = Callable[[Reply], None]


class Company:
    """Whether one client has the server to itself: the last few requests were all its own. For one event loop."""

    def __init__(self) -> None:
        self._last = 0
        self._in_a_row = 0

    def asked(self, connection: object) -> bool:
        """To be told of every request; whether the connection that it came by is alone."""
        client = id(connection)  # not the connection itself, which would outlive its end
        if client != self._last:
            self._last, self._in_a_row = client, 0
        self._in_a_row += 1
        return self._in_a_row > _ALONE_AFTER


class Lane:
    """``workers`` threads, and a line of at most ``limit`` requests before them.

    ``is_short``: the model answers so soon that the event loop may wait for it while there is one client.
    """

    def __init__(self, name: str, workers: int, limit: int, *, is_short: bool = False) -> None:
        self.limit = limit
        self._workers = workers
        self._is_short = is_short
        self._line: SimpleQueue[_Ticket | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._inside = 0  # in the line or being answered
        self._mean_s = 0.0
        self._is_closed = False
        for number in range(workers):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    @property
    def depth(self) -> int:
        """How many requests wait."""
        return max(0, self._inside - self._workers)

    @property
    def may_be_passed(self) -> bool:
        """Whether the event loop may answer a lone client: with more workers, that one could want several at once."""
        return self._is_short and self._workers == 1 and self._inside == 0

    def enter(self, ticket: _Ticket) -> bool:
        """Whether there was room in the line."""
        with self._lock:
            if self._inside >= self._workers + self.limit:
                return False
            self._inside += 1
            if not self._is_closed:
                self._line.put(ticket)
                return True
        # Its body came while another model took this one's place.
        threading.Thread(target=self._serve, args=(ticket,), daemon=True).start()
        return True

    def retry_after_s(self) -> int:
        """When there should be room again, as a client is told."""
        return max(1, math.ceil(self._inside * self._mean_s / self._workers))

    def close(self) -> None:
        """End the threads once the line is empty."""
        with self._lock:
            self._is_closed = True
        for _ in range(self._workers):
            self._line.put(None)

    def _work(self) -> None:
        while (ticket := self._line.get()) is not None:
            self._serve(ticket)
            del ticket  # or its body would stay until the next one comes

    def _serve(self, ticket: _Ticket) -> None:
        start = time.perf_counter()
        reply = ticket.answer()
        with self._lock:  # before the client has it, who may ask again at once
            self._inside -= 1
            self._mean_s += (time.perf_counter() - start - self._mean_s) / 8
        ticket.deliver(reply)


class Handler:
    """What answers one path and method. ``lane`` is where, None for on the event loop."""

    __slots__ = ("_deadline_ms", "_meter", "_post", "lane")

    def __init__(
        self, post: Post, *, lane: Lane | None = None, meter: Meter | None = None, deadline_ms: float | None = None
    ) -> None:
        self._post = post
        self.lane = lane
        self._meter = meter
        self._deadline_ms = deadline_ms

    def is_now(self, headers: Headers, is_alone: bool) -> bool:
        """Whether to answer on the event loop, with :meth:`now`. ``is_alone``: as ``Company`` says of the client."""
        if self.lane is None:
            return True
        # Who gives a deadline wants to be told when it has passed, which a loop that waits cannot.
        return is_alone and self.lane.may_be_passed and self._deadline_ms is None and DEADLINE_HEADER not in headers

    def now(self, body: Body, headers: Headers) -> Reply:
        """The answer, given here."""
        start = time.perf_counter()
        if self._deadline_ms is None and DEADLINE_HEADER not in headers:
            return self._counted(self._post(body, headers), start)
        try:
            limit_s = self._limit_s(headers)
        except InputError as fault:
            return self._counted(fault_reply(fault), start)
        reply = self._post(body, headers)
        if limit_s is not None and time.perf_counter() - start > limit_s:
            reply = _too_late()
        return self._counted(reply, start)

    def later(self, body: bytes, headers: Headers, loop: asyncio.AbstractEventLoop, done: Done) -> None:
        """Have it answered by the lane; ``done`` is called in ``loop``, at once where the request is refused."""
        assert self.lane is not None
        start = time.perf_counter()
        try:
            limit_s = self._limit_s(headers)
        except InputError as fault:
            done(self._counted(fault_reply(fault), start))
            return
        ticket = _Ticket(self._post, body, headers, loop, lambda reply: done(self._counted(reply, start)))
        if not self.lane.enter(ticket):
            wait = (("retry-after", str(self.lane.retry_after_s())),)
            ticket.finish(error_reply(503, f"{self.lane.limit} requests wait already; try again later", wait))
        elif limit_s is not None:
            ticket.timer = loop.call_later(limit_s, ticket.finish, _too_late())

    def _limit_s(self, headers: Headers) -> float | None:
        asked = headers.get(DEADLINE_HEADER)
        if asked is None:
            return None if self._deadline_ms is None else self._deadline_ms / 1000
        try:
            limit_ms = float(asked)
        except ValueError:
            limit_ms = math.nan
        if not 0 < limit_ms <= _MAX_DEADLINE_MS:
            raise InputError(f"{DEADLINE_HEADER} must be milliseconds, from above 0 to {_MAX_DEADLINE_MS}")
        return min(limit_ms, self._deadline_ms or limit_ms) / 1000

    def _counted(self, reply: Reply, start: float) -> Reply:
        if self._meter is not None:
            self._meter.count(reply.status, time.perf_counter() - start)
        return reply


class _Ticket:
    """One request in a lane. All but ``answer`` and ``deliver`` happens in the event loop."""

    def __init__(self, post: Post, body: bytes, headers: Headers, loop: asyncio.AbstractEventLoop, done: Done) -> None:
        self._post = post
        self._body = body
        self._headers = headers
        self._loop = loop
        self._done: Done | None = done
        self.timer: asyncio.TimerHandle | None = None

    def answer(self) -> Reply | None:
        """None where it is too late already."""
        return self._post(self._body, self._headers) if self._done is not None else None

    def deliver(self, reply: Reply | None) -> None:
        """Have the event loop give it."""
        if reply is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.finish, reply)

    def finish(self, reply: Reply) -> None:
        """Give ``reply``, unless there was one."""
        done, self._done = self._done, None
        if self.timer is not None:
            self.timer.cancel()
        if done is not None:
            done(reply)


def _too_late() -> Reply:
    return error_reply(504, "the answer was not ready within the time that was given for it")
