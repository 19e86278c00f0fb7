"""Room is made out of a real store: in its order, and never of what only this machine has and nothing can rebuild."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kept import BLOCK_BYTES, DAY_S, MACHINE, Kept
from torpor.daemon.garbage import Garbage
from torpor.daemon.keeping import note_used
from torpor.db import eviction
from torpor.db.presence import note_present
from torpor.state.errors import MissingBlobs
from torpor.state.manifest import REBUILDABLE, Manifest, layer_blobs
from torpor.state.outbox import Stage, stage_of

ALL = 1 << 40


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path, bucket=True)
    yield made
    made.close()


def block() -> bytes:
    return os.urandom(BLOCK_BYTES)


def everything(kept: Kept) -> int:
    """Make as much room as there is."""
    kept.retention.excess_with(lambda: ALL)
    freed = kept.retention.run().freed_bytes
    kept.retention.excess_with(lambda: 0)
    return freed


def test_what_the_bucket_has_goes_first_and_text_that_only_this_machine_has_never(kept: Kept) -> None:
    local, there = kept.save("a", vision=b"v" * 500, media=b"m" * 500), kept.save("b", media=b"n" * 500)
    kept.synced(there)
    assert kept.retention.make_room(1) > 0
    assert kept.here(local) == {"text": True, "media": True, "vision": True, "kv": True}
    everything(kept)
    assert kept.here(local) == {"text": True, "media": True, "vision": False, "kv": False}
    assert kept.here(there) == {"text": False, "media": False, "kv": False}
    rows = kept.catalog.index
    assert rows.backup(local.id).dropped_at == kept.now
    assert rows.backup(there.id).dropped_at is None  # it can be fetched, all of it
    assert kept.waiting() == {(local.id, "text"), (local.id, "media")}


def test_least_recently_used_first_then_the_newest_then_pins(kept: Kept) -> None:
    a1, a2, b1, b2, c = (kept.save(session) for session in ("a", "a", "b", "b", "c"))
    kept.catalog.set_pinned(a1.id, True)
    note_used(kept.catalog, [b1.id], MACHINE)
    kept.wait(1.0)
    note_used(kept.catalog, [a2.id], MACHINE)
    order = []
    while kept.retention.make_room(BLOCK_BYTES):
        gone = {each.id for each in (a1, a2, b1, b2, c) if not kept.here(each)["kv"]}
        order += sorted(gone - set(order))
    assert order == [b1.id, b2.id, c.id, a2.id, a1.id]


def test_the_newest_kv_cache_of_a_session_stays_though_pages_save_text_behind_it(kept: Kept) -> None:
    earlier, awake = kept.save("a"), kept.save("a")
    kept.wait(1.0)
    idle = kept.save("b")
    kept.save("a", kv=[])
    assert kept.retention.make_room(BLOCK_BYTES) > 0
    assert [kept.here(each)["kv"] for each in (earlier, awake, idle)] == [False, True, True]
    kept.wait(1.0)
    note_used(kept.catalog, [awake.id], MACHINE)
    assert kept.retention.make_room(BLOCK_BYTES) > 0
    assert [kept.here(each)["kv"] for each in (awake, idle)] == [True, False]


def test_what_nobody_needs_goes_before_anything_that_somebody_may_want(kept: Kept) -> None:
    garbage, freed = Garbage(kept.catalog, grace_s=-1.0), list[int]()
    kept.retention.reclaim_with(garbage.reclaim)
    kept.retention.excess_with(lambda: 0, unlinking=lambda: nullcontext(freed.append))
    removed, wanted = kept.save("a"), kept.save("b")
    kept.catalog.remove(removed.id)
    garbage.collect()
    assert kept.retention.make_room(BLOCK_BYTES + 300) == BLOCK_BYTES + 300  # with its text and tokens
    assert kept.here(wanted)["kv"]
    assert freed == [BLOCK_BYTES + 300]
    assert kept.retention.make_room(BLOCK_BYTES) == BLOCK_BYTES
    assert not kept.here(wanted)["kv"]


def test_what_is_needed_again_is_not_reclaimed(kept: Kept) -> None:
    block_of_both = block()
    garbage = Garbage(kept.catalog, grace_s=-1.0)
    removed = kept.save("a", kv=[block_of_both])
    kept.catalog.remove(removed.id)
    garbage.collect()
    again = kept.save("b", kv=[block_of_both])
    garbage.reclaim(ALL)
    assert kept.here(again) == {"text": True, "kv": True}


def test_nothing_goes_when_all_of_it_is_not_enough(kept: Kept) -> None:
    made = kept.save()
    assert kept.retention.make_room(BLOCK_BYTES + 1) == 0
    assert kept.here(made)["kv"]
    assert kept.retention.make_room(BLOCK_BYTES) == BLOCK_BYTES


def test_a_shared_block_goes_with_the_last_that_names_it(kept: Kept) -> None:
    one, two, three = block(), block(), block()
    first, second = kept.save("a", kv=[one, two]), kept.save("b", kv=[one, three])
    kept.retention.make_room(1)
    assert kept.here(second)["kv"]
    assert kept.catalog.index.backup(first.id).absent_bytes == BLOCK_BYTES
    kept.retention.make_room(2 * BLOCK_BYTES)
    assert not kept.here(second)["kv"]


def test_embeddings_that_are_a_picture_of_another_backup_stay(kept: Kept) -> None:
    same = b"the same bytes" * 50
    kept.save("a", vision=same, media=b"of it")
    picture = kept.save("b", media=same)
    kept.save("c", vision=same, media=b"of it")
    everything(kept)
    assert kept.here(picture) == {"text": True, "media": True, "kv": False}


def test_embeddings_without_their_pictures_stay_until_the_bucket_has_them(kept: Kept) -> None:
    """A plain state has no pictures: without its embeddings it is refused."""
    same = b"all that is left" * 50
    lone, other = kept.save("a", vision=same), kept.save("b", vision=same, media=b"m" * 500)
    kept.synced(lone, "text", "kv")
    kept.synced(other)
    kept.wait(7 * DAY_S)
    everything(kept)
    assert kept.here(lone) == {"text": True, "vision": True, "kv": False}
    assert (lone.id, "vision") in kept.waiting()
    newer = kept.save("a", kv=0)
    assert kept.retention.run().removed == 0  # it waits for S3
    kept.synced(lone, "vision")
    everything(kept)
    assert not kept.here(lone)["vision"]
    assert newer.id in kept.ids()
    assert lone.id not in kept.ids()


def test_text_in_the_bucket_stays_while_another_backup_of_it_is_not_there(kept: Kept) -> None:
    """The one that is there may be taken out of the bucket; then the other one's text must still be here."""
    shared = b"the same text" * 20
    there, local = kept.save("a", text=shared, kv=0), kept.save("b", text=shared, kv=0)
    kept.synced(there)
    everything(kept)
    assert kept.here(local) == {"text": True}
    kept.synced(local)
    everything(kept)
    assert kept.here(local) == {"text": False}


