"""Before the machine sleeps or ends, attached sessions are saved: a real daemon, a real bus, a logind of the test's."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
from support.daemon import Daemon, new_daemon
from support.logind import FakeLogind, logind
from support.waiting import until
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.client.provider import SessionTable
from torpor.daemon import before_sleep
from torpor.daemon.attached import About, Attachments
from torpor.daemon.before_sleep import BeforeSleep, save_attached
from torpor.daemon.logind import connected
from torpor.db.index import Index
from torpor.state.errors import Unavailable


@pytest.fixture(scope="module")
def machine() -> Iterator[FakeLogind]:
    with logind() as found:
        yield found


@pytest.fixture(scope="module")
def daemon(machine: FakeLogind) -> Iterator[Daemon]:
    with new_daemon(settings=machine.environment) as running:
        until(lambda: machine.held() == 1, running.output)
        yield running


def log_of(daemon: Daemon) -> str:
    return (daemon.home / "logs" / "daemon.log").read_text()


def test_attached_sessions_are_saved_before_the_machine_goes_on(machine: FakeLogind, daemon: Daemon) -> None:
    assert machine.asked[-1] == ["sleep:shutdown", "Torpor", "Attached sessions are saved", "delay"]
    table = SessionTable(PlainTarget)
    for number in range(3):
        table[f"s{number}"] = PlainSession({"metadata": {"turn": number}})
    with daemon.keeper() as keeper, keeper.attach(table) as attachment:
        assert attachment.wait_connected(60)
        for member, word in (("PrepareForSleep", "sleep"), ("PrepareForShutdown", "shutdown")):
            before = {backup.id for backup in keeper.api.backups()}
            table["s0"] = PlainSession({"metadata": {"turn": member}})
            machine.say(member, True)
            until(lambda: machine.held() == 0, lambda: log_of(daemon))
            saved = [backup for backup in keeper.api.backups() if backup.id not in before]
            assert {backup.session_id for backup in saved} == {"s0", "s1", "s2"}
            assert len(saved) == 6, "each small first, then whole"
            event = keeper.api.events(limit=1)["events"][0]
            assert (event["kind"], event["detail"]) == ("saved-before-sleep", f"before the {word}: 3 saved whole")
            machine.say(member, False)
            until(lambda: machine.held() == 1, lambda: log_of(daemon))


def test_without_attached_sessions_the_machine_does_not_wait(machine: FakeLogind, daemon: Daemon) -> None:
    events = len(daemon.request("GET", "/v1/events").json()["events"])
    machine.say("PrepareForSleep", True)
    until(lambda: machine.held() == 0, lambda: log_of(daemon))
    machine.say("PrepareForSleep", False)
    until(lambda: machine.held() == 1, lambda: log_of(daemon))
    assert len(daemon.request("GET", "/v1/events").json()["events"]) == events


def test_a_logind_that_starts_anew_is_asked_again_and_a_stopped_daemon_lets_go(
    machine: FakeLogind, daemon: Daemon
) -> None:
    machine.go()
    machine.come()
    until(lambda: machine.held() == 1, lambda: log_of(daemon))
    assert daemon.stop() == 0
    assert machine.held() == 0


def test_awake_again_the_bucket_is_looked_for_and_a_lost_bus_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    awake = Event()

    async def test() -> None:
        before = BeforeSleep(Attachments(), index, awake.set, machine.environment)
        before.start()
        await asyncio.to_thread(until, lambda: machine.held() == 1)
        await asyncio.to_thread(machine.say, "PrepareForSleep", False)
        assert await asyncio.to_thread(awake.wait, 60)
        await asyncio.to_thread(machine.lose_bus)
        await asyncio.to_thread(until, lambda: machine.held() == 1)
        await before.stop()

    monkeypatch.setattr(before_sleep, "FIRST_AGAIN_S", 0.01)
    caplog.set_level("INFO", logger="torpor.sleep")
    index = Index(tmp_path / "index.sqlite")
    with logind() as machine:
        asyncio.run(test())
        until(lambda: machine.held() == 0)  # the bus may have the answer with the lock still
    index.close()
    assert any("until logind is back" in record.message for record in caplog.records)


def test_a_lock_that_nobody_waits_for_any_more_is_let_go() -> None:
    """It comes with an answer, and whoever asked is stopped before it is looked at."""

    async def test() -> None:
        async with connected(machine.environment) as found:
            asking = asyncio.ensure_future(found.take())
            found._bus.add_message_handler(lambda message: asking.cancel() and None if message.unix_fds else None)
            with pytest.raises(asyncio.CancelledError):
                await asking

    with logind() as machine:
        asyncio.run(test())
        assert len(machine.asked) == 2
        until(lambda: machine.held() == 0, "a lock is still held", 20)


def test_what_does_not_answer_is_not_waited_for() -> None:
    async def test() -> str:
        attached = Attachments()
        attached.announce("a", About("p", 1, None, ("s",)))
        return await save_attached(attached, 0.05)

    assert asyncio.run(test()) == "the inference process has not answered in time"


@pytest.mark.parametrize("address", ["unix:path=/nowhere/bus", "neither:path"])
def test_a_bus_that_is_not_there_is_said(address: str) -> None:
    async def test() -> None:
        async with connected({"DBUS_SYSTEM_BUS_ADDRESS": address}):
            pass

    with pytest.raises(Unavailable, match="the system bus does not answer"):
        asyncio.run(test())


def test_a_daemon_without_a_bus_says_so_once() -> None:
    with new_daemon(settings={"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path=/nowhere/{os.getpid()}"}) as running:
        assert until(lambda: log_of(running).count("nothing is saved before the machine sleeps")) == 1


def test_a_process_that_answers_nonsense_ends_no_watch_and_no_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def nonsense(*_: object) -> str:
        raise KeyError("session_id")

    async def test() -> None:
        before = BeforeSleep(Attachments(), index, lambda: None, machine.environment)
        before.start()
        await asyncio.to_thread(until, lambda: machine.held() == 1)
        for _ in range(2):
            await asyncio.to_thread(machine.say, "PrepareForSleep", True)
            await asyncio.to_thread(until, lambda: machine.held() == 0, "let go", 20)
            await asyncio.to_thread(machine.say, "PrepareForSleep", False)
            await asyncio.to_thread(until, lambda: machine.held() == 1, "taken again", 20)
        await before.stop()

    monkeypatch.setattr(before_sleep, "save_attached", nonsense)
    index = Index(tmp_path / "index.sqlite")
    with logind() as machine:
        asyncio.run(test())
    index.close()
    assert "nothing was saved before the sleep" in caplog.text
