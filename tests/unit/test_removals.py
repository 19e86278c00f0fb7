"""A removal that is taken back: everything that was said of the backup comes back with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.kept import DAY_S, Kept
from torpor.codec import manifest_file
from torpor.daemon.garbage import Garbage
from torpor.daemon.keeping import keep_backup, keep_session
from torpor.daemon.remote import RemoteSide
from torpor.daemon.remote_settings import RemoteSettings, S3Settings
from torpor.daemon.removals import MOST, UNDO_S, Removals
from torpor.db.remembered import Remembered
from torpor.state.backup import Backup
from torpor.state.errors import BackupNotFound


class World:
    def __init__(self, folder: Path) -> None:
        self.kept, self.now = Kept(folder), 0.0
        self.catalog = self.kept.catalog
        side = RemoteSide(self.kept.home, RemoteSettings(None), self.catalog, Remembered(self.catalog.index))
        self.removals = Removals(self.catalog, side, lambda: self.now)

    def row(self, backup_id: str) -> Backup:
        return self.catalog.index.backup(backup_id)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.kept.close()


def test_pin_title_ttl_and_use_come_back_with_the_last_backup_of_a_session(world: World) -> None:
    catalog, made = world.catalog, world.kept.save("s", media=b"a picture")
    catalog.set_title("s", "holidays")
    catalog.set_pinned(made.id, True)
    keep_session(catalog, "s", ttl_s=30 * DAY_S, keep_newest=3)
    keep_backup(catalog, made.id, 90 * DAY_S)
    with catalog.index.writing() as connection:
        connection.exec_driver_sql("UPDATE backups SET used_at = 1900000000.0")
    before, sidecar = world.row(made.id), catalog.sidecars.read("s")
    world.kept.wait(8 * DAY_S)
    world.removals.remove(made.id)
    assert not catalog.manifests.has(made.id)
    assert catalog.sidecars.read("s").title is None
    assert world.removals.undo(made.id) == before == world.row(made.id)
    assert (before.pinned, before.title, before.used_at) == (True, "holidays", 1.9e9)
    assert catalog.sidecars.read("s") == sidecar
    with catalog.index.reading() as connection:
        kept = connection.exec_driver_sql("SELECT ttl_s, keep_newest FROM sessions").one()
    assert tuple(kept) == (30 * DAY_S, 3)


def test_a_ttl_that_nobody_changed_goes_on_where_it_was(world: World) -> None:
    made = world.kept.save("s")
    world.kept.wait(3 * DAY_S)
    before = world.row(made.id)
    world.removals.remove(made.id)
    assert world.removals.undo(made.id).expires_at == before.expires_at == made.created_at + 7 * DAY_S


def test_what_was_evicted_stays_evicted(world: World) -> None:
    made = world.kept.save("s", kv=3)
    world.kept.retention._letting_go.drop(made.id, lambda: True)
    before = world.row(made.id)
    assert before.dropped_at is not None
    assert before.absent_bytes > 0
    world.removals.remove(made.id)
    assert world.removals.undo(made.id) == before


def test_blobs_come_out_of_the_trash_and_freed_ones_are_told(world: World) -> None:
    made = world.kept.save("s", media=os.urandom(5000))
    digests = set(world.catalog.blobs.digests())
    world.removals.remove(made.id)
    Garbage(world.catalog, grace_s=-1.0, trash_s=1e9).collect()
    assert not list(world.catalog.blobs.digests())
    assert world.removals.undo(made.id).absent_bytes == 0
    assert set(world.catalog.blobs.digests()) == digests
    world.removals.remove(made.id)
    Garbage(world.catalog, grace_s=-1.0).reclaim(0)
    for digest in digests:
        world.catalog.blobs.remove(digest)
    assert world.removals.undo(made.id).absent_bytes >= 5000


def test_what_was_said_since_stays(world: World) -> None:
    first, second = world.kept.save("s"), world.kept.save("s")
    world.catalog.set_title("s", "before")
    world.removals.remove(first.id)
    world.catalog.set_title("s", "after")
    world.catalog.set_pinned(second.id, True)
    assert world.removals.undo(first.id).title == "after"
    assert world.row(second.id).pinned
    assert not world.row(first.id).pinned


def test_a_second_undo_changes_nothing(world: World) -> None:
    made = world.kept.save("s")
    world.removals.remove(made.id)
    back = world.removals.undo(made.id)
    assert world.removals.undo(made.id) == back
    assert world.removals.undo(world.kept.save("t").id).session_id == "t"


def test_too_late_forgotten_and_never_there(world: World) -> None:
    late, purged = world.kept.save("s"), world.kept.save("s")
    world.removals.remove(late.id)
    world.removals.remove(purged.id)
    world.removals.forget(purged.id)
    world.now += UNDO_S + 1
    for backup_id in (late.id, purged.id, "01M81P35719XNDZ4R57NMV9999"):
        with pytest.raises(BackupNotFound):
            world.removals.undo(backup_id)
    assert not world.removals._kept


def test_memory_has_an_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MOST >= 100
    monkeypatch.setattr("torpor.daemon.removals.MOST", 2)
    made = [world.kept.save("s") for _ in range(3)]
    for each in made:
        world.removals.remove(each.id)
    with pytest.raises(BackupNotFound):
        world.removals.undo(made[0].id)
    assert world.removals.undo(made[1].id).id == made[1].id


def test_the_same_manifest_sent_again_is_known(world: World) -> None:
    made = world.kept.save("s")
    raw = manifest_file.dump(made)
    assert not world.removals.holds(made.id, raw)
    world.removals.remove(made.id)
    assert world.removals.holds(made.id, raw)
    assert not world.removals.holds(made.id, raw.replace(b'"s"', b'"t"'))
    assert not world.removals.holds(made.id, b"nonsense")


def test_a_backup_without_a_readable_manifest_can_be_removed_but_not_brought_back(world: World) -> None:
    made = world.kept.save("s")
    world.catalog.manifests.path(made.id).write_bytes(b"damaged")
    world.removals.remove(made.id)
    with pytest.raises(BackupNotFound):
        world.removals.undo(made.id)


def test_what_waited_for_the_bucket_waits_again(tmp_path: Path) -> None:
    kept = Kept(tmp_path, bucket=True)
    settings = RemoteSettings(S3Settings(bucket="b"))
    side = RemoteSide(kept.home, settings, kept.catalog, Remembered(kept.catalog.index))
    removals = Removals(kept.catalog, side)
    sent, waits = kept.save("s", media=b"a picture"), kept.save("s", media=b"another")
    kept.synced(sent, machine=side.machine)
    before = {each for each in kept.waiting() if each[0] == waits.id}
    for each in (sent, waits):
        removals.remove(each.id)
    assert kept.waiting() == set()
    for each in (sent, waits):
        removals.undo(each.id)
    assert kept.waiting() == before != set()
    side.stop()
    kept.close()