@pytest.mark.parametrize(
    ("checked", "machine", "goes"), [(True, MACHINE, True), (False, MACHINE, False), (False, "b" * 16, True)]
)
def test_only_what_was_checked_is_in_the_bucket(kept: Kept, checked: bool, machine: str, goes: bool) -> None:
    made = kept.save(kv=0)
    kept.synced(made, checked=checked, machine=machine)
    everything(kept)
    assert kept.here(made) == {"text": not goes}


def test_with_s3_off_nothing_is_in_the_bucket(kept: Kept) -> None:
    made = kept.save()
    kept.synced(made)
    kept.on = False
    everything(kept)
    assert kept.here(made) == {"text": True, "kv": False}


def test_what_a_bucket_had_counts_only_once_it_was_seen(kept: Kept) -> None:
    """It may be another one by now, or an empty one."""
    there, newer = kept.save(media=b"m" * 500), kept.save()
    kept.synced(there)
    kept.seen = False
    kept.wait(7 * DAY_S)
    everything(kept)
    assert kept.here(there) == {"text": True, "media": True, "kv": False}
    assert kept.ids() == [there.id, newer.id]
    kept.seen = True
    everything(kept)
    assert kept.ids() == [newer.id]


def test_what_is_being_restored_and_what_a_save_counts_on_stay(kept: Kept) -> None:
    restored, counted, other = kept.save("a"), kept.save("b"), kept.save("c")
    kept.retention.in_use.note([restored.id])
    assert kept.retention.make_room(BLOCK_BYTES, session_id="b") == BLOCK_BYTES
    assert kept.retention.make_room(BLOCK_BYTES, session_id="b") == 0
    assert [kept.here(each)["kv"] for each in (restored, counted, other)] == [True, True, False]


