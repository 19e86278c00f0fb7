"""A page goes on from a backup whose images are only in the bucket: they are brought, or its text is kept without."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.bucket_daemon import BucketDaemon, Elsewhere
from support.manifests import manifest
from torpor.codec import manifest_file
from torpor.codec.source_media import source
from torpor.daemon.blob_reads import BlobReads
from torpor.daemon.page_saves import PageSaves
from torpor.state.errors import BackupNotFound, BlobNotFound, Offline
from torpor.state.manifest import BlobRef, Manifest, manifest_blobs
from torpor.state.page_items import read_item
from ulid import ULID

PICTURE = os.urandom(50_000)
ASKED = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is this?"}]}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[BucketDaemon]:
    made = BucketDaemon(tmp_path / "home")
    yield made
    made.close()


@pytest.fixture
def base(here: BucketDaemon) -> Manifest:
    """A backup with an image, which this machine has adopted, and nothing of its blobs."""
    elsewhere = Elsewhere(here.bucket)
    ref = elsewhere._blob(PICTURE)
    block = {"digest": ref.digest, "size_bytes": ref.size_bytes}
    data = {"$bytes": {"size_bytes": len(PICTURE), "blocks": [block]}}
    layers = {"text_context": {"conversation": [ASKED]}, "media": [{"data": data, "media_type": "image/png"}]}
    made = manifest(session_id="away", kv_cache=None, layers=layers, tokens=0)
    elsewhere.write(made, [ref], stages=("text", "media"))
    assert here.back.backups.find(made.id, ask=True) is not None
    return made


def saves(daemon: BucketDaemon, *, s3: bool = True) -> PageSaves:
    return PageSaves(daemon.catalog, BlobReads(daemon.catalog, daemon.back if s3 else None, 5.0), daemon.room)


def answered(base: Manifest, text: str = "A sun.", keep: int = 1) -> Any:
    said = {"id": str(ULID()), "session_id": "away", "created_at": 2.0, "base": base.id, "keep": keep}
    return read_item(said | {"messages": [{"role": "assistant", "content": text}]})


def saved(daemon: BucketDaemon, backup_id: str) -> Manifest:
    return manifest_file.load(daemon.catalog.manifest_json(backup_id))


def test_the_images_come_back_for_it(here: BucketDaemon, base: Manifest) -> None:
    made = saved(here, saves(here).save(answered(base)).backup_id)
    assert made.layers["media"] == base.layers["media"]
    (block,) = made.layers["media"][0]["data"]["$bytes"]["blocks"]
    assert bytes(here.catalog.blobs.read(BlobRef(**block))) == PICTURE


@pytest.mark.parametrize("s3", [True, False])
def test_its_text_is_kept_without_them(here: BucketDaemon, base: Manifest, s3: bool) -> None:
    here.bucket.fault = lambda get: Offline("no route to host")
    made = saved(here, saves(here, s3=s3).save(answered(base)).backup_id)
    assert "media" not in made.layers
    assert "bucket" in made.omitted["media"]
    assert [m["role"] for m in made.layers["text_context"]["conversation"]] == ["user", "assistant"]


def test_the_next_save_has_them_again(here: BucketDaemon, base: Manifest) -> None:
    made = saved(here, saves(here, s3=False).save(answered(base)).backup_id)
    for item in (answered(made, "Or a lamp.", keep=2), answered(base, "A lamp.")):  # behind it, or in another way
        again = saved(here, saves(here).save(item).backup_id)
        assert again.layers["media"] == base.layers["media"]
        assert "media" not in again.omitted


def test_an_image_is_shown_from_the_bucket(here: BucketDaemon, base: Manifest) -> None:
    (block,) = source(base, 0).node["$bytes"]["blocks"]
    ref = BlobRef(**block)
    with pytest.raises(BlobNotFound):
        BlobReads(here.catalog, None).one(ref)
    assert bytes(BlobReads(here.catalog, here.back).joined([ref, ref])) == PICTURE * 2
    missing = replace(ref, digest="0" * 64)
    with pytest.raises(BlobNotFound):
        BlobReads(here.catalog, here.back).one(missing)


def test_what_was_lost_since_a_page_saved_does_not_stop_it(here: BucketDaemon) -> None:
    page, words = saves(here, s3=False), "lang und breit " * 9_000
    made: dict[str, Any] = {
        "id": str(ULID()),
        "session_id": "lost",
        "created_at": 2.0,
        "messages": [{"role": "user", "content": words}],
    }
    base = saved(here, page.save(read_item(made)).backup_id)
    for digest in manifest_blobs(base):
        here.catalog.blobs.path(digest).unlink()
    answer = {"role": "assistant", "content": "Ja."}
    leaning = {"id": str(ULID()), "base": base.id, "keep": 1, "messages": [answer]}
    with pytest.raises(BackupNotFound):  # which tells the page to send all of it
        page.save(read_item(made | leaning))
    again = page.save(read_item(made | {"id": str(ULID()), "messages": [*made["messages"], answer]}))
    assert again.messages == 2


def test_a_bucket_that_is_silent_is_awaited_once(here: BucketDaemon) -> None:
    elsewhere, silent = Elsewhere(here.bucket), threading.Event()
    ref = elsewhere._blob(b"w" * 50_000)
    words = {"$text": {"size_bytes": 50_000, "blocks": [{"digest": ref.digest, "size_bytes": ref.size_bytes}]}}
    layers = {"text_context": {"conversation": [{"role": "user", "content": words}]}}
    base = manifest(session_id="away", kv_cache=None, layers=layers, tokens=0)
    elsewhere.write(base, [ref], stages=("text",))
    assert here.back.backups.find(base.id, ask=True) is not None

    def keeps_silent(get: object) -> None:
        silent.wait(30)

    here.bucket.fault = keeps_silent
    asked = list[BlobRef]()

    class Asked(BlobReads):
        def one(self, ref: BlobRef) -> memoryview:
            asked.append(ref)
            return super().one(ref)

    page = PageSaves(here.catalog, Asked(here.catalog, here.back, 0.2), here.room)
    said = {"session_id": "away", "created_at": 2.0, "base": base.id, "keep": 1}
    items = [said | {"id": str(ULID()), "messages": [{"role": "assistant", "content": f"{n}"}]} for n in range(5)]
    answer = page.drain(items)
    silent.set()
    assert [(each["code"], each["retryable"]) for each in answer["refused"]] == [("timeout", True)] * 5
    assert len(asked) == 1
