"""An answer that is dear to make serves everybody, is made once at a time, and grows old."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from torpor.daemon.kept_answer import KeptAnswer
from torpor.state.errors import StoreFailed


class Work:
    """Makes an answer when it is let, and counts how often it was asked."""

    def __init__(self) -> None:
        self.let, self.count, self.now, self.fails = threading.Event(), 0, 0.0, False
        self.answer = KeptAnswer(self.make, lambda: self.now)

    def make(self) -> int:
        self.count += 1
        assert self.let.wait(20)
        if self.fails:
            raise StoreFailed("the disk is away")
        return self.count


def test_who_cannot_wait_gets_nothing_and_the_next_one_the_answer() -> None:
    work = Work()
    assert work.answer.get(0.0) is None
    assert work.answer.get(0.01) is None
    work.let.set()
    kept = work.answer.get(20)
    assert kept is not None
    assert (kept.value, work.count) == (1, 1)


def test_many_who_ask_at_once_have_it_made_once() -> None:
    work = Work()
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(work.answer.get, 20) for _ in range(8)]
        work.let.set()
        assert {each.result().value for each in asked} == {1}  # type: ignore[union-attr]
    assert work.count == 1


def test_an_old_answer_serves_while_a_new_one_is_made() -> None:
    work = Work()
    work.let.set()
    assert work.answer.get(20).age_s == 0.0  # type: ignore[union-attr]
    work.now += 0.5
    assert work.answer.get(0).age_s == 0.5  # type: ignore[union-attr]
    assert work.count == 1
    work.let.clear()
    work.now += 10
    kept = work.answer.get(0)
    assert kept is not None
    assert kept.value == 1
    work.let.set()
    while (kept := work.answer.get(0.01)) is not None and kept.value == 1:
        continue
    assert kept is not None
    assert kept.value == 2


def test_a_failure_is_told_until_it_is_tried_again() -> None:
    work = Work()
    work.fails = True
    work.let.set()
    for _ in range(2):
        with pytest.raises(StoreFailed):
            work.answer.get(20)
    assert work.count == 1
    work.fails, work.now = False, 10.0
    assert work.answer.get(20).value == 2  # type: ignore[union-attr]
