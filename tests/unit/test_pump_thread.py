"""The pump with its own thread, and a real clock."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from support.pumping import Bench
from torpor.state.errors import (
    Offline,
    RemoteDenied,
    RemoteFailed,
    StoreFailed,
    StoreFull,
)
from torpor.state.outbox import Item
from torpor.sync.ports import Interrupted, Pushed, Turn


def test_a_commit_wakes_the_thread_and_a_stop_ends_a_transfer(bench: Bench) -> None:
    sending, told = threading.Event(), threading.Event()

    def endless(items: Sequence[Item], turn: Turn) -> Pushed:
        sending.set()
        while True:
            try:
                turn.sent(1)
            except Interrupted:
                told.set()
                raise

    bench.remote.script.append(endless)
    bench.pump.start()
    bench.add(1)
    bench.pump.notify()
    assert sending.wait(10)
    assert bench.pump.state == "busy"
    assert bench.pump.stop()
    assert told.is_set()
    assert [entry.item.attempts for entry in bench.rest()] == [0]


def test_an_index_that_fails_does_not_end_the_thread(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()

    def broken(*_: object) -> list[Item]:
        failed.set()
        raise StoreFailed("the disk is away")

    monkeypatch.setattr("torpor.sync.worker._LOCAL_RETRY_S", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(bench.outbox, "lease", broken)
        bench.add(1)
        bench.pump.start()
        assert failed.wait(10)
    done = threading.Event()
    bench.remote.script.append(lambda items, turn: done.set())
    assert done.wait(10)
    assert bench.pump.stop()


def test_backups_that_are_refused_one_after_the_other_are_a_state(bench: Bench) -> None:
    """A storage that is full, or keys that only read: the bucket answers, and nothing goes. No attempt is burnt."""
    for number in range(1, 6):
        bench.add(number, f"s{number}")
    full = [RemoteFailed("507 insufficient storage")] * 200
    bench.remote.raises(*full)
    bench.settle()
    assert (bench.pump.state, bench.told.states) == ("failing", ["failing"])
    for _ in range(100):
        bench.times.pass_s(bench.settle() or 60)
    assert sum(entry.item.attempts for entry in bench.rest()) == 1  # the first one: it may have been its own
    assert (bench.told.lost, bench.told.states) == ([], ["failing"])
    assert len({entry.next_at for entry in bench.rest()}) > 1  # each has its turn
    bench.remote.script.clear()
    for _ in range(5):
        bench.times.pass_s(bench.settle() or 60)
    assert (bench.pump.state, list(bench.rest()), len(bench.remote.pushed)) == ("idle", [], 5)
    assert bench.pump.looked
    bench.pump.look_again()
    assert (bench.pump.state, bench.pump.looked) == ("idle", False), "what the bucket has is to be learnt anew"


def test_two_poison_items_do_not_hold_up_a_third(bench: Bench) -> None:
    def poison(items: Sequence[Item], turn: Turn) -> None:
        if items[0].session_id != "good":
            raise RemoteDenied("403 on this one")

    bench.remote.script += [poison] * 50
    bench.add(8, "bad-1")
    bench.add(9, "bad-2")
    bench.settle()
    assert bench.pump.state == "denied"
    bench.add(1, "good")  # the oldest, so it is the last in the queue
    bench.pump.notify()
    for _ in range(4):
        bench.times.pass_s(min(bench.settle() or 30, 30))
    assert bench.remote.pushed == [("1", ("text",))]


def test_a_full_disk_is_nobodys_failure(bench: Bench) -> None:
    bench.add(1)
    bench.remote.raises(*[StoreFull("no room for the spool")] * 30)
    for _ in range(30):
        bench.times.pass_s(bench.settle() or 0)
    assert (bench.pump.state, [entry.item.attempts for entry in bench.rest()]) == ("disk-full", [0])
    bench.times.pass_s(300)
    assert bench.settle() is None
    assert bench.pump.state == "idle"


def test_what_was_given_up_for_no_reason_of_its_own_comes_back(bench: Bench) -> None:
    for number, kind in enumerate(["auth", "failed", "permanent"], 1):
        bench.add(number)
        [item] = bench.outbox.lease(bench.times.wall, "me", bench.times.wall + 60)
        bench.outbox.fail(item.id, kind, kind, None)  # type: ignore[arg-type]
    assert bench.outbox.revive(bench.times.wall) == 2
    assert [entry.error_class for entry in bench.rest("dead")] == ["permanent"]


def test_why_it_cannot_be_used_is_told_while_it_is_fresh(bench: Bench) -> None:
    bench.remote.fails = Offline("unreachable")
    assert bench.pump.trouble_now(15) is None
    bench.settle()
    told = bench.pump.trouble_now(15)
    assert isinstance(told, Offline)
    assert told.detail == "unreachable"
    bench.times.pass_s(16)
    assert bench.pump.trouble_now(15) is None  # it may be well again: it is looked at
    bench.remote.fails = None
    bench.settle()
    assert bench.pump.state == "idle"
