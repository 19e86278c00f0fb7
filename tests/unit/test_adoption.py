"""Adoption: backups of the bucket enter manifests and index, with or without their blobs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from blake3 import blake3
from support.manifests import manifest
from torpor.codec import manifest_file
from torpor.daemon.adoption import adopt
from torpor.daemon.catalog import Catalog
from torpor.daemon.compose import compose
from torpor.daemon.garbage import Garbage, discard
from torpor.daemon.reconcile import reconcile
from torpor.daemon.settings import load_settings
from torpor.state.errors import BadInput, Conflict, InvalidManifest, StoreFailed
from torpor.state.manifest import BlobRef, Manifest
from torpor.state.remote import RemoteRecord
from torpor.store.arriving import StoreBlobs
from torpor.store.home import Home

DATA = {name: os.urandom(40 + 10 * n) for n, name in enumerate("abc")}
REFS = {name: BlobRef(blake3(data).hexdigest(), len(data)) for name, data in DATA.items()}


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    with ExitStack() as stack:
        yield opened(tmp_path, stack)


def opened(folder: Path, stack: ExitStack) -> Catalog:
    home = Home(folder / "home")
    home.create()
    return compose(home, load_settings(), stack)


def made(**changes: object) -> Manifest:
    """A backup that needs the blobs a, b and c."""
    leaf = {"shape": [1], "dtype": "uint8", "kind": "torch"}
    layers = {
        "text_context": {"messages": [{"role": "user", "content": "hello"}]},
        "vision_cache": {
            name: {
                "$tensor": {
                    **leaf,
                    "shape": [ref.size_bytes],
                    "blocks": [{"digest": ref.digest, "size_bytes": ref.size_bytes}],
                }
            }
            for name, ref in REFS.items()
        },
    }
    return manifest(kv_cache=None, layers=layers, **changes)


def record(of: Manifest, **changes: object) -> RemoteRecord:
    values = RemoteRecord(of.id, "0" * 16, 1, 5.0, manifest_file.dump(of), {}, ("text", "vision"))
    return replace(values, **changes)  # type: ignore[arg-type]


def put(catalog: Catalog, name: str) -> None:
    with StoreBlobs(catalog.blobs, catalog.staging).receive(REFS[name]) as writer:
        writer.write(DATA[name])


def test_a_backup_of_the_bucket_becomes_one_of_this_machine(catalog: Catalog) -> None:
    put(catalog, "b")
    backup = adopt(catalog, record(made(created_at=1e9), title="from afar", pinned=True, expires_at=9e9))
    assert (backup.title, backup.pinned, backup.expires_at) == ("from afar", True, 9e9)
    assert backup.absent_bytes == REFS["a"].size_bytes + REFS["c"].size_bytes
    assert catalog.index.list_backups() == [backup]
    assert manifest_file.load(catalog.manifest_json(backup.id)) == made(created_at=1e9)
    totals = catalog.index.totals()
    assert (totals.blobs, totals.blob_bytes, totals.outbox_waiting) == (1, REFS["b"].size_bytes, 0)


def test_again_changes_nothing(catalog: Catalog) -> None:
    first = adopt(catalog, record(made(), title="one", expires_at=9e9))
    catalog.set_title("s", "mine")
    assert adopt(catalog, record(made(), title="two", pinned=True, expires_at=8e9)) == replace(first, title="mine")


def test_a_ttl_that_is_over_begins_again(catalog: Catalog) -> None:
    backup = adopt(catalog, record(made(created_at=100.0), expires_at=200.0))
    assert backup.expires_at is not None
    assert backup.expires_at > 1e9


def test_an_id_that_is_another_backups_is_a_conflict(catalog: Catalog) -> None:
    adopt(catalog, record(made()))
    with pytest.raises(Conflict):
        adopt(catalog, record(made(tokens=67)))
    assert [b.tokens for b in catalog.index.list_backups()] == [66]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"manifest": b"no JSON"}, InvalidManifest),
        ({"manifest": orjson.dumps({"id": 3})}, InvalidManifest),
        ({"backup_id": "01M81P35719XNDZ4R57NMV0000"}, BadInput),
    ],
)
def test_a_record_that_is_wrong_enters_nothing(
    catalog: Catalog, changes: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        adopt(catalog, record(made(), **changes))
    assert catalog.index.list_backups() == []
    assert list(catalog.manifests.ids()) == []


def test_a_title_that_nobody_could_give_is_left_out(catalog: Catalog) -> None:
    assert adopt(catalog, record(made(), title="x" * 100_000)).title is None


def test_a_failed_write_leaves_nothing(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreFailed("the disk")

    with monkeypatch.context() as patched:
        patched.setattr(catalog.index, "commit_backups", fail)
        with pytest.raises(StoreFailed):
            adopt(catalog, record(made()))
    assert list(catalog.manifests.ids()) == []
    assert adopt(catalog, record(made())).absent_bytes > 0


def test_a_crash_between_manifest_and_index_keeps_what_the_user_said(tmp_path: Path) -> None:
    class Crash(BaseException):
        pass

    with ExitStack() as stack:
        catalog = opened(tmp_path, stack)

        def crash(*_: object, **__: object) -> None:
            raise Crash

        catalog.index.commit_backups = crash  # type: ignore[assignment]
        catalog._take_back = lambda ids: None  # type: ignore[method-assign]  # a killed process takes nothing back
        with pytest.raises(Crash):
            adopt(catalog, record(made(), title="kept", pinned=True))
    with ExitStack() as stack:
        catalog = opened(tmp_path, stack)
        assert reconcile(catalog).imported == 1
        (backup,) = catalog.index.list_backups()
        assert (backup.title, backup.pinned) == ("kept", True)
        assert backup.absent_bytes == sum(ref.size_bytes for ref in REFS.values())


def test_a_save_of_the_same_blob_makes_it_present(catalog: Catalog) -> None:
    adopt(catalog, record(made()))
    for name in "abc":
        put(catalog, name)
    other = made(id="01M81P35719XNDZ4R57NMV0001", session_id="t")
    catalog.commit(other.id, manifest_file.dump(other))
    assert catalog.index.backup(made().id).absent_bytes == 0
    assert catalog.index.totals().blobs == 3


def test_the_same_commit_again_makes_blobs_present(catalog: Catalog) -> None:
    adopt(catalog, record(made()))
    for name in "abc":
        put(catalog, name)
    catalog.commit(made().id, manifest_file.dump(made()))
    assert catalog.index.backup(made().id).absent_bytes == 0


def test_adopted_backups_keep_their_blobs_from_the_collector(catalog: Catalog) -> None:
    adopt(catalog, record(made()))
    put(catalog, "a")
    assert Garbage(catalog, grace_s=0).collect().trashed == 0
    assert discard(catalog, [REFS["a"].digest]) == 0
    catalog.remove(made().id)
    assert Garbage(catalog, grace_s=0).collect().trashed == 1
