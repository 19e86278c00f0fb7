"""Many at once, and clocks that jump: 64 clients, two processes on one session, a process that is suspended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.caches import CacheSession, CacheTarget
from support.daemon import Daemon
from support.workers import messages, start_worker
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.state.errors import Timeout
from torpor.store.staging import sweep

CLIENTS = 64
SAVES = 20 if os.environ.get("TORPOR_SOAK") else 2


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("crowd") / "home") as daemon:
        yield daemon


def test_64_clients_at_once(busy: Daemon) -> None:
    """Each has a connection of its own; half of them save the same session."""

    def client(number: int) -> list[tuple[str, str]]:
        session_id, found = f"c{number % 2 * number}", []
        with busy.keeper() as keeper:
            for turn in range(SAVES):
                text = f"client {number}, turn {turn}: " + "shared " * 5000
                found.append((keeper.save(session_id, PlainSession({"text_context": text})).wait(60).id, text))
        return found

    with ThreadPoolExecutor(CLIENTS) as threads:
        saved = dict(pair for pairs in threads.map(client, range(CLIENTS)) for pair in pairs)
    assert len(saved) == CLIENTS * SAVES
    with busy.keeper() as keeper:
        assert {backup.id for backup in keeper.api.backups(limit=10_000)} >= saved.keys()
        for backup_id, text in saved.items():
            assert keeper.restore(backup_id, PlainTarget()).session.state["text_context"] == text


def test_two_processes_save_one_session_at_once(busy: Daemon) -> None:
    """Nothing of either is lost, and the newest is the one that was begun last."""
    workers = [start_worker(busy.home, "", seed, 5) for seed in (30, 33)]  # both make session-0
    said = [messages(pipe, process, 60) for process, pipe in workers]
    ids = [text for one in said for kind, text in one if kind == "acknowledged"]
    assert len(set(ids)) == 10
    with busy.keeper() as keeper:
        listed = [backup.id for backup in keeper.api.backups(session_id="session-0", limit=100)]
        assert set(listed) == set(ids)
        assert keeper.api.backup("session-0").id == listed[0] == max(ids)
        for backup_id in ids:
            woken = keeper.restore(backup_id, CacheTarget(), require="full").session
            assert woken.note["kv"] == woken.digest()


def test_a_suspended_daemon_is_waited_for(busy: Daemon) -> None:
    session = CacheSession()
    session.grow(100, 1)
    with busy.keeper() as keeper:
        os.kill(busy.listening["pid"], signal.SIGSTOP)
        try:
            handle = keeper.save("suspended", session)
            with pytest.raises(Timeout):
                handle.wait(0.3)
        finally:
            os.kill(busy.listening["pid"], signal.SIGCONT)
        assert handle.wait(30).id == keeper.api.backup("suspended").id
        assert keeper.restore("suspended", CacheTarget(), require="full").session.digest() == session.digest()


def test_a_suspended_process_loses_nothing(busy: Daemon) -> None:
    """Its staging folder is not taken for a dead one's, and it goes on where it was."""
    process, pipe = start_worker(busy.home, "", 31, 6)
    assert process.pid is not None
    assert [pipe.recv()[0] for _ in range(2)] == ["started", "acknowledged"]
    os.kill(process.pid, signal.SIGSTOP)
    try:
        staging = busy.home / "store" / "staging"
        [mine] = staging.glob(f"w{process.pid}-*")
        os.utime(mine, (time.time() - 1e6,) * 2)  # as old as if it had slept for days
        sweep(staging)
        assert mine.is_dir()
    finally:
        os.kill(process.pid, signal.SIGCONT)
    said = messages(pipe, process, 60)
    assert [kind for kind, _ in said].count("acknowledged") == 5, said


@pytest.mark.parametrize("woken", [False, True])
def test_the_newest_stays_the_newest_when_the_clock_is_set_back(busy: Daemon, woken: bool) -> None:
    """The second backup is made an hour before the first, by the clock; by the same keeper, or by one that woke it."""
    name, now = f"clock-{woken}", time.time()
    times = iter([now, now - 3600, now - 3599])
    with busy.keeper(clock=times.__next__) as keeper:
        session = PlainSession({"text_context": "first"})
        keeper.save(name, session).wait(60)
        if woken:
            with busy.keeper(clock=times.__next__) as other:
                session = other.restore(name, PlainTarget()).session
                session.state["text_context"] = "second"
                other.save(name, session).wait(60)
        else:
            session.state["text_context"] = "second"
            keeper.save(name, session).wait(60)
        assert keeper.restore(name, PlainTarget()).session.state["text_context"] == "second"
