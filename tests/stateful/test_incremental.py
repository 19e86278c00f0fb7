"""Random lives of caches: they grow, are cropped, forked, saved and damaged, and every backup stays bit-exact.

A walk is decided by its seed alone, so a failure is repeated by its number. (A Hypothesis machine was tried first: it
spent its steps on walks in which nothing was saved twice, and let most of the planted bugs pass.)
"""

from __future__ import annotations

import copy
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from support.caches import CacheSession, CacheTarget
from support.daemon import Daemon
from torpor.adapters.dynamic_cache import LiveCache
from torpor.client import Backup
from torpor.client.memory import Pool
from torpor.state.errors import TorporError

WALKS, STEPS = (400, 120) if os.environ.get("TORPOR_SOAK") else (24, 60)
TOKEN_BYTES = 3 * 2 * 2 * 8 * 2
# The pool holds a message's worth of tokens and not a session's, so that all three ways of capturing are taken, the two
# of a device too.
POOL = 150 * TOKEN_BYTES

WEIGHTS = {
    "grow": 10,
    "save": 12,
    "save_small": 6,
    "save_and_crop_at_once": 3,
    "save_fails": 3,
    "crop": 3,
    "crop_and_grow_back": 3,
    "rewrite_behind_the_watch": 1,
    "reset": 1,
    "deep_copy": 1,
    "restore_and_fork": 3,
    "memory_changes": 2,
    "lose_a_blob": 2,
}


