"""Mistakes that the model of tests/stateful/test_local_gc.py must find, each planted into the real code.

Each comes with a short story in which it does harm. With the code as it is, the stories end well.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext

import pytest
from torpor.daemon import garbage
from torpor.daemon.catalog import Catalog
from torpor.daemon.spared import Spared
from torpor.store.blobs import BlobStore
from torpor.store.trash import BlobTrash

from support.local_world import GRACE_S, HOUR, REFS, YEAR, World

Patch = pytest.MonkeyPatch
Bug = Callable[[Patch], None]
Story = Callable[[World], None]


def no_look_under_the_lock(patch: Patch) -> None:
    """What nobody needed when the folder was listed goes."""
    patch.setattr(garbage._Pass, "_needed", lambda self, digests: {})


def commits_are_not_kept_out(patch: Patch) -> None:
    """The collector takes no lock."""
    patch.setattr(Catalog, "locked", lambda self: nullcontext())


def commits_do_not_look_into_the_trash(patch: Patch) -> None:
    """What is in the trash is missing."""
    patch.setattr(Catalog, "_missing", lambda self, refs: self.blobs.missing(refs))


def restores_do_not_look_into_the_trash(patch: Patch) -> None:
    """What is in the trash cannot be read."""
    patch.setattr(BlobStore, "_places", lambda self, digest: [self.path(digest)])


def no_trash(patch: Patch) -> None:
    """Nothing waits in the trash."""
    patch.setattr(BlobTrash, "throw", lambda self, digest, seen_ns, now: self._blobs.remove(digest))


def no_grace(patch: Patch) -> None:
    """Everything is old enough to go, out of the store as well as out of the trash."""
    patch.setattr(garbage._Pass, "_aged", lambda self, path, now, age_s: path.stat())


def a_touch_is_overlooked(patch: Patch) -> None:
    """What a save touches while it is being moved to the trash stays there."""

    def throw(self: BlobTrash, digest: str, seen_ns: int, now: float) -> bool:
        target = self.path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self._blobs.path(digest), target)
        os.utime(target, (now, now))
        return True

    patch.setattr(BlobTrash, "throw", throw)


def strays_need_nothing(patch: Patch) -> None:
    """Manifests that are not in the index have no say."""
    patch.setattr(Spared, "has", lambda self, digest: False)


def shared_blobs_are_purged(patch: Patch) -> None:
    """What a purged backup names goes, whoever else needs it."""

    def discard(catalog: Catalog, digests: list[str]) -> int:
        return sum(catalog.blobs.remove(digest) for digest in digests)

    patch.setattr(garbage, "discard", discard)


def the_future_never_ends(patch: Patch) -> None:
    """A file that was written under a clock ahead waits until the time has come."""
    patch.setattr(garbage, "FUTURE_S", float("inf"))


def presence_is_believed(patch: Patch) -> None:
    """What the index says of what is here is not corrected."""
    patch.setattr(garbage._Pass, "_there", lambda self, batch: None)


def the_trash_is_never_emptied(patch: Patch) -> None:
    """Nothing is unlinked."""
    patch.setattr(garbage._Pass, "_second_look", lambda self, batch: None)


def _saved(world: World, blocks: list[int], session: int = 0) -> str:
    work = world.save(world.sessions[session], blocks)
    world.finish(work)
    assert work.actor.error is None
    return work.backup_id


def commit_before_the_lock(world: World) -> None:
    """A save commits while a pass, which has compared folder and index, waits for its turn."""
    save = world.save(world.sessions[0], [0])
    world.until(save, "open")  # the folder is synced: next comes the commit
    world.wait(2 * GRACE_S)
    collect = world.collect()
    world.until(collect, "scandir", "blobs/00")
    world.until(save, "lstat")
    world.until(collect, "lock")
    world.finish(save)
    world.finish(collect)


def commit_beside_a_pass(world: World) -> None:
    """A save commits between the look of a pass and the move."""
    save = world.save(world.sessions[0], [0])
    world.until(save, "open")
    world.wait(2 * GRACE_S)
    collect = world.collect()
    world.until(collect, "replace")
    while not save.actor.done and save.actor.at[0] != "lock":
        world.step(save)
    world.finish(collect)
    world.finish(save)


def reuse_of_a_removed_backup(world: World) -> None:
    """A session's next save counts on blocks whose backup was removed."""
    first = _saved(world, [0])
    world.wait(2 * GRACE_S)
    save = world.save(world.sessions[0], [0, 1])
    world.remove(first)
    world.finish(world.collect())
    world.finish(save)


def restore_of_a_removed_backup(world: World) -> None:
    """A backup is removed, and collected, while it is read."""
    first = _saved(world, [0, 1, 2])
    world.wait(2 * GRACE_S)
    restore = world.restore(first)
    world.step(restore)
    world.remove(first)
    world.finish(world.collect())
    world.finish(restore)


def a_save_sleeps(world: World) -> None:
    """Two hours lie between the blobs of a save and its commit."""
    save = world.save(world.sessions[0], [0])
    world.until(save, "open")
    world.wait(60)
    world.finish(world.collect())
    world.wait(2 * HOUR)
    world.finish(world.collect())
    world.finish(save)


def touched_in_the_moment(world: World) -> None:
    """A save finds an old blob in the very moment in which it is moved to the trash, and sleeps for two hours."""
    world.remove(_saved(world, [0]))
    world.wait(2 * GRACE_S)
    collect, save = world.collect(), world.save(world.sessions[1], [0])
    world.until(save, "utime")
    world.until(collect, "replace", REFS[0].digest[-8:])
    world.step(save)
    world.finish(collect)
    world.wait(2 * HOUR)
    world.finish(world.collect())
    world.finish(save)


def a_commit_that_comes_back(world: World) -> None:
    """A commit fails, its manifest cannot be removed, and the next start takes it in."""
    world.finish(world.save(world.sessions[0], [0, 1], commit_fails=True))
    for _ in range(2):
        world.wait(2 * GRACE_S)
        world.finish(world.collect())
    world.restart()
    assert world.listed()


def purge_of_what_is_shared(world: World) -> None:
    """One of two backups that share a blob is purged."""
    first = _saved(world, [0, 1])
    _saved(world, [0, 2], session=1)
    world.remove(first, purge=True)


def a_clock_ahead(world: World) -> None:
    """A save is made and removed while the clock is a year ahead."""
    world.wait(YEAR)
    world.remove(_saved(world, [0]))
    world.wait(-YEAR)


def a_fetch_is_cut_off(world: World) -> None:
    """The process that fetches a blob dies when the blob is there, and not yet noted."""
    first = _saved(world, [0])
    world.evict(first)
    restore = world.restore(first)
    world.until(restore, "open", "blobs/00")
    world.kill(restore)


BUGS: dict[Bug, Story] = {
    no_look_under_the_lock: commit_before_the_lock,
    commits_are_not_kept_out: commit_beside_a_pass,
    commits_do_not_look_into_the_trash: reuse_of_a_removed_backup,
    restores_do_not_look_into_the_trash: restore_of_a_removed_backup,
    no_trash: restore_of_a_removed_backup,
    no_grace: a_save_sleeps,
    a_touch_is_overlooked: touched_in_the_moment,
    strays_need_nothing: a_commit_that_comes_back,
    shared_blobs_are_purged: purge_of_what_is_shared,
    the_future_never_ends: a_clock_ahead,
    presence_is_believed: a_fetch_is_cut_off,
    the_trash_is_never_emptied: restore_of_a_removed_backup,
}
RARE = {a_touch_is_overlooked}  # chance does not come upon them
