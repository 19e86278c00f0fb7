"""Text and tokens never fail with the KV cache: whatever it fails with, they are a backup of their own."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from support.caches import IDENTITY, CacheSession, CacheTarget
from support.daemon import Daemon
from torpor.client import Capture, Keeper
from torpor.client.capture import FollowedKV
from torpor.state.errors import SnapshotLost, TorporError
from torpor.state.fingerprint import Fingerprint


class Failing:
    """A live cache that fails as a test says, and is the real one for the rest."""

    def __init__(self, real: Any, *, copy: Exception | None = None, read: Exception | None = None) -> None:
        self._real, self._copy, self._read = real, copy, read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def copy(self, start: int, stop: int, into: memoryview) -> None:
        if self._copy is not None:
            raise self._copy
        self._real.copy(start, stop, into)

    def follow(self) -> FollowedKV:
        real: FollowedKV = self._real.follow()
        return real if self._read is None else FailingReads(real, self._read)


class FailingReads:
    """A followed cache whose first block is read and written."""

    def __init__(self, real: FollowedKV, error: Exception) -> None:
        self._real, self._error = real, error

    def copy(self, start: int, stop: int, into: memoryview, first: int = 0) -> None:
        if start:
            raise self._error
        self._real.copy(start, stop, into, first)


@dataclass(eq=False)
class Rich(CacheSession):
    """A session with embeddings, whose capture a test changes."""

    change: Callable[[Capture], Capture] = lambda capture: capture

    def capture(self) -> Capture:
        capture = super().capture()
        vision = {"embeddings": torch.arange(200_000, dtype=torch.float32)}
        return self.change(replace(capture, layers={**capture.layers, "vision_cache": vision}))


def saved(keeper: Keeper, session: CacheSession, session_id: str) -> TorporError:
    session.grow(200, 1)
    handle = keeper.save(session_id, session)
    with pytest.raises(TorporError) as caught:
        handle.wait(60)
    assert caught.value.kept == handle.backup_id
    assert handle.backup_id in caught.value.hint
    return caught.value


def out_of_memory(capture: Capture) -> Capture:
    live = static_cache_of(capture)
    return replace(capture, kv=Failing(live, copy=MemoryError()))


def static_cache_of(capture: Capture) -> Any:
    """Return the live cache as one that is written in place, and so must be copied."""
    live = Failing(capture.kv)
    live.appends_only = False  # type: ignore[attr-defined]
    return live


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (out_of_memory, "not enough memory"),
        (lambda c: replace(c, kv=Failing(c.kv, read=RuntimeError("CUDA error"))), "CUDA error"),
        (lambda c: replace(c, kv=Failing(c.kv, read=SnapshotLost("it was cropped"))), "it was cropped"),
    ],
    ids=["no memory", "device", "lost"],
)
def test_a_cache_that_cannot_be_read(shared_daemon: Daemon, change: Callable[[Capture], Capture], why: str) -> None:
    before = set(shared_daemon.blob_files())
    with shared_daemon.keeper() as keeper:
        session = Rich(note={"said": "yes"}, change=change)
        error = saved(keeper, session, f"kept-{why[:3].strip()}")
        restored = keeper.restore(str(error.kept), CacheTarget())
        assert (restored.mode, restored.session.note) == ("embeddings", {"said": "yes"})
        assert any("kv_cache was not saved" in note and why in note for note in restored.plan.notes)
        backup = restored.backup
        # Only the KV cache was lost: everything else is there. What failed otherwise may fail for more than it.
        assert ("vision_cache" in backup.layers) == (why != "CUDA error")
        assert sum(p.stat().st_size for p in set(shared_daemon.blob_files()) - before) <= 800_000

        session.change = lambda capture: capture
        later = keeper.save(backup.session_id, session).wait(60)
        assert later.parent_id == backup.id
        assert keeper.restore(later.id, CacheTarget(), require="full").session.digest() == session.digest()


def test_who_keeps_a_handle_of_a_save_that_failed_keeps_no_cache(shared_daemon: Daemon) -> None:
    gate = threading.Event()

    def waiting() -> Fingerprint:
        gate.wait(60)
        return IDENTITY

    with shared_daemon.keeper() as keeper:
        keeper.save("gated", Rich(change=lambda c: replace(c, fingerprint=waiting)))
        session = CacheSession()
        session.grow(200, 1)
        handle = keeper.save("unkept", session)
        tensors, cache = session.tensors(), weakref.ref(session.cache)
        session.crop_to(100)
        for tensor in tensors:
            tensor.zero_()  # which nobody can announce
        del session, tensors, tensor
        gate.set()
        with pytest.raises(SnapshotLost):
            handle.wait(60)
    gc.collect()
    assert cache() is None


def test_weights_that_cannot_be_read(shared_daemon: Daemon) -> None:
    def unreadable() -> Fingerprint:
        raise OSError("the weights are on a disk that is gone")

    with shared_daemon.keeper() as keeper:
        session = Rich(note={"said": "yes"}, change=lambda c: replace(c, fingerprint=unreadable))
        error = saved(keeper, session, "kept-weights")
        assert "disk that is gone" in error.detail
        restored = keeper.restore("kept-weights", CacheTarget(IDENTITY))
        assert (restored.mode, restored.session.note) == ("text-only", {"said": "yes"})


def test_what_fails_for_all_of_it_keeps_nothing(daemon: Daemon) -> None:
    with daemon.keeper() as keeper:
        session = CacheSession()
        session.grow(10, 1)
        first = keeper.save("s", session).wait(60)
        text = CacheSession(note={"said": "only"})
        (daemon.home / "store" / "manifests").rename(daemon.home / "store" / "away")
        with pytest.raises(TorporError) as caught:
            keeper.save("t", text).wait(60)
        (daemon.home / "store" / "away").rename(daemon.home / "store" / "manifests")
        assert caught.value.kept is None
        assert [b.id for b in keeper.api.backups()] == [first.id]
