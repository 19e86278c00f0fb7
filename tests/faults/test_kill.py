"""kill -9 of the SDK and of the daemon, at every named crash point (at random times: test_kill_mixed.py).

After each kill: every acknowledged backup is listed and comes back bit for bit, and whatever else is listed is whole.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import httpx
import pytest
from support.caches import CacheSession, CacheTarget
from support.daemon import Daemon
from support.workers import messages, start_worker
from torpor.state.crash_points import CRASH_POINTS, DAEMON_POINTS, REMOVAL_POINTS, SDK_POINTS
from torpor.state.errors import InvalidSettings
from torpor.store.crash import from_environment

TIMES = (1, 4) if os.environ.get("TORPOR_SOAK") else (2,)


class Ledger:
    """What was acknowledged on one home, over all rounds."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.acknowledged: set[str] = set()
        self.checked: set[str] = set()

    def verify(self, daemon: Daemon) -> None:
        with daemon.keeper() as keeper:
            listed = {b.id for b in keeper.api.backups(limit=10_000)}
            assert self.acknowledged <= listed, f"lost: {self.acknowledged - listed}"
            for backup_id in sorted(listed - self.checked):
                woken = keeper.restore(backup_id, CacheTarget(), require="full").session
                assert woken.note["kv"] == woken.digest()
                assert woken.note["tokens"] == woken.tokens
                self.checked.add(backup_id)

    def note(self, said: list[tuple[str, str]]) -> None:
        self.acknowledged |= {text for kind, text in said if kind == "acknowledged"}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    return Ledger(tmp_path_factory.mktemp("kill") / "home")


def no_leftovers(home: Path, daemon: Daemon) -> None:
    """Half-written files of dead writers are gone once a daemon has started."""
    pid = daemon.listening["pid"]
    deadline = time.monotonic() + 60
    while True:
        left = [p for p in (home / "store" / "staging").iterdir() if not p.name.startswith(f"w{pid}-")]
        if not left:
            return
        assert time.monotonic() < deadline, left
        from torpor.store.staging import sweep

        sweep(home / "store" / "staging")  # folders younger than a second are left for the next sweep


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("point", SDK_POINTS)
def test_the_sdk_is_killed(ledger: Ledger, point: str, times: int) -> None:
    with Daemon(ledger.home) as daemon:
        process, pipe = start_worker(ledger.home, f"{point}:{times}", seed=hash_of(point, times), saves=6)
        said = messages(pipe, process, 60)
        assert process.exitcode == -9, said
        ledger.note(said)
        ledger.verify(daemon)
        daemon.stop()
    with Daemon(ledger.home) as daemon:
        no_leftovers(ledger.home, daemon)
        ledger.verify(daemon)


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("point", DAEMON_POINTS)
def test_the_daemon_is_killed(ledger: Ledger, point: str, times: int) -> None:
    """The SDK waits for the daemon to come back, and its save is committed all the same."""
    with Daemon(ledger.home, crash_at=f"{point}:{times}") as daemon:
        process, pipe = start_worker(ledger.home, "", seed=hash_of(point, times), saves=5)
        assert daemon.join(60) == -9
    with Daemon(ledger.home) as daemon:
        said = messages(pipe, process, 60)
        assert said[-1] == ("done", "")
        assert len([kind for kind, _ in said if kind == "acknowledged"]) == 5
        ledger.note(said)
        ledger.verify(daemon)


@pytest.mark.parametrize("point", ["manifest.replaced:5", "manifest.directory-synced:3", "index.inserted:3"])
def test_the_daemon_is_killed_among_commits_of_several(home: Path, point: str) -> None:
    """Commits that wait for each other are made together: what was acknowledged of them is there, and all end well."""
    ledger = Ledger(home)
    with Daemon(home, crash_at=point) as daemon:
        workers = [start_worker(home, "", seed=seed, saves=3) for seed in range(3)]
        assert daemon.join(60) == -9
    with Daemon(home) as daemon:
        for process, pipe in workers:
            said = messages(pipe, process, 60)
            assert said[-1] == ("done", "")
            ledger.note(said)
        assert len(ledger.acknowledged) == 9
        ledger.verify(daemon)


@pytest.mark.parametrize("point", REMOVAL_POINTS)
@pytest.mark.parametrize("others", [0, 2])
def test_the_daemon_is_killed_while_it_removes(home: Path, point: str, others: int) -> None:
    """The removed backup is gone, the others stay, and the daemon starts again: also when it was the last one."""
    with Daemon(home) as daemon, daemon.keeper() as keeper:
        session = CacheSession()
        ids = []
        for step in range(others + 1):
            session.grow(70, step)
            session.note = {"secret": f"TOPSECRET-{step}"}
            ids.append(keeper.save("s", session).wait(60).id)
        daemon.stop()
    with Daemon(home, crash_at=point) as daemon:
        with pytest.raises(httpx.TransportError):
            daemon.request("DELETE", f"/v1/backups/{ids[0]}")
        assert daemon.join(60) == -9
    with Daemon(home) as daemon, daemon.keeper() as keeper:
        assert sorted(b.id for b in keeper.api.backups()) == ids[1:]
        for backup_id in ids[1:]:
            keeper.restore(backup_id, CacheTarget(), require="full")
    assert list((home / "store" / "trash").iterdir()) == []


def hash_of(point: str, times: int) -> int:
    return CRASH_POINTS.index(point) * 10 + times


def test_every_crash_point_of_the_code_is_named() -> None:
    """A point that the code passes and the list lacks would never be tested, and the other way round."""
    import re

    root = Path(__file__).parents[2]
    passed = {
        name
        for folder in ("client", "store", "db", "daemon", "sync")
        for path in (root / folder).rglob("*.py")
        for name in re.findall(r'checkpoint\("([a-z.-]+)"\)', path.read_text())
    }
    assert passed == set(CRASH_POINTS)


@pytest.mark.parametrize("text", ["nowhere", "blob.written:x", "blob.written:"])
def test_an_unknown_crash_point_is_refused(text: str) -> None:
    if text.endswith(":"):
        from_environment({"TORPOR_CRASH_AT": text})
        return
    with pytest.raises(InvalidSettings):
        from_environment({"TORPOR_CRASH_AT": text})