def test_what_happens_after_the_plan_counts(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    shared, own = block(), block()
    made = kept.save("a", kv=[shared])
    pinned, sent = kept.save("b"), kept.save("c")
    plan = kept.retention._plan_eviction

    def then(*args: object, **options: object) -> object:
        found = plan(*args, **options)  # type: ignore[arg-type]
        kept.save("d", kv=[shared, own])
        kept.catalog.set_pinned(pinned.id, True)
        with kept.catalog.index.writing() as connection:
            connection.exec_driver_sql("UPDATE outbox SET state = 'leased' WHERE backup_id = ?", (sent.id,))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(kept.retention, "_plan_eviction", then)
        assert everything(kept) == 0
    assert all(kept.here(each)["kv"] for each in (made, pinned, sent))


def test_a_save_that_counts_on_an_evicted_block_is_told(kept: Kept) -> None:
    shared = block()
    kept.save("a", kv=[shared])
    everything(kept)
    unread = kept.save("b", kv=[shared])  # written again: this one puts its blobs
    assert kept.here(unread)["kv"]
    everything(kept)
    with pytest.raises(MissingBlobs):
        kept.commit(manifest_of(unread, "01M81P35719XNDZ4R57NMV0099"))


def manifest_of(made: Manifest, new_id: str) -> Manifest:
    return replace(made, id=new_id)


def test_what_a_crash_left_of_a_dropped_one_goes_a_day_later(kept: Kept) -> None:
    made = kept.save()
    everything(kept)
    digest = kept.blob(os.urandom(BLOCK_BYTES)).digest
    assert made.kv_cache is not None
    kept.catalog.blobs.path(digest).rename(kept.catalog.blobs.path(made.kv_cache.blocks[0].digest))
    with kept.catalog.index.writing() as connection:
        note_present(connection, [made.kv_cache.blocks[0].digest])  # as the collector does when it finds the file
    assert kept.retention.run().freed_bytes == 0
    kept.wait(DAY_S)
    assert kept.retention.run().freed_bytes == BLOCK_BYTES
    assert not kept.here(made)["kv"]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    made = Kept(tmp_path_factory.mktemp("kept"), bucket=True)
    yield made
    made.close()


BLOCKS = [bytes([n]) * BLOCK_BYTES for n in range(4)]
PICTURES = [bytes([n]) * 777 for n in range(2)]
saves = st.lists(
    st.tuples(
        st.sampled_from("ab"),
        st.lists(st.sampled_from(BLOCKS), max_size=3, unique=True),
        st.none() | st.sampled_from(PICTURES),
        st.none() | st.sampled_from(PICTURES),
        st.sets(st.sampled_from(["text", "media", "kv", "vision"])),
        st.sampled_from(["", "pinned", "used", "no-sync"]),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=400 if os.environ.get("TORPOR_SOAK") else 12)
@given(saves, st.integers(1, 5 * BLOCK_BYTES), st.booleans())
def test_whatever_was_saved_what_nothing_can_rebuild_stays(
    shared: Kept, made: list[tuple], excess: int, whole: bool
) -> None:  # type: ignore[type-arg]
    """The index's survey against a plain look at every manifest."""
    kept = shared
    manifests: dict[str, tuple[Manifest, set[Stage]]] = {}
    for session, kv, media, vision, there, extra in made:
        each = kept.save(session, kv=kv, media=media, vision=vision)
        stages: set[Stage] = there & set(kept.here(each))  # type: ignore[assignment]
        if stages:
            kept.synced(each, *sorted(stages))
        if extra == "pinned":
            kept.catalog.set_pinned(each.id, True)
        if extra == "used":
            note_used(kept.catalog, [each.id], MACHINE)
        manifests[each.id] = each, stages
    before = present(kept, manifests)
    kept.retention.excess_with(lambda: excess)
    freed = kept.retention.make_room(excess) if whole else kept.retention.run().freed_bytes
    after = present(kept, manifests)
    gone = before.keys() - after.keys()
    assert freed == sum(before[digest] for digest in gone)
    for digest in gone:
        namers = [(each, there) for each, there in manifests.values() if digest in blobs_of(kept, each)]
        layers = {layer for each, _ in namers for layer in blobs_of(kept, each)[digest]}
        if layers - {*REBUILDABLE}:
            assert all(stages_needed(each) <= there for each, there in namers)
        elif "vision_cache" in layers and any(is_lone(each) for each, _ in namers):
            assert all("vision" in there for each, there in namers if is_lone(each))
        elif not any(stage_of(layer) in there for each, there in namers for layer in blobs_of(kept, each)[digest]):
            assert all(kept.catalog.index.backup(each.id).dropped_at is not None for each, _ in namers)
    reachable = may_go(kept, manifests, before)
    assert freed >= min(excess, sum(reachable.values())) or (whole and sum(reachable.values()) < excess)
    assert gone <= reachable.keys()
    for backup_id in manifests:
        kept.catalog.remove(backup_id)
    for digest in list(kept.catalog.blobs.digests()):
        kept.catalog.blobs.path(digest).unlink()


def blobs_of(kept: Kept, made: Manifest) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, tree in made.layers.items():
        for ref in layer_blobs(tree):
            found.setdefault(ref.digest, set()).add(name)
    for ref in made.kv_cache.blocks if made.kv_cache is not None else ():
        found.setdefault(ref.digest, set()).add("kv_cache")
    return found


def stages_needed(made: Manifest) -> set[str]:
    needed = {"text", "media", *(["vision"] if is_lone(made) else [])}
    return needed & {"text", *(stage_of(layer) for layer in made.present_layers())}


def is_lone(made: Manifest) -> bool:
    """Embeddings without their pictures."""
    return "vision_cache" in made.layers and "media" not in made.layers


def may_go(kept: Kept, manifests: dict[str, tuple[Manifest, set[Stage]]], before: dict[str, int]) -> dict[str, int]:
    found = {}
    for digest, size in before.items():
        namers = [(each, there) for each, there in manifests.values() if digest in blobs_of(kept, each)]
        layers = {layer for each, _ in namers for layer in blobs_of(kept, each)[digest]}
        if layers - {*REBUILDABLE}:
            may = all(stages_needed(each) <= there for each, there in namers)
        else:
            may = "kv_cache" in layers or all("vision" in there for each, there in namers if is_lone(each))
        if may:
            found[digest] = size
    return found


def present(kept: Kept, manifests: dict[str, tuple[Manifest, set[Stage]]]) -> dict[str, int]:
    digests = {digest for each, _ in manifests.values() for digest in blobs_of(kept, each)}
    paths = {digest: kept.catalog.blobs.path(digest) for digest in digests}
    return {digest: path.stat().st_size for digest, path in paths.items() if path.exists()}


def test_the_survey_leaves_nothing_with_its_connection(kept: Kept) -> None:
    kept.save()
    for _ in range(2):
        with kept.catalog.index.reading() as connection, eviction.in_order(connection):
            assert len(eviction.survey(connection, MACHINE, ()).standings) == 1
        with kept.catalog.index.reading() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM temp.sqlite_master").scalar() == 0
            assert connection.exec_driver_sql("PRAGMA query_only").scalar() == 1
