"""What a later save writes, counted in bytes on disk, and what is left out of it."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.caches import CacheSession, CacheTarget, static_cache
from support.daemon import Daemon
from torpor.adapters.dynamic_cache import LiveCache
from torpor.client import Keeper
from torpor.client.memory import Pool
from torpor.state.errors import DaemonNotRunning

TOKEN_BYTES = 3 * 2 * 2 * 8 * 2  # layers, K and V, heads, dim, bfloat16


@pytest.fixture
def keeper(daemon: Daemon) -> Iterator[Keeper]:
    with daemon.keeper() as keeper:
        yield keeper


def new_files(daemon: Daemon, before: set[Path]) -> set[Path]:
    return set(daemon.blob_files()) - before


def test_a_second_save_writes_the_new_and_the_old_partial_block(daemon: Daemon, keeper: Keeper) -> None:
    session = CacheSession()
    session.grow(1000, 1)
    first = keeper.save("s", session).wait(60)
    before = set(daemon.blob_files())
    session.grow(64, 2)
    second = keeper.save("s", session).wait(60)
    written = sum(p.stat().st_size for p in new_files(daemon, before))
    partial = 1000 % 64
    assert written == (64 + partial) * TOKEN_BYTES
    manifest = (daemon.home / "store" / "manifests" / f"{second.id}.qwnbak").stat().st_size
    assert second.bytes_written == written + manifest
    assert second.parent_id == first.id
    assert second.bytes_total > 1064 * TOKEN_BYTES


def test_a_save_of_the_unchanged_session_writes_the_partial_block_at_most(daemon: Daemon, keeper: Keeper) -> None:
    session = CacheSession()
    session.grow(130, 1)
    keeper.save("s", session).wait(60)
    before = set(daemon.blob_files())
    keeper.save("s", session).wait(60)
    assert new_files(daemon, before) == set()


@pytest.mark.parametrize("keep", [700, 640, 639])
def test_an_edit_in_the_middle_shares_up_to_the_edit(daemon: Daemon, keeper: Keeper, keep: int) -> None:
    session = CacheSession()
    session.grow(1000, 1)
    keeper.save("s", session).wait(60)
    before = set(daemon.blob_files())
    session.crop_to(keep)
    session.grow(300, 2)
    keeper.save("s", session).wait(60)
    written = sum(p.stat().st_size for p in new_files(daemon, before))
    assert written == (keep + 300 - keep // 64 * 64) * TOKEN_BYTES


def test_a_crop_leaves_no_deleted_token_in_any_new_file(daemon: Daemon, keeper: Keeper) -> None:
    """Every token's bytes are told apart; the deleted ones must not be in what a save after the crop writes."""
    session = CacheSession(layers=1, heads=1, dim=16, dtype=torch.int16)
    marks = torch.arange(200, dtype=torch.int16).reshape(1, 1, 200, 1).repeat(1, 1, 1, 16)
    session.cache.update(marks, marks, 0)
    before = set(daemon.blob_files())
    session.crop_to(150)  # leaves a view over the storage of all 200
    keeper.save("s", session).wait(60)
    found = b"".join(p.read_bytes() for p in new_files(daemon, before))
    present = {t for t in range(200) if t.to_bytes(2, "little") * 16 in found}
    assert present == set(range(150))


def test_a_fork_of_a_restored_session_shares_its_prefix(daemon: Daemon, keeper: Keeper) -> None:
    session = CacheSession()
    session.grow(640, 1)
    backup = keeper.save("s", session).wait(60)
    before = set(daemon.blob_files())
    for seed in (2, 3):
        fork = keeper.restore(backup.id, CacheTarget()).session
        fork.grow(10, seed)
        assert keeper.save(f"fork-{seed}", fork).wait(60).parent_id == backup.id
    assert sum(p.stat().st_size for p in new_files(daemon, before)) == 2 * 10 * TOKEN_BYTES


def test_equal_bytes_of_another_cache_are_shared_and_others_are_not(daemon: Daemon, keeper: Keeper) -> None:
    for seed in (1, 1, 2):
        session = CacheSession()
        session.grow(128, seed)
        keeper.save("s", session).wait(60)
    assert sum(p.stat().st_size for p in daemon.blob_files()) == 2 * 128 * TOKEN_BYTES


