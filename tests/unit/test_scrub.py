"""Scrub, repair and verification over a real store and a bucket in memory."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.bucket_daemon import BucketDaemon, Elsewhere
from support.waiting import until
from torpor.daemon.care import Care
from torpor.daemon.garbage import Garbage
from torpor.daemon.scrub import IN_A_ROW, Scrub, ScrubSettings
from torpor.daemon.settings import load_settings
from torpor.daemon.sync_memory import SyncMemory
from torpor.db.remembered import Remembered
from torpor.state.errors import BackupNotFound, Conflict, NotFound
from torpor.state.manifest import BlobRef, Manifest, manifest_blobs
from torpor.store.arriving import StoreBlobs
from torpor.store.gentle_reads import GentleReader


class World:
    """A store with backups whose blobs are here, and in a bucket where a test says so."""

    def __init__(self, folder: Path) -> None:
        self.daemon = BucketDaemon(folder)
        self.catalog, self.elsewhere = self.daemon.catalog, Elsewhere(self.daemon.bucket)
        memory = SyncMemory(Remembered(self.catalog.index), time.time)
        self.memory = memory
        self.care = Care(self.daemon.home, self.catalog, memory, self.daemon.back, load_settings())
        self.alone = Care(self.daemon.home, self.catalog, memory, None, load_settings())

    def save(self, number: int, *, in_bucket: bool = True, blobs: int = 3) -> Manifest:
        made = self.elsewhere.save(number, blobs=blobs)
        for digest, (size, _) in manifest_blobs(made).items():
            with StoreBlobs(self.catalog.blobs, self.catalog.staging).receive(BlobRef(digest, size)) as writer:
                writer.write(self.elsewhere.blobs[digest])
        self.catalog.commit_all([made])
        if in_bucket:
            self.daemon.back.backups.look()
        return made

    def scrub(self, care: Care | None = None, **options: Any) -> Scrub:
        settings = options.pop("settings", ScrubSettings(1 << 30, 1e9))
        options.setdefault("powered", lambda: True)
        mine = care or self.care
        return Scrub(self.catalog, mine.repair, mine.manifests, self.memory, settings, **options)

    def hurt(self, digest: str, data: bytes | None = None) -> None:
        path = self.catalog.blobs.path(digest)
        path.write_bytes(os.urandom(path.stat().st_size) if data is None else data)

    def events(self, kind: str) -> list[str]:
        return [str(event["detail"]) for event in self.catalog.index.recent_events() if event["kind"] == kind]


def digests(made: Manifest) -> list[str]:
    return sorted(manifest_blobs(made))


def done(scrub: Scrub) -> dict[str, Any]:
    scrub.begin()
    until(lambda: scrub.describe()["state"] != "running")
    return scrub.describe()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "home")
    yield made
    made.care.stop()
    made.alone.stop()
    made.daemon.close()


def test_a_damaged_blob_is_healed_from_the_bucket(world: World) -> None:
    made = world.save(1)
    first, second, third = digests(made)
    world.hurt(first)
    world.hurt(second, b"short")
    world.catalog.blobs.path(third).unlink()
    found = done(world.scrub())
    assert (found["sound"], found["healed"], found["damaged"]) == (0, 3, 0)
    for digest in digests(made):
        assert world.catalog.blobs.path(digest).read_bytes() == world.elsewhere.blobs[digest]
    assert world.catalog.index.backup(made.id).absent_bytes == 0
    assert list(world.care.repair.quarantine.digests()) == []
    assert len(world.events("blob-healed")) == 3
    assert any("gone" in detail and made.id in detail for detail in world.events("blob-healed"))


def test_what_no_copy_is_had_of_is_put_aside_and_told(world: World) -> None:
    made, other = world.save(1, in_bucket=False), world.save(2, in_bucket=False)
    hurt = digests(made)[1]
    size = world.catalog.blobs.path(hurt).stat().st_size
    world.hurt(hurt)
    scrub = world.scrub(world.alone)
    found = done(scrub)
    assert (found["sound"], found["healed"], found["damaged"], found["damaged_blobs"]) == (5, 0, 1, 1)
    assert found["quarantine_bytes"] == size
    assert world.care.repair.quarantine.path(hurt).exists()
    assert not world.catalog.blobs.path(hurt).exists()
    row = world.catalog.index.backup(made.id)
    assert (row.absent_bytes, row.damaged_bytes) == (size, size)
    assert world.catalog.index.backup(other.id).damaged_bytes == 0
    (event,) = world.events("blob-damaged")
    assert "other bytes" in event
    assert made.id in event
    assert done(world.scrub(world.alone, settings=ScrubSettings(1 << 30, 0.0)))["damaged"] == 0  # is told once


def test_it_is_healed_later_when_the_bucket_can_be_reached(world: World) -> None:
    made = world.save(1)
    world.hurt(digests(made)[0])
    assert done(world.scrub(world.alone))["damaged"] == 1
    scrub = world.scrub()
    scrub.turn()  # not due: but what is damaged is tried again
    assert scrub.describe()["damaged_blobs"] == 0
    assert world.events("blob-healed")
    assert world.catalog.index.backup(made.id).damaged_bytes == 0


def test_saving_the_same_bytes_again_heals(world: World) -> None:
    made = world.save(1, in_bucket=False)
    hurt = digests(made)[0]
    world.hurt(hurt)
    assert done(world.scrub(world.alone))["damaged"] == 1
    data = world.elsewhere.blobs[hurt]
    result = world.catalog.blobs.put(world.catalog.staging, [memoryview(data)], set())
    assert result.written
    scrub = world.scrub(world.alone)
    scrub.turn()
    assert scrub.describe()["damaged_blobs"] == 0
    assert list(world.alone.repair.quarantine.digests()) == []


def test_a_commit_of_a_damaged_blob_is_told_to_send_it_again(world: World) -> None:
    """The mark goes with the next commit that brings the bytes."""
    made = world.save(1, in_bucket=False)
    hurt = digests(made)[0]
    world.hurt(hurt)
    done(world.scrub(world.alone))
    assert world.catalog.blobs.missing([BlobRef(hurt, len(world.elsewhere.blobs[hurt]))]) == [hurt]
    world.catalog.blobs.put(world.catalog.staging, [memoryview(world.elsewhere.blobs[hurt])], set())
    world.catalog.commit_all([made])
    assert world.catalog.index.backup(made.id).damaged_bytes == 0


def test_on_battery_nothing_is_begun(world: World) -> None:
    world.save(1)
    powered, looks = threading.Event(), list[str]()

    def index_faults() -> tuple[str, ...]:
        looks.append("index")
        return ()

    scrub = world.scrub(powered=powered.is_set, index_faults=index_faults)
    scrub.turn()
    assert (scrub.resting, scrub.describe()["state"], looks) == (True, "resting", [])
    assert done(scrub)["state"] == "resting"  # somebody asked for it: it begins on mains power
    assert looks == []
    powered.set()
    scrub.turn()
    until(lambda: scrub.describe()["state"] == "idle")
    assert (scrub.resting, scrub.describe()["sound"], looks) == (False, 3, ["index"])


def test_where_it_stopped_outlives_a_restart(world: World) -> None:
    made = world.save(1, blobs=6)
    powered = threading.Event()
    powered.set()
    count = iter(range(100))

    def steady() -> float:  # each look at the clock is a minute later: the power is looked at before each blob
        at = next(count)
        if at > 8:
            powered.clear()
        return 60.0 * at

    first = world.scrub(steady=steady, powered=powered.is_set, settings=ScrubSettings(1e15, 1e9))
    found = done(first)
    assert found["state"] == "resting"
    assert 0 < found["sound"] < 6
    again = world.scrub()
    assert again.describe()["cursor"] == found["cursor"]
    again.turn()  # what was begun goes on
    until(lambda: again.describe()["state"] == "idle")
    assert again.describe()["sound"] == 6
    assert again.describe()["read_bytes"] == sum(size for size, _ in manifest_blobs(made).values())
    before = again.describe()["began_at"]
    again.turn()  # and the next pass is not due
    assert again.describe()["began_at"] == before
    due = world.scrub(settings=ScrubSettings(1 << 30, 0.0))
    due.turn()
    until(lambda: due.describe()["state"] == "idle")
    assert due.describe()["began_at"] > before


def test_a_rate_of_nothing_is_never_by_itself(world: World) -> None:
    world.save(1)
    scrub = world.scrub(settings=ScrubSettings(0.0, 1.0))
    scrub.turn()
    assert (scrub.describe()["state"], scrub.describe()["began_at"]) == ("off", None)
    assert done(scrub)["sound"] == 3  # but it can be asked for


def test_a_stop_ends_it_in_the_middle_of_a_blob(world: World) -> None:
    world.save(1)
    scrub = world.scrub(settings=ScrubSettings(1.0, 1e9))  # a byte a second
    scrub.begin()
    until(lambda: scrub.describe()["state"] == "running")
    assert not scrub.begin()
    began = time.monotonic()
    scrub.stop()
    assert time.monotonic() - began < 5
    assert not scrub.begin()


def test_a_store_that_vanished_does_not_mark_everything(world: World, tmp_path: Path) -> None:
    for number in range(20):
        world.save(number, in_bucket=False)
    folder = world.daemon.home.store / "blobs"
    folder.rename(tmp_path / "elsewhere")
    scrub = world.scrub(world.alone)
    found = done(scrub)
    assert "look at the disk" in found["trouble"]
    assert found["damaged_blobs"] <= IN_A_ROW
    (tmp_path / "elsewhere").rename(folder)
    assert done(scrub)["damaged_blobs"] == 0


def test_a_crash_behind_the_move_leaves_what_the_next_look_heals(world: World) -> None:
    made = world.save(1)
    hurt = BlobRef(digests(made)[0], len(world.elsewhere.blobs[digests(made)[0]]))
    world.hurt(hurt.digest)
    seen = GentleReader(lambda count: None).examine(world.catalog.blobs.path(hurt.digest), hurt)
    assert world.alone.repair.quarantine.take(hurt.digest, seen.identity)  # and the daemon is killed
    assert world.alone.repair.tidy() == 0
    assert done(world.scrub(world.alone))["damaged"] == 1
    assert world.alone.repair.quarantine.path(hurt.digest).exists()
    assert done(world.scrub())["damaged_blobs"] == 0
    assert world.catalog.blobs.is_sound(hurt)
    assert not world.alone.repair.quarantine.path(hurt.digest).exists()


def test_an_index_that_rots_under_a_daemon_is_told(world: World) -> None:
    for number in range(12):
        world.save(number, in_bucket=False)
    path = world.daemon.home.index
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    raw = bytearray(path.read_bytes())
    raw[8192 : len(raw) - len(raw) % 4096] = os.urandom(len(raw) - len(raw) % 4096 - 8192)
    path.write_bytes(raw)
    world.care.scrub.begin()
    until(lambda: world.care.scrub.trouble is not None)
    assert world.care.scrub.trouble is not None
    assert world.care.scrub.trouble.code == "index-damaged"


def client(world: World, care: Care) -> Any:
    from test_bring_back import Client

    return Client(world.daemon, care=care)


def verified(call: Any, ref: str | None) -> dict[str, Any]:
    run = call("POST", "/v1/verify", json={"ref": ref})
    until(lambda: call("GET", f"/v1/verify/{run['id']}")["state"] != "running")
    found: dict[str, Any] = call("GET", f"/v1/verify/{run['id']}")
    return found


def test_verify_says_what_can_still_be_restored(world: World) -> None:
    whole, hurt = world.save(1, in_bucket=False), world.save(2, in_bucket=False)
    world.hurt(digests(hurt)[0])
    call = client(world, world.alone)
    found = verified(call, whole.id)
    assert (found["state"], found["blobs"], found["backups"][0]["state"]) == ("done", 3, "sound")
    found = verified(call, None)
    assert (found["blobs"], found["damaged"]) == (6, 1)
    (backup,) = found["backups"]
    assert (backup["id"], backup["state"], backup["mode"], backup["missing"]) == (hurt.id, "damaged", "text-only", 1)
    assert backup["layers"]["vision_cache"][0] == "drop"
    assert backup["layers"]["text_context"][0] == "reuse"
    again = verified(call, hurt.id)  # by itself, and what is damaged already is told again
    assert again["backups"] == [backup]
    assert again["damaged"] == 0


def test_verify_heals_and_knows_what_the_bucket_has(world: World) -> None:
    made = world.save(1)
    world.hurt(digests(made)[0])
    call = client(world, world.care)
    found = verified(call, "s")
    assert (found["healed"], found["damaged"], found["backups"][0]["state"]) == (1, 0, "sound")


def test_a_damaged_manifest_is_healed_from_its_record_or_told(world: World) -> None:
    made, other = world.save(1), world.save(2)
    path, before = world.catalog.manifests.path(made.id), world.catalog.manifest_json(made.id)
    path.write_bytes(path.read_bytes()[:-9] + b"damaged!!")
    world.catalog.manifests.path(other.id).unlink()
    alone = verified(client(world, world.alone), None)
    assert [(each["id"], each["mode"]) for each in alone["backups"]] == [(other.id, "refuse"), (made.id, "refuse")]
    assert done(world.scrub(world.alone))["damaged"] == 2
    assert len(world.events("manifest-damaged")) == 2  # each once
    found = done(world.scrub(settings=ScrubSettings(0.0, 0.0)))
    assert (found["healed"], found["damaged"]) == (2, 0)
    assert world.catalog.manifest_json(made.id) == before
    assert verified(client(world, world.care), None)["backups"] == []
    path.write_bytes(b"")
    assert verified(client(world, world.care), made.id)["healed"] == 1
    world.catalog.remove(other.id)
    assert world.care.manifests.look(other.id) == "gone"


def test_a_file_that_the_collector_misses_is_healed(world: World) -> None:
    """The collector compares names, and finds within a day what the scrub would find in a month."""
    made = world.save(1)
    lost, trashed, rotten = digests(made)
    world.catalog.blobs.path(lost).unlink()
    assert Garbage(world.catalog, grace_s=1e9).collect().gone == 1
    assert world.catalog.index.backup(made.id).damaged_bytes == len(world.elsewhere.blobs[lost])
    assert done(world.scrub())["damaged_blobs"] == 0
    for digest in (trashed, rotten):
        seen_ns = world.catalog.blobs.path(digest).stat().st_mtime_ns
        assert world.catalog.trash.throw(digest, seen_ns, time.time())
    world.catalog.trash.path(rotten).write_bytes(os.urandom(len(world.elsewhere.blobs[rotten])))
    found = done(world.scrub(settings=ScrubSettings(0.0, 0.0)))
    assert found["damaged_blobs"] == 0
    for digest in digests(made):
        assert world.catalog.blobs.path(digest).read_bytes() == world.elsewhere.blobs[digest]


def test_verify_refuses_what_is_not_there_and_a_second_one(world: World) -> None:
    made = world.save(1)
    call = client(world, world.care)
    for wrong in ("01M81P35719XNDZ4R57NMV9999", "nobody"):
        with pytest.raises((BackupNotFound, NotFound)):
            call("POST", "/v1/verify", json={"ref": wrong})
    with pytest.raises(NotFound):
        call("GET", "/v1/verify/none")
    world.hurt(digests(made)[0])
    held = world.care.verifier._catalog.locked()
    with held:  # what it finds damaged waits for the lock
        run = call("POST", "/v1/verify", json={"ref": None})
        with pytest.raises(Conflict):
            call("POST", "/v1/verify", json={"ref": None})
        assert call("DELETE", f"/v1/verify/{run['id']}")["state"] == "running"
    until(lambda: call("GET", f"/v1/verify/{run['id']}")["state"] == "cancelled")
    assert call("POST", "/v1/scrub")["began"]
    until(lambda: call("GET", "/v1/scrub")["state"] == "idle")


def test_quarantine_is_tidied_when_nobody_needs_the_blob(world: World) -> None:
    made = world.save(1, in_bucket=False)
    world.hurt(digests(made)[0])
    done(world.scrub(world.alone))
    assert world.alone.repair.tidy() == 0
    world.catalog.remove(made.id)
    assert world.alone.repair.tidy() == 1
