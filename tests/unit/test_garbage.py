"""The collector on one thread: what it says it does, what it leaves alone, and files that are not what they should be."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from blake3 import blake3
from support.manifests import manifest
from torpor.codec import manifest_file
from torpor.daemon.catalog import Catalog
from torpor.daemon.compose import compose
from torpor.daemon.garbage import Garbage, discard
from torpor.daemon.settings import load_settings
from torpor.state.errors import BlobDamaged, MissingBlobs
from torpor.state.manifest import BlobRef, KVCache, KVLayer, KVLayout, Manifest
from torpor.store.arriving import StoreBlobs
from torpor.store.home import Home

LAYOUT = KVLayout("uint8", 1, (KVLayer(1, 1, 1),))
DATA = {name: name.encode() * 128 for name in "abcd"}
REFS = {name: BlobRef(blake3(data).hexdigest(), len(data)) for name, data in DATA.items()}
DAY = 86_400.0


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    home = Home(tmp_path / "home")
    home.create()
    with ExitStack() as stack:
        yield compose(home, load_settings(), stack)


@pytest.fixture
def garbage(catalog: Catalog) -> Garbage:
    return Garbage(catalog, grace_s=DAY)


def put(catalog: Catalog, names: str, age_s: float = 2 * DAY) -> None:
    for name in names:
        with StoreBlobs(catalog.blobs, catalog.staging).receive(REFS[name]) as arriving:
            arriving.write(DATA[name])
        at = catalog.now() - age_s
        os.utime(catalog.blobs.path(REFS[name].digest), (at, at))


def made(names: str, number: int = 0) -> Manifest:
    tokens = len(names) * LAYOUT.block_tokens
    kv = KVCache(LAYOUT, tokens, "DynamicCache", tuple(REFS[name] for name in names))
    return manifest(id=f"01M81P35719XNDZ4R57NMV{number:04d}", kv_cache=kv, tokens=tokens + 1, layers={})


def commit(catalog: Catalog, names: str, number: int = 0) -> str:
    one = made(names, number)
    catalog.commit(one.id, manifest_file.dump(one))
    return one.id


def here(catalog: Catalog) -> str:
    return "".join(name for name in DATA if catalog.blobs.has(REFS[name]))


def trashed(catalog: Catalog) -> str:
    return "".join(name for name in DATA if catalog.trash.path(REFS[name].digest).exists())


def test_two_passes_and_an_hour_remove_what_nobody_needs(catalog: Catalog, garbage: Garbage) -> None:
    put(catalog, "abc")
    commit(catalog, "a")
    done = garbage.collect()
    assert (done.looked_at, done.trashed, done.trashed_bytes, done.freed) == (3, 2, 256, 0)
    assert (here(catalog), trashed(catalog)) == ("a", "bc")
    assert not garbage.collect().anything()
    now = catalog.now() + 3601
    catalog._clock = lambda: now
    done = garbage.collect()
    assert (done.freed, done.freed_bytes, trashed(catalog)) == (2, 256, "")
    assert catalog.trash.shards() == []


def test_a_dry_run_says_what_would_go_and_touches_nothing(catalog: Catalog, garbage: Garbage) -> None:
    put(catalog, "ab")
    put(catalog, "c", age_s=-DAY)
    put(catalog, "d", age_s=60)
    done = garbage.collect(dry_run=True)
    assert (done.trashed, done.kept, here(catalog)) == (2, 2, "abcd")
    assert catalog.blobs.path(REFS["c"].digest).stat().st_mtime > catalog.now()
    assert garbage.collect().trashed == 2


def test_a_file_from_the_future_begins_to_age(catalog: Catalog, garbage: Garbage) -> None:
    put(catalog, "a", age_s=-400 * DAY)
    assert garbage.collect().kept == 1
    now = catalog.now() + DAY + 1
    catalog._clock = lambda: now
    assert garbage.collect().trashed == 1


def test_a_commit_takes_back_what_it_needs(catalog: Catalog, garbage: Garbage) -> None:
    put(catalog, "ab")
    garbage.collect()
    commit(catalog, "a")
    assert (here(catalog), trashed(catalog)) == ("a", "b")
    with pytest.raises(MissingBlobs) as error:
        commit(catalog, "cb", 1)
    assert error.value.digests == (REFS["c"].digest,)


def test_what_is_in_the_trash_can_be_read(catalog: Catalog, garbage: Garbage) -> None:
    put(catalog, "a")
    garbage.collect()
    assert not catalog.blobs.has(REFS["a"])
    assert bytes(catalog.blobs.read(REFS["a"])) == DATA["a"]


def test_what_was_written_again_is_not_replaced_by_the_trash(catalog: Catalog, garbage: Garbage) -> None:
    put(catalog, "a")
    garbage.collect()
    put(catalog, "a")
    path = catalog.blobs.path(REFS["a"].digest)
    inode = path.stat().st_ino
    assert catalog.trash.take_back([REFS["a"].digest]) == [REFS["a"].digest]
    assert (path.stat().st_ino, trashed(catalog)) == (inode, "")


def test_without_hard_links_it_works_too(catalog: Catalog, garbage: Garbage, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "no links here")

    monkeypatch.setattr(os, "link", refuse)
    put(catalog, "ab")
    garbage.collect()
    put(catalog, "b")
    assert len(catalog.trash.take_back(REFS[name].digest for name in "abc")) == 2
    assert (here(catalog), trashed(catalog)) == ("ab", "")


def test_presence_is_corrected(catalog: Catalog, garbage: Garbage) -> None:
    put(catalog, "ab")
    backup_id = commit(catalog, "ab")
    catalog.blobs.path(REFS["a"].digest).unlink()
    assert garbage.collect().gone == 1
    assert catalog.index.backup(backup_id).absent_bytes == 128
    assert [e["kind"] for e in catalog.index.recent_events()] == ["blobs-absent"]
    catalog.blobs.path(REFS["a"].digest).write_bytes(b"a torn one")
    assert garbage.collect().found == 0
    put(catalog, "a")
    assert garbage.collect().found == 1
    assert catalog.index.backup(backup_id).absent_bytes == 0


def test_an_unreadable_manifest_spares_everything_until_it_is_gone(catalog: Catalog, garbage: Garbage) -> None:
    put(catalog, "ab")
    stray = catalog.manifests.path(made("c").id)
    stray.write_bytes(b"rubbish")
    done = garbage.collect()
    assert (done.spared, done.trashed, here(catalog)) == (True, 0, "ab")
    stray.write_bytes(manifest_file.pack(manifest_file.dump(made("a"))))
    done = garbage.collect()
    assert (done.spared, done.trashed, here(catalog)) == (False, 1, "a")
    stray.unlink()
    assert garbage.collect().trashed == 1


def test_a_stray_manifest_takes_its_blobs_back(catalog: Catalog, garbage: Garbage) -> None:
    put(catalog, "a")
    garbage.collect()
    catalog.manifests.path(made("a").id).write_bytes(manifest_file.pack(manifest_file.dump(made("a"))))
    assert garbage.collect().taken_back == 1
    assert here(catalog) == "a"


def test_discard_clears_the_trash_too(catalog: Catalog, garbage: Garbage) -> None:
    put(catalog, "abc")
    commit(catalog, "a")
    garbage.collect()
    put(catalog, "b")
    assert discard(catalog, [REFS[name].digest for name in "abcd"]) == 2
    assert (here(catalog), trashed(catalog)) == ("a", "")


def test_a_pass_ends_when_it_is_told_to(catalog: Catalog, garbage: Garbage) -> None:
    put(catalog, "ab")
    garbage.stop()
    assert not garbage.collect().anything()
    assert here(catalog) == "ab"


def test_commits_get_their_turn_in_the_middle_of_a_pass(catalog: Catalog, garbage: Garbage) -> None:
    put(catalog, "abcd")
    running = threading.Thread(target=garbage.collect)
    running.start()
    commit(catalog, "ab")
    running.join()
    assert set("ab") <= set(here(catalog))
    assert bytes(catalog.blobs.read(REFS["a"])) == DATA["a"]


def test_a_pipe_in_place_of_a_blob_hangs_nobody(catalog: Catalog, garbage: Garbage) -> None:
    os.mkfifo(catalog.blobs.path(REFS["a"].digest))
    with pytest.raises(BlobDamaged, match="not a file"):
        catalog.blobs.read_into(REFS["a"], [memoryview(bytearray(128))])
    garbage.collect()


def test_a_shard_that_is_a_link_is_left_alone(catalog: Catalog, garbage: Garbage, tmp_path: Path) -> None:
    put(catalog, "a")
    shard = catalog.blobs.path(REFS["a"].digest).parent
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "elsewhere")
    assert garbage.collect().looked_at == 0
    assert (tmp_path / "elsewhere" / REFS["a"].digest).exists()
