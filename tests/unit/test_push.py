"""Pushing and removing backups, over a bucket in memory: what goes up, how often, and what becomes of failures."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from support.memory_bucket import MemoryBucket, MemoryServer
from support.remote_doubles import FreeTurn, InlinePool, MemoryBackups, MemoryBlobs, MemoryIndex, MemoryJournal
from torpor.codec.keys import new_ring
from torpor.codec.remote_files import dump_repo
from torpor.state.errors import (
    BackupNotFound,
    BlobDamaged,
    BlobNotFound,
    KeyMissing,
    ObjectDamaged,
    Offline,
    UnknownRepository,
)
from torpor.state.manifest import BlobRef, Manifest
from torpor.state.outbox import Item, Stage
from torpor.state.remote import CONDEMNED_PREFIX, REPO_NAME, RepoInfo, condemned_name
from torpor.sync import upload
from torpor.sync.bucket import ObjectInfo
from torpor.sync.ports import Interrupted
from torpor.sync.push import BucketPusher
from torpor.sync.repository import Repository
from torpor.sync.spool import Spool
from torpor.sync.upload import Uploader

BACKUP = "01M81P35719XNDZ4R57NMV6DYZ"


class Counted(MemoryBucket):
    """Counts requests, and loses the reply of a kind of them once."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.requests: Counter[str] = Counter()
        self.lose: str | None = None

    def put(self, name: str, body: BinaryIO, size_bytes: int, *, only_new: bool = False) -> None:
        self.requests[f"put {name.split('/')[0]}"] += 1
        super().put(name, body, size_bytes, only_new=only_new)
        if self.lose and name.startswith(self.lose):
            self.lose = None
            raise Offline("no answer")

    @contextmanager
    def get(self, name: str, *, offset: int = 0) -> Iterator[Iterator[bytes]]:
        self.requests[f"get {name.split('/')[0]}"] += 1
        with super().get(name, offset=offset) as pieces:
            yield pieces

    def head(self, name: str) -> ObjectInfo:
        self.requests["head"] += 1
        return super().head(name)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        self.requests[f"list {prefix}"] += 1
        return super().list(prefix)


class Here:
    """A machine with one bucket."""

    def __init__(self, folder: Path, server: MemoryServer | None = None, machine: int = 1, ring: Any = None) -> None:
        self.server = server or MemoryServer()
        self.bucket, self.index = Counted(self.server), MemoryIndex()
        self.blobs, self.backups, self.journal = MemoryBlobs(), MemoryBackups(), MemoryJournal()
        self.uploads = 0
        pool = InlinePool()
        self.repository = Repository.open(
            self.bucket, f"{machine:016x}", ring, self.index, pool, clock=lambda: 5.0, new_id=lambda: "repo"
        )
        self.machine, spool = machine, Spool(folder / "outgoing", memory_bytes=4096)
        uploader = Uploader(self.bucket, self.blobs, ring, spool, self.journal, new_upload=self._upload)
        self.pusher = BucketPusher(self.repository, self.backups, uploader, pool, lambda: 5.0, self._mark)
        self.bucket.requests.clear()

    def _upload(self) -> str:
        self.uploads += 1
        return f"{self.machine:02d}{self.uploads:024d}"

    def _mark(self) -> str:
        self.uploads += 1
        return f"{self.uploads:08x}"

    def save(
        self, backup_id: str = BACKUP, text: bytes = b"text" * 99, vision: bytes = b"vision" * 99
    ) -> list[BlobRef]:
        refs = [self.blobs.add(text), self.blobs.add(vision)]
        leaves = [
            {"$bytes": {"size_bytes": r.size_bytes, "blocks": [{"digest": r.digest, "size_bytes": r.size_bytes}]}}
            for r in refs
        ]
        layers = {"text_context": leaves[:1], "vision_cache": leaves[1:]}
        self.backups.add(Manifest(id=backup_id, session_id="s", created_at=1.0, adapter="dict", layers=layers))
        return refs

    def push(self, *stages: Stage, backup_id: str = BACKUP, turn: Any = None) -> Any:
        items = [Item(n, "push", backup_id, "s", stage, 0, 0) for n, stage in enumerate(stages or ("text", "vision"))]
        return self.pusher.push(items, turn or FreeTurn(), {"vision": "the policy", "kv": "the policy"})

    def remove(self, backup_id: str = BACKUP) -> None:
        self.pusher.push([Item(1, "remove", backup_id, "s", None, 0, 0)], FreeTurn(), {})

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.server.objects if name.startswith(prefix))

    def record(self) -> Any:
        (name,) = self.names("manifests/")
        return self.repository.read_record(name)


@pytest.fixture
def here(tmp_path: Path) -> Here:
    return Here(tmp_path)


