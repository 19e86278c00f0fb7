"""The pump: what each failure is taken for, and that nothing is lost, burnt or held up by it. The clock is a fake."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.pumping import MIB, Bench
from torpor.state.errors import (
    BackupNotFound,
    BlobDamaged,
    BucketNotFound,
    ClockSkewed,
    KeyMissing,
    Offline,
    RemoteDenied,
    RemoteFailed,
    RemoteRefused,
    StoreFailed,
    Throttled,
    Timeout,
    TorporError,
    UnknownRepository,
)
from torpor.state.outbox import ATTEMPTS, Item
from torpor.sync.ports import Pushed, Turn


def test_everything_goes_and_then_it_waits_for_a_call(bench: Bench) -> None:
    bench.add(1, media=20 * MIB, kv_cache=90 * MIB)
    assert bench.settle() is None
    assert bench.remote.pushed == [("1", ("text",)), ("1", ("media",)), ("1", ("kv",))]
    assert (bench.pump.state, list(bench.rest()), bench.remote.connected) == ("idle", [], 1)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (Offline("no route"), "offline"),
        (ClockSkewed("15 min"), "clock-skew"),
        (RemoteDenied("403"), "denied"),
        (RemoteFailed("500"), "failing"),
        (Timeout("60 s"), "failing"),
        (BucketNotFound("no bucket"), "unusable"),
        (RemoteRefused("wrong region"), "unusable"),
        (KeyMissing("no key"), "key-missing"),
        (UnknownRepository("foreign"), "unusable"),
    ],
)
def test_what_concerns_the_whole_remote_side_burns_no_attempt(bench: Bench, error: TorporError, state: str) -> None:
    bench.add(1)
    bench.settle()
    bench.add(2, "t", media=20 * MIB)
    bench.remote.fails = error
    for _ in range(50):
        wait = bench.settle()
        assert wait is not None
        bench.times.pass_s(wait)
    assert bench.pump.state == state
    told = bench.pump.describe()
    assert (told["reason"], told["hint"], told["code"]) == (error.detail, error.hint, error.code)
    assert [entry.item.attempts for entry in bench.rest()] == [0, 0]
    assert (bench.told.states, bench.told.lost) == ([state], [])
    assert told["since"] < bench.times.wall - 60
    bench.remote.fails = None
    bench.times.pass_s(1000)
    assert bench.settle() is None
    assert (bench.pump.state, list(bench.rest()), bench.told.states) == ("idle", [], [state, "well"])


def test_an_answer_to_one_object_alone_is_the_items(bench: Bench) -> None:
    """The bucket answers when it is asked for something else: this item waits, the others go."""
    bench.add(1)
    bench.add(2, "t")
    bench.remote.raises(RemoteDenied("403 on one"), RemoteFailed("500 on the other"))
    assert bench.settle() == pytest.approx(4.0)  # full jitter at its most
    assert bench.pump.state == "idle"
    assert [entry.item.attempts for entry in bench.rest()] == [1, 1]
    bench.times.pass_s(4)
    assert bench.settle() is None
    assert len(bench.remote.pushed) == 2


def test_a_poison_item_ends_as_a_dead_letter_and_holds_up_nobody(bench: Bench) -> None:
    bench.add(1)
    bench.remote.raises(*[RemoteFailed(f"500 for the {n}th time") for n in range(12)])
    waited = 0.0
    for round_ in range(2, 30):
        wait = bench.settle()
        if wait is None:
            break
        waited += wait
        bench.times.pass_s(wait)
        if round_ == 5:
            bench.remote.script.insert(0, lambda items, turn: Pushed(0, 0, ("text",)))
            bench.add(5, "other")
            assert bench.settle() is not None
            assert [entry.item.backup_id[-1] for entry in bench.rest()] == ["1"]
    [dead] = bench.rest("dead")
    assert (dead.item.attempts, dead.error) == (ATTEMPTS["failed"], "500 for the 11th time")
    assert bench.told.lost == [(dead.item.id, "remote-failed")]
    assert 2000 < waited < 6000
    assert bench.outbox.retry(bench.times.wall) == 1
    assert bench.settle() is None
    assert list(bench.rest("dead")) == []


def test_a_damaged_blob_keeps_back_its_stage_alone(bench: Bench) -> None:
    bench.add(1, media=5, kv_cache=5)

    def media_fails(items: Sequence[Item], turn: Turn) -> Pushed:
        failed = {item.id: BlobDamaged("a blob does not match") for item in items if item.stage == "media"}
        return Pushed(1, 0, ("text", "kv"), failed)

    bench.remote.script.append(media_fails)
    assert bench.settle() is None
    [dead] = bench.rest("dead")
    assert (dead.item.stage, dead.error_class) == ("media", "permanent")
    assert len(bench.told.done) == 2


def test_a_failure_of_several_stages_is_looked_for_one_by_one(bench: Bench) -> None:
    bench.add(1, media=5, kv_cache=5)
    bench.remote.raises(StoreFailed("cannot read"))
    bench.remote.script += [lambda items, turn: None]
    bench.remote.raises(StoreFailed("cannot read the picture"))
    bench.settle()
    assert bench.remote.pushed == [("1", ("text",)), ("1", ("kv",))]
    [entry] = bench.rest()
    assert (entry.item.stage, entry.item.attempts) == ("media", 1)


def test_a_defect_of_ours_is_a_failure_of_the_item(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.add(1)
    bench.add(2, "t")

    def defect(items: Sequence[Item], turn: Turn) -> Pushed:
        raise ZeroDivisionError("oh")

    bench.remote.script.append(defect)
    assert bench.settle() is None
    assert bench.remote.pushed == [("1", ("text",))]
    [dead] = bench.rest("dead")
    assert dead.error == "ZeroDivisionError: oh"
    assert "a defect while pushing" in caplog.text


def test_throttling_slows_everything_and_counts(bench: Bench) -> None:
    bench.add(1)
    bench.add(2, "t")
    slow = Throttled("SlowDown")
    slow.retry_after_s = 77.0
    bench.remote.raises(slow, Throttled("SlowDown"))
    assert bench.settle() == pytest.approx(77.0)
    assert bench.pump.state == "throttled"
    bench.times.pass_s(77)
    assert bench.settle() == pytest.approx(4.0)
    bench.times.pass_s(4)
    assert bench.settle() is None
    assert (bench.pump.state, len(bench.remote.pushed)) == ("idle", 2)


def test_an_object_that_is_throttled_for_ever_is_given_up(bench: Bench) -> None:
    bench.add(1)
    bench.remote.raises(*[Throttled("SlowDown")] * ATTEMPTS["throttled"])
    while bench.remote.script:
        bench.times.pass_s(bench.settle() or 0)
    assert [entry.error_class for entry in bench.rest("dead")] == ["throttled"]
    bench.times.pass_s(1000)
    bench.settle()
    assert bench.pump.state == "idle"


def test_offline_is_looked_at_cheaply_every_few_seconds(bench: Bench) -> None:
    bench.settle()
    bench.add(1)
    bench.remote.reachable, bench.remote.fails = False, Offline("unreachable")
    waits = []
    for _ in range(8):
        wait = bench.settle()
        assert wait is not None
        waits.append(wait)
        bench.times.pass_s(wait)
    assert waits[0] == pytest.approx(3.0)
    assert max(waits) == pytest.approx(10.0)
    assert bench.remote.looked == 7
    assert bench.remote.asked == 0
    bench.remote.reachable, bench.remote.fails = True, None
    assert bench.settle() is None
    assert bench.pump.state == "idle"


def test_a_change_of_the_network_is_looked_at_at_once_and_not_too_often(bench: Bench) -> None:
    bench.add(1)
    bench.remote.fails = Offline("unreachable")
    bench.settle()
    assert bench.pump.waits
    for _ in range(20):  # a burst of events
        bench.pump.retry_now()
        bench.settle()
    assert bench.remote.connected == 1
    bench.times.pass_s(0.5)
    bench.pump.retry_now()
    bench.settle()
    assert bench.remote.connected == 2
    bench.remote.fails = None
    bench.times.pass_s(0.5)
    bench.pump.retry_now()
    assert bench.settle() is None
    assert not bench.pump.waits


def test_nothing_is_looked_at_while_nothing_waits(bench: Bench) -> None:
    bench.remote.fails = Offline("unreachable")
    assert bench.settle() is None  # until the network changes, or something is saved
    bench.times.pass_s(3600)
    bench.add(1)
    bench.remote.fails = None
    assert bench.settle() is None
    assert len(bench.remote.pushed) == 1


def test_what_was_asked_for_is_looked_at_although_nothing_waits(bench: Bench) -> None:
    bench.remote.fails = KeyMissing("no key")
    assert bench.settle() is None
    bench.pump.reconnect()  # the key came a moment after the look
    bench.remote.fails = None
    wait = bench.settle()
    assert wait == pytest.approx(0.5)
    bench.times.pass_s(wait)
    assert bench.settle() is None
    assert (bench.remote.connected, bench.pump.state) == (2, "idle")


def test_a_pause_ends_by_itself(bench: Bench) -> None:
    bench.add(1)
    bench.pump.pause(600.0)
    assert bench.settle() == pytest.approx(600.0)
    assert (bench.pump.state, bench.remote.connected) == ("paused", 0)
    bench.times.wall -= 86_400  # somebody set the clock
    bench.times.steady += 600
    assert bench.settle() is None
    assert (bench.pump.state, len(bench.remote.pushed)) == ("idle", 1)
    bench.pump.pause(None)
    assert bench.settle() is None
    assert bench.pump.state == "paused"
    bench.pump.resume()
    assert bench.pump.state == "idle"


def test_a_pause_ends_a_transfer_without_an_attempt(bench: Bench) -> None:
    bench.add(1)

    def slow(items: Sequence[Item], turn: Turn) -> Pushed:
        turn.sent(100)
        assert bench.pump.state == "busy"
        bench.pump.pause(60.0)
        turn.sent(100)
        raise AssertionError

    bench.remote.script.append(slow)
    bench.settle()
    assert [entry.item.attempts for entry in bench.rest()] == [0]
    assert (bench.pump.state, bench.remote.broken_off) == ("paused", 1)


def test_what_a_break_off_looks_like_is_no_failure(bench: Bench) -> None:
    bench.add(1)

    def stuck(items: Sequence[Item], turn: Turn) -> Pushed:
        bench.pump.pause(60.0)  # its connections are broken, and that is what the push sees
        raise Offline("connection reset")

    bench.remote.script.append(stuck)
    bench.settle()
    assert ([entry.item.attempts for entry in bench.rest()], bench.told.states) == ([0], [])


def test_a_text_does_not_wait_behind_a_cache(bench: Bench) -> None:
    bench.add(1, kv_cache=900 * MIB)

    def long(items: Sequence[Item], turn: Turn) -> Pushed:
        turn.next_blob()
        bench.add(2, "t")
        bench.pump.notify()
        turn.sent(5)  # what is under way may end
        turn.next_blob()
        raise AssertionError

    bench.remote.script += [lambda items, turn: None, long]
    assert bench.settle() is None
    assert bench.remote.pushed == [("1", ("text",)), ("2", ("text",)), ("1", ("kv",))]


def test_a_cache_does_not_give_way_to_a_cache(bench: Bench) -> None:
    bench.add(1, kv_cache=900 * MIB)

    def long(items: Sequence[Item], turn: Turn) -> None:
        bench.add(2, "t", kv_cache=900 * MIB)
        with bench.index.writing() as connection:
            connection.exec_driver_sql("DELETE FROM outbox WHERE stage = 'text'")
        bench.pump.notify()
        turn.next_blob()

    bench.remote.script += [lambda items, turn: None, long]
    assert bench.settle() is None
    assert bench.remote.pushed == [("1", ("text",)), ("1", ("kv",)), ("2", ("kv",))]


def test_a_policy_keeps_a_stage_here_and_says_why(bench: Bench) -> None:
    bench.told.keep["kv"] = "sooner computed than fetched"
    bench.add(1, kv_cache=90 * MIB)
    assert bench.settle() is None
    [held] = bench.rest("held")
    assert (held.item.stage, held.error) == ("kv", "sooner computed than fetched")
    bench.told.keep.clear()
    assert bench.outbox.reconsider() == 1
    assert bench.settle() is None
    assert bench.remote.pushed[-1] == ("1", ("kv",))


def test_the_record_says_what_is_left_out(bench: Bench) -> None:
    bench.add(1, media=20 * MIB, kv_cache=90 * MIB)
    bench.settle()
    assert bench.remote.left_out == [
        {"media": "it was not sent yet", "kv": "it was not sent yet"},
        {"kv": "it was not sent yet"},
        {},
    ]


def test_a_session_that_is_to_stay_here_leaves_in_mid_push(bench: Bench) -> None:
    bench.add(1)

    def slow(items: Sequence[Item], turn: Turn) -> Pushed:
        bench.index.set_no_sync("s", True)
        bench.pump.drop("another")
        turn.sent(1)
        bench.pump.drop("s")
        turn.sent(1)
        raise AssertionError

    bench.remote.script.append(slow)
    assert bench.settle() is None
    assert (bench.remote.pushed, bench.outbox.summary()) == ([], [])


def test_an_item_that_left_the_queue_behind_its_lease_is_not_sent(bench: Bench) -> None:
    """As it happens when a session is marked in the moment between the lease and the push."""
    bench.add(1)
    bench.pump = bench.make_pump(
        checkpoint=lambda name: bench.index.set_no_sync("s", True) if name == "outbox.leased" else None
    )
    assert bench.settle() is None
    assert bench.remote.pushed == []


def test_a_backup_that_was_removed_meanwhile_is_done(bench: Bench) -> None:
    bench.add(1)
    bench.remote.raises(BackupNotFound("gone"))
    assert bench.settle() is None
    assert (bench.outbox.summary(), bench.told.lost) == ([], [])


def test_a_pump_that_died_leaves_nothing_leased(bench: Bench) -> None:
    bench.add(1)
    bench.outbox.lease(bench.times.wall, "another boot", bench.times.wall + 600)
    assert bench.settle() is None
    assert len(bench.remote.pushed) == 1


@pytest.mark.parametrize("point", ["outbox.leased", "outbox.finished"])
def test_a_kill_between_the_steps_loses_nothing(bench: Bench, point: str) -> None:
    class Killed(BaseException):
        pass

    def kill(name: str) -> None:
        if name == point:
            raise Killed

    bench.add(1)
    bench.pump = bench.make_pump(checkpoint=kill)
    with pytest.raises(Killed):
        bench.settle()
    bench.pump = bench.make_pump()
    assert bench.settle() is None
    assert bench.remote.pushed == [("1", ("text",))]


def test_a_new_key_opens_the_remote_side_anew(bench: Bench) -> None:
    bench.add(1)
    bench.remote.fails = KeyMissing("no key")
    bench.settle()
    bench.remote.fails = None
    bench.times.pass_s(1)
    bench.pump.reconnect()
    assert bench.settle() is None
    assert (bench.remote.connected, len(bench.remote.pushed)) == (2, 1)
