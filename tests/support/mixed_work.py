"""What an inference process does all day, until it is killed: saves, groups, forks, restores, pins, removals."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SESSIONS = 3  # which all processes share
CONNECT_S = 300.0  # longer than any round: a daemon may have died at a crash point before all were connected


class Mixed:
    """One process's work; what is begun and done is told through a pipe."""

    def __init__(self, keeper: Any, seed: int, tell: Callable[[tuple[str, str]], None]) -> None:
        from support.caches import CacheSession

        self.keeper, self.rng, self.tell = keeper, random.Random(seed), tell
        self.session = CacheSession(layers=2, heads=2, dim=16)
        self.session.grow(200, seed)
        self.mine: list[str] = []

    def grown(self, session: Any) -> Any:
        session.grow(self.rng.choice([1, 20, 64]), self.rng.randrange(1 << 30))
        session.note = {"kv": session.digest(), "tokens": session.tokens, "pad": self.rng.randbytes(40_000)}
        return session

    def save(self) -> None:
        if self.rng.random() < 0.2:
            self.session.crop_to(self.session.tokens // 2 + 1)
        handle = self.keeper.save(f"session-{self.rng.randrange(SESSIONS)}", self.grown(self.session))
        self.tell(("saving", handle.backup_id))
        self.done(handle.wait(30).id)

    def done(self, backup_id: str) -> None:
        self.tell(("saved", backup_id))
        self.mine.append(backup_id)

    def save_group(self) -> None:
        from support.caches import CacheSession

        agents = {f"agent-{name}": self.grown(CacheSession(layers=2, heads=2, dim=16)) for name in "ab"}
        for backup in self.keeper.save_group("group", agents).wait(30).values():
            self.done(backup.id)

    def fork(self) -> None:
        if self.mine:
            self.done(self.keeper.fork(self.rng.choice(self.mine)).id)

    def restore(self) -> None:
        from support.caches import CacheTarget

        if self.mine:
            woken = self.keeper.restore(self.rng.choice(self.mine), CacheTarget(), require="full").session
            assert woken.digest() == woken.note["kv"]
            self.tell(("restored", ""))

    def pin(self) -> None:
        if self.mine:
            backup_id = self.rng.choice(self.mine)
            self.keeper.api.json("PATCH", f"/v1/backups/{backup_id}", json={"pinned": True})
            self.tell(("pinned", backup_id))

    def remove(self) -> None:
        if len(self.mine) > 2:
            backup_id = self.mine.pop(self.rng.randrange(len(self.mine)))
            self.tell(("removing", backup_id))
            self.keeper.api.call("DELETE", f"/v1/backups/{backup_id}")
            self.tell(("removed", backup_id))

    def step(self) -> None:
        """Do one thing."""
        kinds = [self.save, self.save_group, self.fork, self.restore, self.pin, self.remove]
        self.rng.choices(kinds, [6, 1, 1, 2, 1, 2])[0]()


def work(home: str, crash_at: str, seed: int, out: Connection) -> None:
    """Work until killed. An error of ours is told, and the work goes on: a daemon may be back soon."""
    import torch
    from torpor.client import connect
    from torpor.state.errors import TorporError

    os.environ["TORPOR_CRASH_AT"] = crash_at
    torch.set_num_threads(1)

    def connected() -> Any:
        """Connect, as soon as a daemon is there: one may have been killed a moment ago."""
        until = time.monotonic() + CONNECT_S
        while True:
            try:
                return connect(home=Path(home))
            except TorporError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.02)

    with connected() as keeper:
        mixed = Mixed(keeper, seed, out.send)
        while True:
            try:
                mixed.step()
            except TorporError as error:
                out.send(("failed", error.code))
