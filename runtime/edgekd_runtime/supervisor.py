"""Several server processes behind the same sockets: one event loop keeps no more than one core busy.

The supervisor listens and hands each client to the process that has the fewest: clients keep their connections, and
sixteen of them spread by chance (``SO_REUSEPORT``, or whoever accepts first) leave a core idle while another is late.
It answers nothing itself, starts a process that has died anew, and passes on what concerns all: a model that is loaded
or unloaded through one of them, SIGHUP, the end.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import selectors
import signal
import socket
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from edgekd_runtime import logs, notify
from edgekd_runtime.accepting import ACCEPT_PAUSE_S, clients
from edgekd_runtime.channel import Channel, Message
from edgekd_runtime.errors import ServeError
from edgekd_runtime.listening import SocketFile
from edgekd_runtime.rates import client_key
from edgekd_runtime.tallies import Tallies

_SOON_S, _LONGEST_REST_S = 5.0, 30.0
"""A process that lived for less than the first is started anew after a rest, which doubles up to the second."""
_DRAIN_S = 15.0
_HUNG_S = 10.0  # without a word; it has one to say every second
_LOOK_S = 0.1
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(frozen=True)
class Place:
    """What a server process is given. ``is_first``: nobody served before it. ``unloaded``: models to leave out.

    ``named``: path → model of the bundles that were named one by one, once a process has said.
    """

    number: int
    channel: Channel
    tallies: Tallies
    is_first: bool
    unloaded: frozenset[str]
    named: Mapping[str, str]


@dataclass
class _Member:
    """A server process. It has ``given - closed`` clients. ``missed``: what the others did before it was ready."""

    number: int
    pid: int
    channel: Channel
    started: float
    is_ready: bool = False
    given: int = 0
    closed: int = 0
    missed: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class _Relay:
    """Something that all of ``waiting`` are to do, one after the other. ``done`` is called with their faults.

    ``ask``: what the first of them, which has asked for it, calls it; where that one fails, nobody else does it.
    """

    verb: str
    name: str
    waiting: deque[_Member]
    done: Callable[[list[str]], None] = lambda faults: None
    ask: int = 0
    faults: list[str] = field(default_factory=list)


class Supervisor:
    """``count`` processes behind ``listeners``, whose clients each of them can serve.

    ``by_address``: a client's address decides which process serves it, so that limits to an address hold.
    """

    def __init__(self, count: int, listeners: Sequence[socket.socket], *, by_address: bool = False) -> None:
        self._count = count
        self._listeners = tuple(listeners)
        self._by_address = by_address
        self._tallies = Tallies(count)
        self._members: dict[int, _Member] = {}
        self._rests: dict[int, tuple[float, float]] = {}  # number → how long, until when
        self._relays: deque[_Relay] = deque()
        self._unloaded: set[str] = set()
        self._named: dict[str, str] = {}
        self._selector = selectors.DefaultSelector()
        self._is_up = self._is_ending = self._accepts = False
        self._accepts_from = 0.0
        self._end = self._served = 0.0
        self._exit_code = 0
        self._watchdog = notify.Watchdog()

    def run(self, remove: Iterable[SocketFile] = ()) -> Place:
        """Returns in each server process, with its place; in the supervisor it ends in ``SystemExit``.

        ``remove``: socket files, gone at the end. Raises ``ServeError`` where not even a first process can be started.
        """
        self._wakeup = self._hear_signals()
        gc.collect()
        gc.freeze()  # or collections in the children would copy all pages that they share
        while self._members or not self._is_ending:
            if not self._is_ending and (place := self._grow()) is not None:
                return place
            for key, _ in self._selector.select(self._pause_s()):
                key.data()
            self._look()
        for file in remove:
            file.remove()
        if self._is_up:
            logs.event(logging.INFO, "stopped")
        sys.exit(self._exit_code)

    def _hear_signals(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        for sock in (ours, theirs):
            sock.setblocking(False)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        self._signalling = theirs
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._signalled(ours))
        return ours

    def _signalled(self, wakeup: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in set(wakeup.recv(4096)):
                if number == signal.SIGCHLD:
                    self._reap()
                elif number == signal.SIGHUP:
                    self._reload()
                else:
                    self._stop()

    def _grow(self) -> Place | None:
        """Start what is missing: the first one alone, so that what is wrong with a bundle is said once."""
        numbers = range(self._count) if self._is_up or any(one.is_ready for one in self._members.values()) else (0,)
        for number in numbers:
            if number in self._members or time.monotonic() < self._rests.get(number, (0.0, 0.0))[1]:
                continue
            try:
                ours, theirs = Channel.pair()
                pid = os.fork()
            except OSError as error:  # no memory, descriptors or processes left
                if not self._is_up:
                    raise ServeError(f"no server process can be started: {error.strerror or error}") from error
                self._rests[number] = _LONGEST_REST_S, time.monotonic() + _LONGEST_REST_S
                logs.event(logging.ERROR, "no server process can be started", reason=error.strerror)
                continue
            if not pid:
                ours.close()
                self._forget()
                is_first = not self._is_up and number == 0
                return Place(number, theirs, self._tallies, is_first, frozenset(self._unloaded), self._named)
            theirs.close()
            member = self._members[number] = _Member(number, pid, ours, time.monotonic())
            self._selector.register(ours, selectors.EVENT_READ, partial(self._heard, member))
        return None

    def _forget(self) -> None:
        """In a new process: what is the supervisor's alone."""
        signal.set_wakeup_fd(-1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the supervisor's to hear
        self._selector.close()
        for sock in (self._wakeup, self._signalling, *self._listeners):
            sock.close()
        for member in self._members.values():
            member.channel.close()
        notify.forget(os.environ)

    def _pause_s(self) -> float | None:
        """Until something is due that no socket tells of."""
        now = time.monotonic()
        due = [until for number, (_, until) in self._rests.items() if number not in self._members]
        due += [self._accepts_from] if self._accepts_from > now else []
        due += [self._end] if self._is_ending else []
        if self._is_up and self._watchdog.due < float("inf"):
            due.append(max(self._watchdog.due, now + _LOOK_S))  # overdue while a process hangs
        return max(0.0, min(due) - now) if due else None

    def _look(self) -> None:
        """What is due, whatever has happened."""
        now = time.monotonic()
        if self._is_ending and now > self._end:
            for member in self._members.values():
                os.kill(member.pid, signal.SIGKILL)
            self._end = now + _DRAIN_S
        self._listen(self._is_up and not self._is_ending and now >= self._accepts_from and any(self._ready()))
        if self._is_up and now >= self._watchdog.due and self._serves(now):
            self._watchdog.tick()

    def _serves(self, now: float) -> bool:
        """Whether there is a process, or was just now, and none hangs."""
        ready = self._ready()
        if ready:
            self._served = now
        return now - self._served <= _HUNG_S and all(self._tallies.age_s(one.number) <= _HUNG_S for one in ready)

    def _ready(self) -> list[_Member]:
        return [one for one in self._members.values() if one.is_ready]

    def _listen(self, wanted: bool) -> None:
        if wanted == self._accepts:
            return
        self._accepts = wanted
        for place, listener in enumerate(self._listeners):
            if wanted:
                listener.setblocking(False)
                self._selector.register(listener, selectors.EVENT_READ, partial(self._accept, place, listener))
            else:
                self._selector.unregister(listener)

    def _accept(self, place: int, listener: socket.socket) -> None:
        def rest() -> None:
            self._accepts_from = time.monotonic() + ACCEPT_PAUSE_S

        for client, address in clients(listener, rest):
            with client:
                self._hand_over(place, client, address)

    def _hand_over(self, place: int, client: socket.socket, address: Any) -> None:
        """To a process that takes it; a client that none takes is hung up on."""
        for member in self._preferred(client, address):
            if member.channel.send({"client": place}, client):
                member.given += 1
                return

    def _preferred(self, client: socket.socket, address: Any) -> list[_Member]:
        ready = sorted(self._ready(), key=lambda one: (one.given - one.closed, one.given))
        if self._by_address and client.family != socket.AF_UNIX and ready:
            chosen = zlib.crc32(client_key(str(address[0])).encode()) % self._count
            ready.sort(key=lambda one: one.number != chosen)
        return ready

    def _heard(self, member: _Member) -> None:
        if self._members.get(member.number) is not member:  # buried since the selector spoke of it
            return
        try:
            heard = member.channel.receive()
        except BlockingIOError:
            return
        if heard is None:
            self._selector.unregister(member.channel)  # it has ended, or is about to
            member.is_ready = False
        else:
            self._take(member, heard[0])

    def _take(self, member: _Member, said: Message) -> None:
        if "ready" in said:
            member.is_ready = True
            self._named = self._named or said["named"]
            for verb, name in member.missed:
                self._pass_on(_Relay(verb, name, deque([member])))
            if not self._is_up and len(self._ready()) == self._count:
                self._is_up = True
                notify.notify("READY=1")
                self._ready()[0].channel.send({"announce": True})
        elif "closed" in said:
            member.closed = said["closed"]
        elif "done" in said:
            self._relayed(member, said["fault"])
        elif "ask" in said:
            others = [one for one in self._ready() if one is not member]
            answer = partial(self._answer, member, said["ask"])
            self._pass_on(_Relay(said["verb"], said["name"], deque([member, *others]), answer, said["ask"]))

    def _answer(self, member: _Member, ask: int, faults: list[str]) -> None:
        member.channel.send({"answer": ask, "faults": faults})

    def _note(self, verb: str, name: str) -> None:
        """For processes that are being started, or will be: what is not to be served."""
        (self._unloaded.add if verb == "unload" else self._unloaded.discard)(name)
        for member in self._members.values():
            if not member.is_ready:
                member.missed.append((verb, name))

    def _reload(self) -> None:
        if not self._is_up or self._is_ending:
            return
        notify.reloading()
        self._unloaded.clear()
        self._pass_on(_Relay("reload", "", deque(self._ready()), lambda faults: notify.notify("READY=1")))

    def _pass_on(self, relay: _Relay) -> None:
        self._relays.append(relay)
        if len(self._relays) == 1:
            self._next()

    def _next(self) -> None:
        """Ask the next process; where all have answered, go on with the next relay."""
        while self._relays:
            relay = self._relays[0]
            while relay.waiting:
                member = relay.waiting[0]
                if member.is_ready and member.channel.send({"do": relay.verb, "name": relay.name, "ask": relay.ask}):
                    return
                self._lost(relay)
            self._relays.popleft()
            relay.done(relay.faults)

    def _relayed(self, member: _Member, fault: str) -> None:
        relay = self._relays[0] if self._relays else None
        if relay is None or not relay.waiting or relay.waiting[0] is not member:
            return
        relay.waiting.popleft()
        if fault:
            relay.faults.append(fault)
        if relay.ask:
            relay.ask = 0
            if fault:
                relay.waiting.clear()
            else:
                self._note(relay.verb, relay.name)
        self._next()

    def _lost(self, relay: _Relay) -> None:
        """Whose turn it was is dead: its successor reads the files as they are, and nobody waits for what it asked."""
        relay.waiting.popleft()
        if relay.ask:
            relay.waiting.clear()

    def _reap(self) -> None:
        for member in list(self._members.values()):
            pid, status = os.waitpid(member.pid, os.WNOHANG)
            if pid:
                self._buried(member, os.waitstatus_to_exitcode(status))

    def _buried(self, member: _Member, code: int) -> None:
        del self._members[member.number]
        with contextlib.suppress(KeyError):
            self._selector.unregister(member.channel)
        member.channel.close()
        member.is_ready = False
        if self._is_ending:
            return
        if not self._is_up:
            self._exit_code = code if code > 0 else 1  # it has said why
            self._stop()
            return
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        logs.event(logging.ERROR, "a server process died", process=member.number, how=how)
        self._rest(member)
        if self._relays and self._relays[0].waiting and self._relays[0].waiting[0] is member:
            self._lost(self._relays[0])
            self._next()

    def _rest(self, member: _Member) -> None:
        rest_s = self._rests.get(member.number, (0.0, 0.0))[0]
        soon = time.monotonic() - member.started < _SOON_S
        rest_s = min(_LONGEST_REST_S, 2 * rest_s or 1.0) if soon else 0.0
        self._rests[member.number] = rest_s, time.monotonic() + rest_s

    def _stop(self) -> None:
        """Let all answer what they have begun, and end."""
        if self._is_ending:
            return
        self._is_ending, self._end = True, time.monotonic() + _DRAIN_S
        if self._is_up:
            notify.notify("STOPPING=1")
            logs.event(logging.INFO, "stopping")
        if self._accepts:
            for place, listener in enumerate(self._listeners):
                self._accept(place, listener)  # who has connected already is answered
        self._listen(False)
        for listener in self._listeners:
            listener.close()
        for member in self._members.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(member.pid, signal.SIGTERM)
