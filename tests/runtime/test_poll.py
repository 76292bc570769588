"""When an event loop stays awake, and when it sleeps again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edgekd_runtime.poll import BusyPoll

WINDOW_US = 200


class Machine:
    """A clock that only ``pass_us`` moves, and a loop that keeps what it is to call."""

    def __init__(self, cores: int = 2, window_us: int = WINDOW_US) -> None:
        self.now = 1000.0
        self.calls: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self.poll = BusyPoll(window_us, cores=cores, clock=lambda: self.now)

    def call_soon(self, callback: Callable[..., object], *args: object) -> None:
        self.calls.append((callback, args))

    def answer(self, *, after_us: float = 0) -> None:
        self.now += after_us / 1e6
        self.poll.asked()
        self.poll.answered(self)

    def turn(self, *, after_us: float = 0) -> None:
        self.now += after_us / 1e6
        calls, self.calls = self.calls, []
        for callback, args in calls:
            callback(*args)

    @property
    def awake(self) -> bool:
        assert len(self.calls) <= 1
        return bool(self.calls)


def test_a_first_request_does_not_start_it() -> None:
    machine = Machine()
    machine.answer()
    assert not machine.awake


def test_a_client_that_asks_at_once_keeps_it_awake_for_one_window() -> None:
    machine = Machine()
    machine.answer()
    machine.answer(after_us=50)
    assert machine.awake
    machine.turn(after_us=WINDOW_US * 0.9)
    assert machine.awake
    machine.turn(after_us=WINDOW_US * 0.2)
    assert not machine.awake


def test_every_answer_begins_the_window_anew() -> None:
    machine = Machine()
    machine.answer()
    for _ in range(5):
        machine.answer(after_us=WINDOW_US * 0.8)
        machine.turn()
        assert machine.awake


def test_a_client_that_takes_its_time_is_not_waited_for() -> None:
    machine = Machine()
    for _ in range(5):
        machine.answer(after_us=WINDOW_US * 2)
        assert not machine.awake


def rest_us(machine: Machine) -> float:
    """After a window in vain, how long a client asks every 50 µs until it is waited for again."""
    machine.turn(after_us=WINDOW_US * 1.1)
    since = machine.now
    while not machine.awake:
        machine.answer(after_us=50)
    return (machine.now - since) * 1e6


def test_after_a_window_in_vain_it_rests_and_longer_after_each() -> None:
    machine = Machine()
    machine.answer()
    machine.answer(after_us=50)
    assert [rest_us(machine) for _ in range(7)] == pytest.approx([500, 1000, 2000, 4000, 8000, 16000, 16000], abs=60)


def test_a_client_that_only_paused_is_waited_for_again_soon() -> None:
    machine = Machine()
    machine.answer()
    machine.answer(after_us=50)
    for _ in range(5):
        machine.answer(after_us=50)  # within the window
        assert rest_us(machine) == pytest.approx(500, abs=60)


@pytest.mark.parametrize("machine", [Machine(cores=1), Machine(window_us=0)], ids=["one core", "switched off"])
def test_where_there_is_to_be_none(machine: Machine) -> None:
    for _ in range(5):
        machine.answer(after_us=1)
        assert not machine.awake