def test_a_cache_on_the_host_is_followed_and_nothing_of_it_copied_or_held(daemon: Daemon, keeper: Keeper) -> None:
    session = CacheSession()
    for seed, tokens in enumerate((200, 5)):
        session.grow(tokens, seed)
        wanted, tensors = session.copy_tensors(), [weakref.ref(t) for t in session.tensors()]
        handle = keeper.save("s", session)
        session.grow(5, seed + 10)  # generation goes on while the save reads
        assert handle.snapshot == "followed"
        handle.wait(60)
        assert [t() for t in tensors] == [None] * len(tensors)
        found = keeper.restore(handle.backup_id, CacheTarget()).session.tensors()
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_how_a_cache_on_a_device_is_captured_follows_from_size_and_memory(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LiveCache, "on_host", False)
    free = 1 << 40
    keeper = daemon.keeper(pool=Pool(130 * TOKEN_BYTES), free_memory=lambda: free)
    session = CacheSession()
    session.grow(100, 1)
    assert keeper.save("s", session).snapshot == "held"  # the first
    session.grow(50, 2)
    assert keeper.save("s", session).wait(60)
    session.grow(50, 3)
    assert keeper.save("s", session).snapshot == "copied"  # a later one
    session.grow(200, 4)
    assert keeper.save("s", session).snapshot == "held"  # more than the pool holds
    free = 0
    small = CacheSession()
    small.grow(20, 5)
    assert keeper.save("s", small).snapshot == "copied"
    third = CacheSession()
    third.grow(200, 3)
    handle = keeper.save("s", third)
    assert handle.snapshot == "followed"
    wanted = third.copy_tensors()
    third.grow(5, 4)  # generation goes on while the save reads
    handle.wait(60)
    found = keeper.restore(handle.backup_id, CacheTarget()).session.tensors()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert keeper.save("s", third).snapshot == "copied"
    keeper.close()


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_a_cache_that_is_written_in_place_is_copied_at_once(daemon: Daemon, free: int) -> None:
    keeper = daemon.keeper(pool=Pool(16 * TOKEN_BYTES), free_memory=lambda: free)
    session = CacheSession()
    session.grow(100, 1)
    live = CacheSession(static_cache(session, 256))
    handle = keeper.save("s", live)
    assert handle.snapshot == "copied"
    for layer in live.cache.layers:
        layer.keys.zero_()
    handle.wait(60)
    found = keeper.restore(handle.backup_id, CacheTarget()).session
    keeper.close()
    assert found.tokens == 100
    assert all(torch.equal(a, b) for a, b in zip(found.tensors(), session.tensors(), strict=True))


def test_saves_that_pile_up_are_all_kept_in_order(daemon: Daemon, keeper: Keeper) -> None:
    session, handles, wanted = CacheSession(), [], []
    for step in range(12):
        session.grow(37, step)
        wanted.append(session.copy_tensors())
        handles.append(keeper.save("s", session))
    backups = [handle.wait(60) for handle in handles]
    assert [b.parent_id for b in backups[1:]] == [b.id for b in backups[:-1]]
    for backup, tensors in zip(backups, wanted, strict=True):
        found = keeper.restore(backup.id, CacheTarget()).session.tensors()
        assert all(torch.equal(a, b) for a, b in zip(found, tensors, strict=True))


def test_closing_the_keeper_finishes_what_was_started(daemon: Daemon) -> None:
    session = CacheSession()
    session.grow(500, 1)
    with daemon.keeper() as keeper:
        handle = keeper.save("s", session)
    assert handle.done()
    assert handle.wait().tokens == 501
    assert list((daemon.home / "store" / "staging").iterdir()) != []  # the daemon's own
    assert len(list((daemon.home / "store" / "staging").iterdir())) == 1


def test_a_save_that_had_to_write_again_counts_its_bytes_once(daemon: Daemon, keeper: Keeper) -> None:
    session = CacheSession()
    session.grow(128, 1)
    keeper.save("s", session).wait(60)
    daemon.blob_files()[0].unlink()
    session.grow(64, 2)
    backup = keeper.save("s", session).wait(60)
    manifest = (daemon.home / "store" / "manifests" / f"{backup.id}.qwnbak").stat().st_size
    assert backup.bytes_written == 2 * 64 * TOKEN_BYTES + manifest


def test_many_calls_to_a_dead_daemon_keep_nothing(daemon: Daemon, keeper: Keeper) -> None:
    daemon.kill()
    for _ in range(30):
        with pytest.raises(DaemonNotRunning):
            keeper.api.status()
    assert keeper.api._broken == []