class Lives:
    """A few sessions on one store. The model: for each backup, the tensors that it must give back."""

    def __init__(self, daemon: Daemon, seed: int) -> None:
        self.daemon, self.random, self.memory = daemon, random.Random(seed), 1 << 40
        self.keeper = daemon.keeper(pool=Pool(POOL), free_memory=lambda: self.memory)
        self.sessions = [CacheSession()]
        self.sessions[0].grow(200, seed)
        self.expected: dict[str, list[torch.Tensor]] = {}
        self.small: dict[str, list[torch.Tensor]] = {}  # of which a backup gives the beginning back, or nothing
        self.seen: Counter[str] = Counter()

    def walk(self, steps: int) -> None:
        choices, weights = zip(*WEIGHTS.items(), strict=True)
        for name in self.random.choices(choices, weights, k=steps):
            self.seen[name] += 1
            getattr(self, name)(self.random.choice(self.sessions))
        self.settle()
        for backup_id in self.expected:
            self.check(backup_id)
        for backup_id in self.small:
            self.check_small(backup_id)

    def check(self, backup_id: str) -> CacheSession:
        woken = self.keeper.restore(backup_id, CacheTarget(), require="full")
        found, wanted = woken.session.tensors(), self.expected[backup_id]
        assert len(found) == len(wanted)
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
        return woken.session

    def check_small(self, backup_id: str) -> None:
        woken = self.keeper.restore(backup_id, CacheTarget())
        tokens = woken.session.tokens
        assert (woken.mode, tokens % 64) == ("prefix" if tokens else "embeddings", 0)
        self.seen[f"small, {'some' if tokens else 'no'} KV"] += 1
        found = woken.session.tensors() if tokens else []
        assert all(torch.equal(a, b[:, :, :tokens]) for a, b in zip(found, self.small[backup_id], strict=bool(tokens)))

    def seed(self) -> int:
        return self.random.randrange(1 << 30)

    def grow(self, session: CacheSession) -> None:
        if session.tokens < 700:
            session.grow(self.random.choice([1, 1, 2, 30, 63, 64, 65, 130]), self.seed())

    def crop(self, session: CacheSession) -> None:
        if session.tokens > 1:
            session.crop_to(self.random.randrange(1, session.tokens))

    def crop_and_grow_back(self, session: CacheSession) -> None:
        before = session.tokens
        self.crop(session)
        if before > session.tokens:
            session.grow(before - session.tokens, self.seed())

    def rewrite_behind_the_watch(self, session: CacheSession) -> None:
        """Tensors assigned from outside: only the witness can notice."""
        self.settle()  # a save that follows the live tensors cannot be protected from this
        generator = torch.Generator().manual_seed(self.seed())
        for layer in session.cache.layers if session.tokens else []:
            layer.keys = torch.randn(layer.keys.shape, generator=generator).to(layer.keys.dtype)

    def reset(self, session: CacheSession) -> None:
        session.cache.reset()

    def deep_copy(self, session: CacheSession) -> None:
        """A copy of a watched cache is an ordinary cache of its own."""
        if len(self.sessions) < 4:
            twin = CacheSession(copy.deepcopy(session.cache))
            assert not hasattr(type(twin.cache), "_torpor_base")
            self.sessions.append(twin)

    def memory_changes(self, _: CacheSession) -> None:
        self.memory = self.random.choice([0, 1 << 40])

    def save(self, session: CacheSession) -> None:
        if session.tokens:
            expected = session.copy_tensors()
            handle = self.keeper.save("s", session)
            self.seen[handle.snapshot] += 1
            self.expected[handle.backup_id] = expected
            if self.random.random() < 0.3:
                handle.wait(60)

    def save_small(self, session: CacheSession) -> None:
        if session.tokens:
            expected = session.copy_tensors()
            self.small[self.keeper.save("s", session, small=True).backup_id] = expected

    def save_and_crop_at_once(self, session: CacheSession) -> None:
        self.save(session)
        self.crop_and_grow_back(session)

    def save_fails(self, session: CacheSession) -> None:
        """A save that fails on its way: nobody may count on what it would have written."""
        if not session.tokens:
            return

        def refuse(*_: Any, **__: Any) -> Backup:
            raise TorporError("refused by the test")

        self.settle()
        api = self.keeper.api
        api.commit = refuse  # type: ignore[method-assign]
        try:
            handle = self.keeper.save("s", session)
            with pytest.raises(TorporError, match="refused"):
                handle.wait(60)
        finally:
            del api.commit

    def settle(self) -> None:
        """Wait until everything that was started is written: saves run in order."""
        self.keeper.save("probe", CacheSession()).wait(60)

    def restore_and_fork(self, _: CacheSession) -> None:
        self.settle()
        if self.expected:
            fork = self.check(self.random.choice(sorted(self.expected)))
            self.sessions[1:] = [*self.sessions[1:], fork][-3:]

    def lose_a_blob(self, _: CacheSession) -> None:
        """A blob vanishes: backups that need it are gone, and later ones must be whole all the same."""
        self.settle()
        needed = {
            ref.digest: backup_id
            for backup_id in self.expected
            for ref in (self.keeper.manifest(backup_id)[1].kv_cache or _NOTHING).blocks
        }
        if not needed:
            return
        lost = self.random.choice(sorted(needed))
        (self.daemon.home / "store" / "blobs" / lost[:2] / lost).unlink()
        for backup_id in list(self.expected):
            kv = self.keeper.manifest(backup_id)[1].kv_cache
            if kv is not None and any(ref.digest == lost for ref in kv.blocks):
                del self.expected[backup_id]


class _NOTHING:
    blocks = ()


@pytest.fixture(scope="module")
def seen() -> Counter[str]:
    return Counter()


@pytest.mark.parametrize("seed", range(WALKS))
def test_a_random_life(seed: int, daemon_of_walks: Daemon, seen: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LiveCache, "on_host", seed % 3 > 0)
    lives = Lives(daemon_of_walks, seed)
    try:
        lives.walk(STEPS)
    finally:
        seen.update(lives.seen)
        lives.keeper.close()


def test_the_walks_went_everywhere(seen: Counter[str]) -> None:
    small = {"small, some KV", "small, no KV"}
    assert set(seen) == set(WEIGHTS) | {"copied", "held", "followed"} | small, seen


@pytest.fixture(scope="module")
def daemon_of_walks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("walks")
    with Daemon(folder / "home") as running:
        yield running
