"""What is done by the way: one by one, heavy ones on mains power, and never all at once behind a sleep."""

from __future__ import annotations

import threading
from collections.abc import Callable

from torpor.daemon.chores import LATE_S, REST_S, Chore, Chores
from torpor.state.errors import StoreFailed


class Day:
    """Chores that a test takes one by one, over a clock that it sets."""

    def __init__(self, *chores: tuple[str, float, bool], may: Callable[[], bool] = lambda: True) -> None:
        self.now = 0.0
        made = [Chore(name, every_s, lambda: None, heavy=heavy) for name, every_s, heavy in chores]
        self.chores = Chores(made, lambda: self.now, may=may)
        self.chores.plan()

    def at(self, now: float) -> list[str]:
        """Go on to a time; return what is done then, in order."""
        self.now, found = now, []
        while isinstance(taken := self.chores.take(), Chore):
            found.append(taken.name)
        assert taken > 0
        return found


def test_each_has_its_turn() -> None:
    day = Day(("a", 100.0, False), ("b", 250.0, False))
    assert day.at(99.0) == []
    assert day.at(100.0) == ["a"]
    assert day.at(200.0) == ["a"]
    assert day.at(250.0) == ["b"]


def test_behind_a_sleep_they_come_one_by_one() -> None:
    """Where the clock counts a sleep, all of them are late together when the machine wakes."""
    day = Day(("a", 100.0, False), ("b", 110.0, False), ("c", 120.0, False))
    woken = 10_000.0
    assert day.at(woken) == ["a"]
    assert day.at(woken + REST_S - 1) == []
    assert day.at(woken + REST_S) == ["b"]
    assert day.at(woken + 2 * REST_S) == ["a", "c"]  # whose next turn it is besides


def test_what_is_hardly_late_is_done_at_once() -> None:
    day = Day(("a", 100.0, False), ("b", 100.0, False))
    assert sorted(day.at(100.0 + LATE_S)) == ["a", "b"]


def test_heavy_ones_wait_for_the_mains_and_light_ones_do_not() -> None:
    plugged_in = [False]
    day = Day(("light", 100.0, False), ("heavy", 100.0, True), ("heavier", 150.0, True), may=lambda: plugged_in[0])
    assert day.at(120.0) == ["light"]
    assert day.at(230.0) == ["light"]
    assert day.chores.waiting() == ["heavy", "heavier"]
    day.chores.power_changed()  # still on battery
    assert day.chores.waiting() == ["heavy", "heavier"]
    plugged_in[0] = True
    day.chores.power_changed()
    assert day.chores.waiting() == []
    assert day.at(231.0) == []  # who carries a machine about plugs it in and out
    assert day.at(231.0 + REST_S) == ["heavy"]
    assert day.at(231.0 + 2 * REST_S) == ["light", "heavier"]


def test_one_that_fails_has_its_next_turn() -> None:
    tries = threading.Semaphore(0)
    ended: list[tuple[str, bool]] = []

    def fail() -> None:
        tries.release()
        raise StoreFailed("the disk is away")

    def told(name: str, took_s: float, well: bool) -> None:
        ended.append((name, well))

    chores = Chores([Chore("a", 0.01, fail)], ended=told)
    chores.start()
    assert tries.acquire(timeout=60)
    assert tries.acquire(timeout=60)
    chores.stop()
    assert set(ended) == {("a", False)}
