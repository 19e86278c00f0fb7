"""The queue in SQLite: its order, leases, failures, and what is derived again when it was lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.manifests import manifest
from support.pumping import MIB, add, backup_id
from torpor.codec import manifest_file
from torpor.db.derive import Derived, derive
from torpor.db.index import Index
from torpor.db.outbox import OutboxTable
from torpor.db.records import record_of
from torpor.db.remote import RemoteIndex, Uploads
from torpor.state.backup import Backup
from torpor.state.outbox import LONGEST_DELAY_S, Stage, stage_sizes
from torpor.state.remote import RemoteObject, RemoteRecord

ME, OTHER = "0" * 16, "f" * 16


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path / "index.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def outbox(index: Index) -> OutboxTable:
    return OutboxTable(index)


def leased(outbox: OutboxTable, now: float = 100.0) -> list[tuple[str, Stage | None]]:
    items = outbox.lease(now, "me", now + 600)
    return [(item.backup_id[-4:], item.stage) for item in items]


def drain(outbox: OutboxTable, now: float = 100.0) -> list[list[tuple[str, Stage | None]]]:
    found = []
    while items := outbox.lease(now, "me", now + 600):
        found.append([(item.backup_id[-1:], item.stage) for item in items])
        outbox.finish(item.id for item in items)
    return found


def test_text_of_all_goes_before_media_and_kv_newest_session_first(index: Index, outbox: OutboxTable) -> None:
    big = {"media": 20 * MIB, "kv_cache": 90 * MIB}
    add(index, 1, "old", 1.0, big)
    add(index, 2, "new", 2.0, big)
    add(index, 3, "new", 3.0, big)
    assert drain(outbox) == [[(number, stage)] for stage in ("text", "media", "kv") for number in ("3", "2", "1")]


def test_a_session_is_as_new_as_its_newest_backup(index: Index, outbox: OutboxTable) -> None:
    add(index, 1, "a", 1.0, {})
    add(index, 2, "b", 2.0, {})
    add(index, 3, "a", 3.0, {})
    assert drain(outbox) == [[("3", "text")], [("1", "text")], [("2", "text")]]


def test_small_stages_of_a_backup_go_together(index: Index, outbox: OutboxTable) -> None:
    add(index, 1, "s", 1.0, {"tokens": MIB, "media": 3 * MIB, "vision_cache": 3 * MIB, "kv_cache": 2 * MIB})
    assert leased(outbox) == [("0001", "text"), ("0001", "media"), ("0001", "vision")]
    assert leased(outbox) == [("0001", "kv")]
    assert leased(outbox) == []


def test_a_removal_goes_behind_all_texts(index: Index, outbox: OutboxTable) -> None:
    add(index, 1, "s", 1.0, {"kv_cache": MIB})
    add(index, 2, "t", 2.0, {"media": 20 * MIB})
    index.remove_backup(backup_id(1), purge_at=5.0)
    assert drain(outbox) == [[("2", "text")], [("1", None)], [("2", "media")]]


def test_a_removed_backup_is_not_sent_and_its_purge_is_queued_once(index: Index, outbox: OutboxTable) -> None:
    add(index, 1, "s", 1.0, {})
    index.remove_backup(backup_id(1))
    assert outbox.summary() == []
    add(index, 1, "s", 1.0, {})
    index.remove_backup(backup_id(1), purge_at=5.0)
    assert [(w.stage, w.count) for w in outbox.summary()] == [(None, 1)]
    add(index, 1, "s", 1.0, {})  # it came back, from a file: now it is to be there again
    assert [(w.stage, w.count) for w in outbox.summary()] == [("text", 1)]


def test_a_lease_is_alone_until_it_is_freed_or_over(index: Index, outbox: OutboxTable) -> None:
    add(index, 1, "s", 1.0, {})
    [item] = outbox.lease(100.0, "boot:1", 160.0)
    assert leased(outbox, 159.0) == []
    outbox.renew([item.id], 300.0)
    assert leased(outbox, 200.0) == []
    assert leased(outbox, 300.0) == [("0001", "text")]
    assert outbox.release_all() == 1
    assert leased(outbox, 100.0) == [("0001", "text")]
    outbox.release([item.id])
    assert outbox.lease(100.0, "me", 200.0)[0].attempts == 0


def test_a_failure_waits_and_a_dead_item_is_asked_for(index: Index, outbox: OutboxTable) -> None:
    add(index, 1, "s", 1.0, {})
    [item] = outbox.lease(100.0, "me", 200.0)
    outbox.fail(item.id, "failed", "500", 130.0)
    assert leased(outbox, 129.0) == []
    assert outbox.next_due() == 130.0
    [again] = outbox.lease(130.0, "me", 200.0)
    assert again.attempts == 1
    outbox.fail(item.id, "permanent", "a blob is damaged", None)
    assert leased(outbox, 1e9) == []
    assert outbox.next_due() is None
    [dead] = outbox.entries("dead", 10)
    assert (dead.error_class, dead.error, dead.item.attempts) == ("permanent", "a blob is damaged", 2)
    assert outbox.retry(200.0, [item.id + 1]) == 0
    assert outbox.retry(200.0) == 1
    assert outbox.lease(200.0, "me", 300.0)[0].attempts == 0


def test_a_clock_that_is_set_back_postpones_nothing(index: Index, outbox: OutboxTable) -> None:
    add(index, 1, "s", 1.0, {})
    [item] = outbox.lease(1e9, "me", 1e9 + 60)
    outbox.fail(item.id, "failed", "500", 1e9 + 60)
    assert leased(outbox, 1e9 + 60 - LONGEST_DELAY_S / 2) == []
    assert leased(outbox, 1e9 - 86_400) == [("0001", "text")]


def test_a_poison_item_does_not_hold_up_the_rest(index: Index, outbox: OutboxTable) -> None:
    add(index, 1, "a", 1.0, {})
    add(index, 2, "b", 2.0, {})
    [item] = outbox.lease(100.0, "me", 200.0)
    outbox.fail(item.id, "failed", "again", 101.0)
    assert leased(outbox) == [("0001", "text")]


def test_held_items_wait_for_the_policy(index: Index, outbox: OutboxTable) -> None:
    add(index, 1, "s", 1.0, {"kv_cache": 90 * MIB})
    drain_text = outbox.lease(100.0, "me", 200.0)
    outbox.finish(item.id for item in drain_text)
    [kv] = outbox.lease(100.0, "me", 200.0)
    outbox.hold(kv.id, "sooner computed than fetched")
    assert leased(outbox) == []
    assert [entry.error for entry in outbox.of_backups([backup_id(1)])[backup_id(1)]] == [
        "sooner computed than fetched"
    ]
    assert outbox.reconsider() == 1
    assert leased(outbox) == [("0001", "kv")]


def test_hasten_makes_what_waits_due(index: Index, outbox: OutboxTable) -> None:
    add(index, 1, "s", 1.0, {})
    [item] = outbox.lease(100.0, "me", 200.0)
    outbox.fail(item.id, "failed", "500", 500.0)
    outbox.hasten(101.0)
    assert (outbox.first_priority(101.0), leased(outbox, 101.0)) == (0, [("0001", "text")])


def test_a_session_that_stays_here_is_never_queued(index: Index, outbox: OutboxTable) -> None:
    add(index, 1, "s", 1.0, {}, no_sync=True)
    assert outbox.summary() == []
    add(index, 2, "t", 1.0, {})
    assert index.set_no_sync("t", True)
    assert outbox.summary() == []
    assert derive(index, ME, 9.0) == Derived(0, 0)
    assert index.set_no_sync("t", False)
    assert derive(index, ME, 9.0, "t") == Derived(1, 0)
    assert not index.set_no_sync("unheard", True)


# -- what is known of the bucket ------------------------------------------------------------------------------------


def known(index: Index) -> RemoteIndex:
    def describe(record: RemoteRecord) -> Backup:
        made = manifest_file.load(record.manifest)
        return record_of(made, manifest_digest="d" * 64, manifest_bytes=9, pinned=record.pinned, expires_at=None)

    return RemoteIndex(index, describe)


def an_object(digest: str, upload: str) -> RemoteObject:
    return RemoteObject(digest, 5, f"blobs/{digest[:2]}/{digest}.{upload:0>26}", 4)


def a_record(
    number: int, machine: str, stages: tuple[Stage, ...], objects: tuple[RemoteObject, ...] = ()
) -> RemoteRecord:
    made = manifest(id=backup_id(number), session_id="s")
    named = {found.digest: found for found in objects}
    return RemoteRecord(made.id, machine, 1, 5.0, manifest_file.dump(made), named, stages)


def test_the_outbox_is_derived_again(index: Index, outbox: OutboxTable) -> None:
    sizes = {"media": 5, "kv_cache": 7}
    for number in (1, 2, 3):
        add(index, number, "s", 1.0, sizes, enqueue=False)
    remote = known(index)
    remote.note_record("manifests/a", a_record(1, ME, ("text", "media")), checked=True)
    remote.note_record("manifests/b", a_record(2, ME, ("text", "media", "kv")), checked=False)
    remote.note_record("manifests/c", a_record(3, OTHER, ("text", "media", "kv")), checked=False)
    assert derive(index, ME, 9.0) == Derived(4, 0)
    waiting = {
        name: [e.item.stage for e in found] for name, found in outbox.of_backups(map(backup_id, (1, 2, 3))).items()
    }
    assert waiting == {backup_id(1): ["kv"], backup_id(2): ["text", "media", "kv"]}
    assert derive(index, ME, 9.0) == Derived(0, 0)
    remote.note_record("manifests/b", a_record(2, ME, ("text", "media", "kv")), checked=True)
    assert derive(index, ME, 9.0) == Derived(0, 3)
    assert [entry.item.size_bytes for entry in outbox.entries("pending", 9)] == [7]


def test_what_is_not_here_whole_is_not_derived(index: Index, outbox: OutboxTable) -> None:
    add(index, 1, "s", 1.0, {"media": 5, "kv_cache": 7}, enqueue=False)
    with index.writing() as connection:
        connection.exec_driver_sql("UPDATE blobs SET present = 0 WHERE layer = 'kv_cache'")
    derive(index, ME, 9.0)
    assert [entry.item.stage for entry in outbox.entries("pending", 9)] == ["text", "media"]


def test_every_layer_has_its_stage() -> None:
    assert stage_sizes((), {}) == {"text": 0}
    found = stage_sizes(
        ("metadata", "kv_cache"), {"a": (1, "kv_cache"), "b": (2, "tokens"), "c": (3, "media"), "d": (4, "kv_cache")}
    )
    assert list(found.items()) == [("text", 2), ("media", 3), ("kv", 5)]
    assert stage_sizes(("vision_cache",), {}) == {"text": 0, "vision": 0}  # it lies in the manifest


def test_objects_are_found_by_digest_the_newest_first(index: Index) -> None:
    remote = known(index)
    old, new = an_object("a" * 64, "1"), an_object("a" * 64, "2")
    remote.note_objects([new, old, new])
    assert remote.objects(["a" * 64, "b" * 64]) == {"a" * 64: new}
    assert remote.every_object("a" * 64) == [new, old]
    remote.forget_objects([new.name])
    assert remote.objects(["a" * 64]) == {"a" * 64: old}
    remote.note_record("manifests/a", a_record(1, ME, ("text",), (old,)), checked=True)
    remote.forget_objects([old.name])  # it may be there again in a minute: the record still names it
    assert remote.objects(["a" * 64]) == {"a" * 64: old}


def test_a_record_is_replaced_and_forgotten_with_what_it_alone_names(index: Index) -> None:
    remote = known(index)
    own, shared, loose = an_object("a" * 64, "1"), an_object("b" * 64, "1"), an_object("c" * 64, "1")
    remote.note_objects([loose])  # uploaded, and not committed yet
    remote.note_record("manifests/a", a_record(1, ME, ("text",), (own, shared)), checked=False)
    remote.note_record("manifests/b", a_record(2, OTHER, ("text",), (shared,)), checked=False)
    remote.note_record("manifests/a", a_record(1, ME, ("text", "kv"), (own, shared)), checked=True)
    assert remote.records_of(backup_id(1)) == {"manifests/a": True}
    [record] = remote.known([backup_id(1)])[backup_id(1)]
    assert (record.stages, record.machine, record.backup.id) == (("text", "kv"), ME, backup_id(1))
    remote.forget_records(["manifests/a"])
    assert remote.record_names() == {"manifests/b"}
    assert set(remote.objects(["a" * 64, "b" * 64, "c" * 64])) == {"b" * 64, "c" * 64}
    remote.forget_everything()
    assert remote.record_names() == set()


def test_parts_of_an_upload_outlive_a_restart(index: Index, tmp_path: Path) -> None:
    times = iter([1.0, 2.0])
    journal = Uploads(index, lambda: next(times))
    journal.begun("x", "a" * 64, "id-1", 64 * MIB)
    journal.begun("y", "a" * 64, "id-2", 64 * MIB)
    journal.done("x", 2, '"two"')
    journal.done("x", 1, '"one"')
    again = Uploads(Index(tmp_path / "index.sqlite"), lambda: 3.0)
    parts = again.read("x")
    assert parts is not None
    assert (parts.upload_id, parts.part_bytes, dict(parts.etags)) == ("id-1", 64 * MIB, {1: '"one"', 2: '"two"'})
    assert again.of_digest("a" * 64) == "y"
    again.forget("y")
    again.done("y", 1, "late")
    assert (again.read("y"), again.of_digest("a" * 64), again.of_digest("b" * 64)) == (None, "x", None)
    again._index.close()
