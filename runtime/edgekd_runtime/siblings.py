"""A server process's end of what it shares with its siblings: clients that it is given, and what concerns them all."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from typing import Any, Literal

from edgekd_runtime import logs
from edgekd_runtime.counts import Counts
from edgekd_runtime.errors import RuntimeFault, ServeError
from edgekd_runtime.repository import Repository, Verb
from edgekd_runtime.supervisor import Place

_WAIT_S, _DEAD_S = 300.0, 5.0
Taker = Callable[[socket.socket], None]


class Siblings:
    """Started by the event loop, whose thread it belongs to, but for ``change``."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._channel = place.channel
        self._takers: Sequence[Taker] = ()
        self._answers: dict[int, Future[list[str]]] = {}
        self._faults: dict[int, RuntimeFault] = {}  # of what this process asked all to do, and could not do itself
        self._asked = self._closed = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._repository: Repository | None = None
        self._announce: Callable[[], None] = lambda: None

    def start(self, takers: Sequence[Taker], repository: Repository | None, announce: Callable[[], None]) -> None:
        """Ready to serve. ``takers``: what each listener's clients are given to. ``announce``: say so, if asked."""
        self._takers, self._repository, self._announce = takers, repository, announce
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._channel.fileno(), self._readable)
        self._channel.send({"ready": True, "named": repository.named if repository is not None else {}})

    def write(self, counts: Counts) -> None:
        """What this process has counted; to be called once a second."""
        self.place.tallies.write(self.place.number, counts.to_json())

    def others(self) -> list[Counts]:
        """What the others had counted up to a second ago; of one that is dead, what it had counted in all."""
        tallies = self.place.tallies
        found = {number: Counts.from_json(one) for number, one in tallies.others(self.place.number).items()}
        return [one if tallies.age_s(number) < _DEAD_S else one.ended() for number, one in found.items()]

    def earlier(self) -> Counts | None:
        """What the process that had this place before had counted."""
        found = self.place.tallies.read(self.place.number)
        return Counts.from_json(found) if found else None

    def closed(self, count: int) -> None:
        """So many of the clients that this process was given have left."""
        if count != self._closed and self._channel.send({"closed": count}):
            self._closed = count

    def change(self, verb: Verb, name: str) -> None:
        """Have all processes ``load`` or ``unload`` a model, this one first, and wait; not in the event loop.

        The supervisor says when, so that all do the same in the same order. Raises as ``Repository.change`` does; then
        the others have not been asked. Raises ``ServeError`` with what they say where they cannot.
        """
        assert self._loop is not None
        answered: Future[list[str]] = Future()
        self._loop.call_soon_threadsafe(self._ask, verb, name, answered)
        try:
            faults = answered.result(_WAIT_S)
        except NoAnswer:
            faults = [f"no answer within {_WAIT_S:g} s"]
        if faults:
            raise ServeError(f"{verb} {name}: not done by every server process: {faults[0]}")

    def _ask(self, verb: str, name: str, answered: Future[list[str]]) -> None:
        self._asked += 1
        self._answers[self._asked] = answered
        if not self._channel.send({"ask": self._asked, "verb": verb, "name": name}):
            del self._answers[self._asked]
            answered.set_result(["the supervisor does not answer"])

    def _answered(self, ask: int, faults: list[str]) -> None:
        answered, own = self._answers.pop(ask), self._faults.pop(ask, None)
        if own is not None:
            answered.set_exception(own)
        else:
            answered.set_result(faults)

    def _readable(self) -> None:
        assert self._loop is not None
        while True:
            try:
                heard = self._channel.receive()
            except BlockingIOError:
                return
            if heard is None:  # nobody is left who would send clients
                self._loop.remove_reader(self._channel.fileno())
                logs.event(logging.ERROR, "the supervisor is gone")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            self._take(*heard)

    def _take(self, said: dict[str, Any], client: socket.socket | None) -> None:
        if client is not None:
            client.setblocking(False)
            self._takers[said["client"]](client)
        elif "do" in said:
            threading.Thread(target=self._do, args=(said["do"], said["name"], said["ask"]), daemon=True).start()
        elif "answer" in said:
            self._answered(said["answer"], said["faults"])
        elif "announce" in said:
            self._announce()

    def _do(self, verb: Verb | Literal["reload"], name: str, ask: int) -> None:
        """``ask``: which of this process's own, 0 for none."""
        assert self._repository is not None
        assert self._loop is not None
        fault = ""
        try:
            if verb == "reload":
                self._repository.reload()
            else:
                self._repository.change(verb, name)
        except RuntimeFault as error:
            fault = str(error)[:1000]
            if ask:
                self._faults[ask] = error
        except Exception:
            logs.failure("failed", what=f"{verb} {name}")
            fault = "it failed; the log says why"
        self._loop.call_soon_threadsafe(self._channel.send, {"done": True, "fault": fault})
