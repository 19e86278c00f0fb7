"""Random lives of caches: they grow, are cropped, forked, saved and damaged, and every backup stays bit-exact."""

from __future__ import annotations

import copy
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.caches import CacheSession, CacheTarget
from support.daemon import Daemon

from torpor.client import Backup, Keeper
from torpor.client.memory import Pool
from torpor.state.errors import TorporError

_place = tempfile.TemporaryDirectory(prefix="torpor-")
_daemon: list[Daemon] = []


@pytest.fixture(scope="module", autouse=True)
def _one_daemon() -> Any:
    with Daemon(Path(_place.name) / "home") as running:
        _daemon.append(running)
        yield
    _daemon.clear()
    _place.cleanup()


class Lives(RuleBasedStateMachine):
    """A few sessions on one store. The model: for each backup, the tensors that it must give back."""

    def __init__(self) -> None:
        super().__init__()
        self.daemon = _daemon[0]
        self.seed = random.Random(0)
        self.memory = 1 << 40
        api_keeper = self.daemon.keeper()
        self.keeper = Keeper(api_keeper.api, pool=Pool(70 * 192), free_memory=lambda: self.memory)
        self.sessions = [CacheSession()]
        self.expected: dict[str, list[torch.Tensor]] = {}
        self.ways: set[str] = set()

    def teardown(self) -> None:
        self.settle(self.sessions[0])
        for backup_id in self.expected:
            woken = self.keeper.restore(backup_id, CacheTarget(), require="full")
            assert self.same(woken.session, backup_id)
        self.keeper.close()

    def pick(self, which: int) -> CacheSession:
        return self.sessions[which % len(self.sessions)]

    @rule(which=st.integers(0, 9), count=st.sampled_from([1, 1, 1, 7, 63, 64, 65, 130]))
    def grow(self, which: int, count: int) -> None:
        if self.pick(which).tokens < 500:
            self.pick(which).grow(count, self.seed.randrange(1 << 30))

    @rule(which=st.integers(0, 9), keep=st.floats(0, 1))
    def crop(self, which: int, keep: float) -> None:
        session = self.pick(which)
        if session.tokens > 1:
            session.crop_to(max(1, int(session.tokens * keep)))

    @rule(which=st.integers(0, 9), keep=st.floats(0, 1))
    def crop_and_grow_back(self, which: int, keep: float) -> None:
        """The same length again with other bytes: nothing but the watch can tell."""
        session = self.pick(which)
        if session.tokens > 1:
            before, kept = session.tokens, max(1, int(session.tokens * keep))
            session.crop_to(kept)
            if before > kept:
                session.grow(before - kept, self.seed.randrange(1 << 30))

    @rule(which=st.integers(0, 9))
    def rewrite_behind_the_watch(self, which: int) -> None:
        """Tensors assigned from outside: the witness notices."""
        session = self.pick(which)
        if session.tokens:
            generator = torch.Generator().manual_seed(self.seed.randrange(1 << 30))
            for layer in session.cache.layers:
                layer.keys = torch.randn(layer.keys.shape, generator=generator).to(layer.keys.dtype)

    @rule(which=st.integers(0, 9))
    def reset(self, which: int) -> None:
        self.pick(which).cache.reset()

    @rule(which=st.integers(0, 9))
    def deep_copy(self, which: int) -> None:
        """A copy of a watched cache is a cache of its own."""
        if len(self.sessions) < 4:
            session = self.pick(which)
            twin = CacheSession(copy.deepcopy(session.cache), dict(session.note))
            assert type(twin.cache).__name__ == "DynamicCache"
            self.sessions.append(twin)

    @rule(free=st.sampled_from([1 << 40, 0]))
    def memory_changes(self, free: int) -> None:
        self.memory = free

    @rule(which=st.integers(0, 9), wait=st.booleans(), crop_at_once=st.booleans())
    def save(self, which: int, wait: bool, crop_at_once: bool) -> None:
        session = self.pick(which)
        if not session.tokens:
            return
        session.note = {"tokens": session.tokens}
        expected = session.copy_tensors()
        handle = self.keeper.save("s", session)
        self.ways.add(handle.snapshot)
        self.expected[handle.backup_id] = expected
        if crop_at_once and session.tokens > 2:
            session.crop_to(session.tokens // 2)
        if wait:
            handle.wait(60)

    @rule(which=st.integers(0, 9))
    def save_fails(self, which: int) -> None:
        """A save that fails on its way: nobody may count on its blocks."""
        session, worker = self.pick(which), self.keeper._worker
        if not session.tokens:
            return

        def refuse(*_: Any) -> Backup:
            raise TorporError("refused by the test")

        self.settle(session)
        real, worker._api = worker._api, type("Api", (), {"commit": staticmethod(refuse)})()  # type: ignore[assignment]
        try:
            handle = self.keeper.save("s", session)
            with pytest.raises(TorporError, match="refused"):
                handle.wait(60)
        finally:
            worker._api = real

    def settle(self, session: CacheSession) -> None:
        """Wait until everything that was started is written."""
        probe = CacheSession(note={})
        self.keeper.save("probe", probe).wait(60)

    @precondition(lambda self: self.expected)
    @rule(which=st.integers(0, 99))
    def restore_and_fork(self, which: int) -> None:
        self.settle(self.sessions[0])
        backup_id = sorted(self.expected)[which % len(self.expected)]
        woken = self.keeper.restore(backup_id, CacheTarget(), require="full")
        assert self.same(woken.session, backup_id)
        if len(self.sessions) < 4:
            self.sessions.append(woken.session)

    @rule(which=st.integers(0, 999))
    def lose_a_blob(self, which: int) -> None:
        """A blob vanishes: old backups that need it are gone, new ones must be whole again."""
        self.settle(self.sessions[0])
        files = self.daemon.blob_files()
        if not files:
            return
        lost = files[which % len(files)]
        lost.unlink()
        for backup_id in list(self.expected):
            _, manifest = self.keeper.manifest(backup_id)
            if manifest.kv_cache and any(ref.digest == lost.name for ref in manifest.kv_cache.blocks):
                del self.expected[backup_id]

    def same(self, session: CacheSession, backup_id: str) -> bool:
        found, wanted = session.tensors(), self.expected[backup_id]
        return len(found) == len(wanted) and all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))

    @invariant()
    def sessions_are_ordinary_caches(self) -> None:
        for session in self.sessions:
            assert session.tokens >= 0


TestLives = Lives.TestCase
TestLives.settings = settings(settings.get_profile("torpor"), stateful_step_count=40)
