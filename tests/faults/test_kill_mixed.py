"""kill -9 at any moment of mixed work: of the daemon, of the SDK's processes, of all; again and again on one home.

Two processes save the same sessions at once, as groups, forks and alone, restore, pin and remove. After each kill every
acknowledged backup is listed, comes back bit for bit, and is pinned where that was acknowledged; none that was removed
is back; and whatever else is listed is whole.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from support.caches import CacheTarget
from support.daemon import Daemon
from support.workers import messages, start_mixed
from torpor.state.crash_points import DAEMON_POINTS, GROUP_POINTS, REMOVAL_POINTS, SDK_POINTS
from torpor.state.errors import BackupNotFound

ROUNDS = 1000 if os.environ.get("TORPOR_SOAK") else 10
KEPT = 40  # more are removed, so that a round costs the same at the end


class Ledger:
    """What was acknowledged, over all rounds."""

    def __init__(self) -> None:
        self.saved: set[str] = set()
        self.removed: set[str] = set()
        self.begun_to_go: set[str] = set()
        self.pinned: set[str] = set()
        self.checked: set[str] = set()
        self.counts: Counter[str] = Counter()

    def note(self, said: list[tuple[str, str]]) -> None:
        for kind, text in said:
            self.counts[kind] += 1
            match kind:
                case "saved":
                    self.saved.add(text)
                case "pinned":
                    self.pinned.add(text)
                case "removing":  # whether it is gone is not sure from here on
                    self.saved.discard(text)
                    self.pinned.discard(text)
                    self.begun_to_go.add(text)
                case "removed":
                    self.removed.add(text)

    def verify(self, daemon: Daemon) -> None:
        with daemon.keeper() as keeper:
            listed = {backup.id: backup for backup in keeper.api.backups(limit=10_000)}
            assert self.saved <= listed.keys(), f"lost: {self.saved - listed.keys()}"
            assert not self.removed & listed.keys(), f"back: {self.removed & listed.keys()}"
            assert all(listed[backup_id].pinned for backup_id in self.pinned)
            for backup_id in sorted(listed.keys() - self.checked):
                try:
                    woken = keeper.restore(backup_id, CacheTarget(), require="full").session
                except BackupNotFound:  # who asked for its removal is dead, but the daemon was still at it
                    assert backup_id in self.begun_to_go
                    continue
                assert woken.note["kv"] == woken.digest()
                assert woken.note["tokens"] == woken.tokens
                self.checked.add(backup_id)
                self.counts["restored whole"] += 1
            for backup_id in sorted(listed)[:-KEPT]:
                keeper.api.call("DELETE", f"/v1/backups/{backup_id}")
                self.note([("removing", backup_id), ("removed", backup_id)])


def crash_point(rng: random.Random, names: tuple[str, ...]) -> str:
    """A third of the processes die at a named point, if they come so far."""
    return f"{rng.choice(names)}:{rng.randrange(1, 12)}" if rng.random() < 0.33 else ""


def kill(workers: list[tuple[BaseProcess, Connection]], ledger: Ledger) -> None:
    for process, pipe in workers:
        process.kill()
        said = messages(pipe, process, 60)
        assert process.exitcode == -9, said
        ledger.note(said)


def test_killed_at_random_times(home: Path) -> None:
    rng, ledger = random.Random(4), Ledger()
    for number in range(ROUNDS):
        victim = rng.choice(["daemon", "sdk", "both"])
        points = DAEMON_POINTS + REMOVAL_POINTS + GROUP_POINTS
        with Daemon(home, crash_at=crash_point(rng, points) if victim != "sdk" else "") as daemon:
            workers = [start_mixed(home, crash_point(rng, SDK_POINTS), number * 2 + turn) for turn in range(2)]
            pipes = [pipe for _, pipe in workers]
            assert wait(pipes, 60)  # the first save has begun: the kill falls among the work
            time.sleep(rng.uniform(0, 0.3))
            ledger.counts[f"kills of {victim}"] += 1
            if victim != "sdk":
                assert daemon.kill() == -9
            if victim != "daemon":
                kill(workers, ledger)
            else:
                with Daemon(home):  # and the work goes on with another daemon
                    time.sleep(rng.uniform(0, 0.3))
                    kill(workers, ledger)
            if victim == "sdk":
                ledger.verify(daemon)
        if victim != "sdk":
            with Daemon(home) as daemon:
                ledger.verify(daemon)
    print(f"\nkill -9: {ROUNDS} rounds, {len(ledger.saved)} backups at the end, 0 lost; {dict(ledger.counts)}")
    assert ledger.counts["saved"] >= ROUNDS // 2  # a busy machine is killed before it has saved much
