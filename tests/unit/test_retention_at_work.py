"""Retention over a real store and index: what goes, what stays, and what happens meanwhile."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from support.kept import BLOCK_BYTES, DAY_S, MACHINE, Kept
from torpor.daemon.index_care import settle_index
from torpor.daemon.keeping import keep_backup, keep_session, note_used
from torpor.daemon.reconcile import Reconciled, reconcile
from torpor.state.errors import StoreFailed
from torpor.state.manifest import BlobRef

WEEK_S = 7 * DAY_S


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.close()


@pytest.fixture
def synced(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path, bucket=True)
    yield made
    made.close()


def test_what_is_over_goes_and_the_newest_keeps_its_text(kept: Kept) -> None:
    old, new = kept.save(), kept.save(vision=b"v" * 300, media=b"m" * 300)
    assert kept.retention.run().removed == 0
    kept.wait(WEEK_S)
    foretold = kept.retention.run(dry_run=True)
    assert kept.here(old)["kv"]
    report = kept.retention.run()
    assert (report.removed, report.dropped) == (foretold.removed, foretold.dropped) == (1, 1)
    assert [row["what"] for row in report.actions] == [row["what"] for row in foretold.actions] == ["remove", "drop"]
    assert kept.ids() == [new.id]
    assert kept.here(new) == {"text": True, "media": True, "vision": False, "kv": False}
    assert not kept.here(old)["kv"]
    assert foretold.freed_bytes == report.freed_bytes + 300  # text and tokens of the old one wait for the collector
    row = kept.catalog.index.backup(new.id)
    assert (row.dropped_at, row.absent_bytes) == (kept.now, BLOCK_BYTES + 300)
    again = kept.retention.run()
    assert (again.removed, again.dropped, again.freed_bytes) == (0, 0, 0)


def test_what_waits_for_the_bucket_waits_for_it_with_s3_off_as_well(synced: Kept) -> None:
    """A daemon that was started without its settings, once, must not remove what nobody else has."""
    waits, sent, _ = synced.save(), synced.save(), synced.save()
    synced.synced(sent, "text")
    synced.on = False
    synced.wait(WEEK_S)
    synced.retention.run()
    assert synced.here(waits) == {"text": True, "kv": False}
    assert waits.id in synced.ids()
    assert sent.id not in synced.ids()


def test_one_that_cannot_be_removed_keeps_no_other(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, old, new = kept.save(kv=0), kept.save(kv=0), kept.save(kv=0)
    real = kept.catalog.manifests.remove

    def fail(backup_id: str) -> None:
        if backup_id == stuck.id:
            raise StoreFailed("the disk fails")
        real(backup_id)

    monkeypatch.setattr(kept.catalog.manifests, "remove", fail)
    kept.wait(WEEK_S)
    assert kept.retention.run().removed == 1
    assert kept.ids() == [stuck.id, new.id]
    assert old.id not in kept.ids()


def test_what_a_kept_backup_names_stays(kept: Kept) -> None:
    shared = os.urandom(BLOCK_BYTES)
    old, new = kept.save(kv=[shared, os.urandom(BLOCK_BYTES)]), kept.save("other", kv=[shared])
    keep_backup(kept.catalog, new.id, 100 * DAY_S)
    kept.wait(WEEK_S)
    assert kept.retention.run().freed_bytes == BLOCK_BYTES
    assert kept.here(new) == {"text": True, "kv": True}
    assert not kept.here(old)["kv"]


def test_text_waits_for_s3_and_what_waits_of_the_kv_cache_leaves_the_queue(synced: Kept) -> None:
    old, new = synced.save(vision=b"v" * 300, media=b"m" * 300), synced.save(kv=0)
    assert (old.id, "kv") in synced.waiting()
    synced.wait(WEEK_S)
    assert [each["what"] for each in synced.retention.run().actions] == ["drop"]
    assert synced.here(old) == {"text": True, "media": True, "vision": False, "kv": False}
    assert synced.waiting() == {(old.id, "text"), (old.id, "media"), (new.id, "text")}
    synced.synced(old, "text")
    assert synced.retention.run().actions == []  # the media wait
    synced.synced(old, "text", "media", checked=False)
    assert synced.retention.run().actions == []
    synced.synced(old, "text", "media")
    assert [each["what"] for each in synced.retention.run().actions] == ["remove"]
    assert synced.ids() == [new.id]


def test_without_s3_for_a_session_its_text_lives_out_its_ttl(synced: Kept) -> None:
    old, new = synced.save(), synced.save()
    synced.catalog.set_no_sync("s", True)
    synced.wait(WEEK_S)
    assert synced.retention.run().removed == 1
    assert synced.ids() == [new.id]
    assert not synced.here(old)["kv"]


def test_another_bucket_than_the_one_that_had_it_does_not_count(synced: Kept) -> None:
    old = synced.save()
    synced.save()
    synced.synced(old)
    synced.known.forget_everything()
    synced.wait(WEEK_S)
    report = synced.retention.run()
    assert (report.removed, report.dropped) == (0, 2)


def test_a_kv_cache_that_is_being_sent_stays_until_it_was(synced: Kept) -> None:
    old = synced.save()
    synced.save(kv=0)
    synced.wait(WEEK_S)
    with synced.catalog.index.writing() as connection:
        connection.exec_driver_sql("UPDATE outbox SET state = 'leased' WHERE stage = 'kv'")
    assert synced.retention.run().dropped == 0
    assert synced.here(old)["kv"]
    assert synced.catalog.sidecars.read("s").dropped_at == {}
    with synced.catalog.index.writing() as connection:
        connection.exec_driver_sql("UPDATE outbox SET state = 'pending'")
    assert synced.retention.run().dropped == 1


def test_pins_ttls_and_numbers_of_a_session_and_they_outlive_the_index(kept: Kept) -> None:
    a, b, c = (kept.save() for _ in range(3))
    other = kept.save("t")
    kept.catalog.set_pinned(a.id, True)
    row = keep_session(kept.catalog, "s", ttl_s=DAY_S, keep_newest=1)
    assert row.expires_at == pytest.approx(c.created_at + DAY_S)
    keep_backup(kept.catalog, other.id, DAY_S / 2)
    kept.wait(DAY_S)
    sidecar = kept.catalog.sidecars.read("s")
    assert (sidecar.ttl_s, sidecar.keep_newest) == (DAY_S, 1)
    assert [each["backup_id"] for each in kept.retention.run().actions] == [b.id, other.id]
    assert kept.here(a)["kv"]
    assert kept.here(c)["kv"]
    assert kept.catalog.sidecars.read("t").dropped_at == {other.id: kept.now}
    keep_session(kept.catalog, "s", ttl_s=None, keep_newest=None)
    assert kept.catalog.index.backup(c.id).expires_at == pytest.approx(c.created_at + WEEK_S)


@pytest.mark.parametrize("jump_s", [10 * 365 * DAY_S, -10 * 365 * DAY_S, 20 * DAY_S])
def test_a_clock_that_jumps_deletes_nothing(kept: Kept, jump_s: float) -> None:
    before = [kept.save(), kept.save()]
    kept.wait(60.0)
    kept.now += jump_s
    report = kept.retention.run()
    assert report.distrust is not None
    assert (report.removed, report.dropped) == (0, 0)
    during = [kept.save(), kept.save()]
    kept.wait(DAY_S)
    assert kept.retention.run().removed == 0
    kept.now -= jump_s
    report = kept.retention.run()
    assert (report.distrust, report.removed, report.dropped) == (None, 0, 0)
    assert kept.ids() == [each.id for each in (*before, *during)]
    kept.wait(WEEK_S)  # now it has really passed
    kept.save()
    assert kept.retention.run().removed == (3 if jump_s > 0 else 4)  # the one from the future is the newest as well


def test_a_jump_over_a_restart_and_what_the_user_says(kept: Kept) -> None:
    kept.save()
    kept.save()
    assert kept.retention.run().distrust is None
    kept.now += 400 * DAY_S
    kept.up_s = 5.0
    report = kept.retention.run()
    assert (report.distrust is not None, report.removed, report.dropped) == (True, 0, 0)
    report = kept.retention.run(believe_clock=True)
    assert (report.distrust, report.removed, report.dropped) == (None, 1, 1)


def test_what_is_restored_stays_and_what_the_bucket_has_is_wanted_again(synced: Kept) -> None:
    old, new = synced.save(), synced.save()
    synced.synced(new)
    synced.wait(WEEK_S)
    note_used(synced.catalog, [old.id], MACHINE)
    assert [each["backup_id"] for each in synced.retention.run().actions] == [new.id]
    note_used(synced.catalog, [new.id], MACHINE)
    row = synced.catalog.index.backup(new.id)
    assert (row.dropped_at, row.used_at) == (None, synced.now)
    assert synced.catalog.sidecars.read("s").dropped_at == {}
    assert synced.retention.run().actions == []
    synced.retention.in_use.note([old.id])
    synced.wait(60.0)
    with synced.catalog.index.writing() as connection:
        connection.exec_driver_sql("UPDATE backups SET used_at = created_at")
    assert [each["backup_id"] for each in synced.retention.run().actions] == [new.id]


def test_what_a_crash_left_is_found_again(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    old = kept.save()
    kept.save()
    kept.wait(WEEK_S)

    def killed(name: str) -> None:
        if name == "letting-go.noted":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(type(kept.catalog), "checkpoint", property(lambda _: killed))
        with pytest.raises(KeyboardInterrupt):
            kept.retention.run()
    reconcile(kept.catalog)
    settle_index(kept.catalog, None, Reconciled(0, 0, 0, 0))
    path = kept.catalog.blobs.path(old.kv_cache.blocks[0].digest)  # type: ignore[union-attr]
    assert path.exists()
    assert kept.retention.run().removed == 1


def test_retention_never_holds_up_a_save(kept: Kept) -> None:
    """Between two steps anything may come: here a backup that names what is just being let go of."""
    blocks = [os.urandom(BLOCK_BYTES) for _ in range(100)]
    old, new = kept.save(kv=blocks), kept.save(kv=0)
    kept.wait(WEEK_S)
    saved = []

    def meanwhile(seconds: float) -> None:
        if not saved:
            left = [block for block in blocks if kept.catalog.blobs.has(kept_ref(block))]
            assert 0 < len(left) < 100
            saved.append(kept.save("t", kv=blocks))  # writes again what has gone already

    def kept_ref(block: bytes) -> BlobRef:
        return BlobRef(blake3(block).hexdigest(), len(block))

    kept.retention._letting_go._sleep = meanwhile
    report = kept.retention.run()
    assert report.removed == 1
    assert kept.here(saved[0]) == {"text": True, "kv": True}
    assert kept.ids() == [new.id, saved[0].id]
    del old


def test_a_manifest_that_vanished_is_told_from_one_that_was_removed(kept: Kept) -> None:
    removed, vanished, _ = kept.save(), kept.save(), kept.save()
    path = kept.catalog.manifests.path(removed.id)
    path.rename(kept.home.store / "trash" / path.name)  # a removal that was cut off
    kept.catalog.manifests.path(vanished.id).unlink()
    assert reconcile(kept.catalog).dropped == 2
    [told] = [event for event in kept.catalog.index.recent_events() if event["kind"] == "manifests-gone"]
    assert vanished.id in told["detail"]
    assert removed.id not in told["detail"]