def test_a_small_backup_takes_few_requests(here: Here) -> None:
    here.save()
    turn = FreeTurn()
    pushed = here.push(turn=turn)
    assert pushed.stages == ("text", "vision")
    assert not pushed.failed
    assert pushed.reused_bytes == 0
    looks = {"get repo.json": 2, "list keys/": 2, "list gc/": 2}  # before the first blob, and at the commit
    assert here.bucket.requests == {**looks, "put blobs": 2, "put manifests": 1, "head": 2}
    assert turn.sent_bytes == sum(len(here.server.objects[name].data) for name in here.names("blobs/"))
    assert list(here.index.records_of(BACKUP).values()) == [True]


def test_stages_follow_one_another_and_one_record_is_left(here: Here) -> None:
    here.save()
    assert here.push("text").stages == ("text",)
    assert here.record().left_out == {"vision": "the policy"}
    pushed = here.push("vision")
    assert pushed.stages == ("text", "vision")
    assert pushed.reused_bytes > 0
    record = here.record()
    assert (record.seq, record.stages, len(record.objects), record.left_out) == (2, ("text", "vision"), 2, {})


def test_again_changes_nothing(here: Here) -> None:
    here.save()
    here.push()
    before = dict(here.server.objects)
    assert here.push().sent_bytes == 0
    assert here.server.objects == before


def test_a_blob_that_is_there_is_not_sent(here: Here) -> None:
    here.save()
    here.push()
    here.save("01M81P35719XNDZ4R57NMV6D00", vision=b"other")
    pushed = here.push(backup_id="01M81P35719XNDZ4R57NMV6D00")
    assert pushed.reused_bytes > 0
    assert len(here.names("blobs/")) == 3


@pytest.mark.parametrize("how", ["gone", "cut", "condemned"])
def test_what_is_reused_is_looked_up(here: Here, how: str) -> None:
    text, _ = here.save()
    here.push()
    name = here.index.objects([text.digest])[text.digest].name
    if how == "gone":
        here.bucket.delete(name)
    else:
        marked = condemned_name(name) if how == "condemned" else name
        here.bucket.put(marked, io.BytesIO(b"x"), 1)
    here.save("01M81P35719XNDZ4R57NMV6D00", vision=b"other")
    here.push(backup_id="01M81P35719XNDZ4R57NMV6D00")
    found = here.index.objects([text.digest])[text.digest]
    assert found.name != name
    assert found.name in here.server.objects


def test_what_is_condemned_is_copied_when_it_is_not_here(here: Here) -> None:
    text, _ = here.save()
    here.push("text")
    (name,) = here.names("blobs/")
    here.bucket.put(condemned_name(name), io.BytesIO(b"{}"), 2)
    del here.blobs.data[text.digest]
    assert not here.push("vision").failed
    copied = here.record().objects[text.digest].name
    assert copied != name
    assert here.server.objects[copied].data == here.server.objects[name].data


def test_a_damaged_blob_is_never_sent_and_others_go_on(here: Here) -> None:
    text, vision = here.save()
    here.blobs.data[vision.digest] = b"visioN" * 99
    pushed = here.push()
    assert pushed.stages == ("text",)
    assert isinstance(pushed.failed[1], BlobDamaged)
    assert list(here.record().objects) == [text.digest]
    assert len(here.names("blobs/")) == 1


def test_a_blob_that_is_nowhere_fails_its_stage(here: Here) -> None:
    text, _ = here.save()
    del here.blobs.data[text.digest]
    pushed = here.push("text")
    assert isinstance(pushed.failed[0], BlobNotFound)
    assert pushed.stages == ()
    assert here.names("manifests/") == []


@pytest.mark.parametrize("where", ["blobs/", "manifests/"])
def test_a_lost_reply_costs_one_object_at_most(here: Here, where: str) -> None:
    here.save()
    here.bucket.lose = where
    with pytest.raises(Offline):
        here.push()
    here.repository.refresh()
    assert here.push().stages == ("text", "vision")
    assert len(here.names("blobs/")) == (3 if where == "blobs/" else 2)
    assert len(here.names("manifests/")) == 1
    assert list(here.index.records_of(BACKUP).values()) == [True]


def test_an_upload_that_was_interrupted_goes_on_behind_what_was_noted(here: Here) -> None:
    here.save()

    class OneBlob(FreeTurn):
        blobs = 0

        def next_blob(self) -> None:
            self.blobs += 1
            if self.blobs == 2:
                raise Interrupted

    with pytest.raises(Interrupted):
        here.push(turn=OneBlob())
    assert here.names("manifests/") == []
    assert len(here.names("blobs/")) == 1
    here.push()
    assert len(here.names("blobs/")) == 2


def test_a_large_blob_goes_on_out_of_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "LARGE_BYTES", 1000)
    here = Here(tmp_path, ring=new_ring(1))
    sent: list[str] = []

    def breaks(bucket: Any, journal: Any, name: str, digest: str, body: BinaryIO, size: int, **_: Any) -> None:
        sent.append(name)
        journal.begun(name, digest, "u", 8 << 20)
        raise Offline("gone in the middle")

    large, _ = here.save("01M81P35719XNDZ4R57NMV6D00", text=bytes(range(256)) * 100)
    with monkeypatch.context() as patched, pytest.raises(Offline):
        patched.setattr(upload, "put_object", breaks)
        here.push("text", backup_id="01M81P35719XNDZ4R57NMV6D00")
    (kept,) = (tmp_path / "outgoing").iterdir()
    before = kept.read_bytes()
    here.journal.begun_uploads[sent[0]] = (large.digest, here.journal.begun_uploads[sent[0]][1])
    here.push("text", backup_id="01M81P35719XNDZ4R57NMV6D00")
    assert here.server.objects[sent[0]].data == before  # sealed anew it would be other bytes
    assert list((tmp_path / "outgoing").iterdir()) == []
    Spool(tmp_path / "outgoing").clean(lambda name: False)


def test_a_backup_that_was_taken_out_stays_out(here: Here, tmp_path: Path) -> None:
    here.save()
    here.push("text")
    there = Here(tmp_path, here.server, machine=2)
    there.save()
    there.remove()
    assert here.names("manifests/") == []
    for each in (here, there):
        before = here.names("blobs/")
        with pytest.raises(BackupNotFound):
            each.push()
        assert here.names("blobs/") == before
        assert here.names("manifests/") == []
        assert each.index.records_of(BACKUP) == {}


def test_a_removal_takes_out_the_records_of_all_machines(here: Here, tmp_path: Path) -> None:
    there = Here(tmp_path, here.server, machine=2)
    for each in (here, there):
        each.save()
        each.push()
    assert len(here.names("manifests/")) == 2
    here.remove()
    here.remove()
    assert here.names("manifests/") == []
    assert there.repository.refresh() == []
    assert there.index.records_of(BACKUP) == {}


def test_nothing_goes_in_the_clear_into_a_bucket_that_got_a_key(here: Here) -> None:
    here.save()
    here.bucket.put("keys/0123456789abcdef.json", io.BytesIO(b"{}"), 2)
    with pytest.raises(KeyMissing):
        here.push()
    assert here.names("blobs/") == []


@pytest.mark.parametrize("raw", [None, dump_repo(RepoInfo("another", 1.0, False))])
def test_another_repository_is_noticed_before_anything_is_sent(here: Here, raw: bytes | None) -> None:
    here.save()
    here.bucket.delete(REPO_NAME)
    if raw is not None:
        here.bucket.put(REPO_NAME, io.BytesIO(raw), len(raw))
    for work in (here.push, here.remove):
        with pytest.raises(UnknownRepository):
            work()
    assert here.names("blobs/") + here.names("gc/") == []


def test_what_is_encrypted_is_not_in_the_clear(tmp_path: Path) -> None:
    ring = new_ring(1)
    here = Here(tmp_path, ring=ring)
    refs = here.save(text=b"a secret " * 500)
    here.push()
    everything = (
        b"".join(stored.data for name, stored in here.server.objects.items()) + repr(list(here.server.objects)).encode()
    )
    assert b"a secret" not in everything
    assert not any(ref.digest.encode() in everything for ref in refs)
    assert here.record().stages == ("text", "vision")
    with pytest.raises(KeyMissing):
        Here(tmp_path, here.server, machine=2)


def test_foreign_buckets_are_left_alone(tmp_path: Path) -> None:
    for name, raw in (("manifests/x", b"?"), (REPO_NAME, b"not ours"), (REPO_NAME, b'{"layout": "torpor-repo/v9"}')):
        server = MemoryServer()
        MemoryBucket(server).put(name, io.BytesIO(raw), len(raw))
        with pytest.raises(UnknownRepository):
            Here(tmp_path, server)
        assert list(server.objects) == [name]


def test_a_lost_race_for_repo_json_reads_the_others(tmp_path: Path) -> None:
    server = MemoryServer()
    one = Here(tmp_path, server)
    bucket = MemoryBucket(server)
    listed = bucket.list
    assert Here(tmp_path, server, machine=2).repository.info == one.repository.info
    assert [info.name for info in listed("")] == [REPO_NAME]


def test_a_damaged_record_hides_no_other(here: Here, tmp_path: Path) -> None:
    here.save()
    here.push()
    here.save("01M81P35719XNDZ4R57NMV6D00")
    here.push(backup_id="01M81P35719XNDZ4R57NMV6D00")
    bad = next(name for name in here.names("manifests/") if BACKUP in name)
    here.bucket.put(bad, io.BytesIO(b"garbage"), 7)
    there = Here(tmp_path, here.server, machine=2)
    for _ in range(5):
        ((name, error),) = there.repository.refresh()
        assert name == bad
        assert isinstance(error, ObjectDamaged)
    assert len(there.index.records) == 1
    assert there.bucket.requests["get manifests"] == 4  # the sound one, and three tries
    here.bucket.delete(bad)
    assert there.repository.refresh() == []


def test_condemnations_are_read_beside_removals(here: Here) -> None:
    here.bucket.put(CONDEMNED_PREFIX + "foreign", io.BytesIO(b""), 0)
    here.bucket.put("gc/removed/foreign", io.BytesIO(b""), 0)
    here.save()
    assert here.push().stages == ("text", "vision")
