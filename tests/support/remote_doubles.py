"""This machine's side of the bucket, in memory: what sync/ asks for as ports."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from blake3 import blake3
from torpor.codec import manifest_file
from torpor.state.backup import Backup
from torpor.state.errors import BackupNotFound, BlobDamaged, BlobNotFound
from torpor.state.manifest import BlobRef, Manifest
from torpor.state.remote import Parts, RemoteObject, RemoteRecord
from torpor.sync.ports import BlobWriter, LocalBackup


class InlinePool:
    """A pool without threads: the order of things is that of the code."""

    def submit(self, work: Callable[[Any], Any], item: Any, /) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(work(item))
        except BaseException as error:  # as a thread of a pool does
            future.set_exception(error)
        return future


class FreeTurn:
    """A turn that is never taken away."""

    def __init__(self) -> None:
        self.sent_bytes = 0

    def sent(self, size_bytes: int) -> None:
        self.sent_bytes += size_bytes

    def next_blob(self) -> None:
        """Go on."""


class MemoryIndex:
    """An ObjectIndex that keeps its promises and no more."""

    def __init__(self) -> None:
        self.known: dict[str, RemoteObject] = {}
        self.records: dict[str, tuple[RemoteRecord, bool]] = {}

    def objects(self, digests: Iterable[str]) -> Mapping[str, RemoteObject]:
        wanted = set(digests)
        return {found.digest: found for found in self.known.values() if found.digest in wanted}

    def every_object(self, digest: str) -> Sequence[RemoteObject]:
        return [found for found in reversed(self.known.values()) if found.digest == digest]

    def note_objects(self, objects: Iterable[RemoteObject]) -> None:
        self.known.update((found.name, found) for found in objects)

    def forget_objects(self, names: Iterable[str]) -> None:
        for name in names:
            self.known.pop(name, None)

    def record_names(self) -> set[str]:
        return set(self.records)

    def note_record(self, name: str, record: RemoteRecord, *, checked: bool) -> None:
        self.records[name] = (record, checked)
        self.note_objects(record.objects.values())

    def forget_records(self, names: Collection[str]) -> None:
        gone = [self.records.pop(name)[0] for name in names if name in self.records]
        still = {found.name for record, _ in self.records.values() for found in record.objects.values()}
        self.forget_objects({o.name for record in gone for o in record.objects.values()} - still)

    def records_of(self, backup_id: str) -> Mapping[str, bool]:
        return {name: checked for name, (record, checked) in self.records.items() if record.backup_id == backup_id}


class MemoryBlobs:
    """The LocalBlobs of a machine."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def add(self, data: bytes) -> BlobRef:
        digest = blake3(data).hexdigest()
        self.data[digest] = data
        return BlobRef(digest, len(data))

    def open(self, digest: str) -> BinaryIO:
        if digest not in self.data:
            raise BlobNotFound(f"blob {digest[:16]}… is not here")
        return io.BytesIO(self.data[digest])

    def is_sound(self, ref: BlobRef) -> bool:
        return blake3(self.data.get(ref.digest, b"?")).hexdigest() == ref.digest

    @contextmanager
    def receive(self, ref: BlobRef) -> Iterator[BlobWriter]:
        arriving = io.BytesIO()
        yield arriving  # type: ignore[misc]
        if blake3(arriving.getvalue()).hexdigest() != ref.digest:
            raise BlobDamaged("other bytes")
        self.data[ref.digest] = arriving.getvalue()


@dataclass(slots=True)
class MemoryBackups:
    """The LocalBackups of a machine."""

    held: dict[str, LocalBackup] = field(default_factory=dict)

    def add(self, manifest: Manifest) -> None:
        self.held[manifest.id] = LocalBackup(manifest, manifest_file.dump(manifest), None, False, None)

    def read(self, backup_id: str) -> LocalBackup:
        if backup_id not in self.held:
            raise BackupNotFound(backup_id)
        return self.held[backup_id]

    def adopt(self, record: RemoteRecord) -> Backup:
        raise NotImplementedError


class MemoryJournal:
    """A PartJournal."""

    def __init__(self) -> None:
        self.begun_uploads: dict[str, tuple[str, Parts]] = {}

    def read(self, name: str) -> Parts | None:
        found = self.begun_uploads.get(name)
        return found[1] if found else None

    def begun(self, name: str, digest: str, upload_id: str, part_bytes: int) -> None:
        self.begun_uploads[name] = (digest, Parts(upload_id, part_bytes, {}))

    def done(self, name: str, number: int, etag: str) -> None:
        digest, parts = self.begun_uploads[name]
        self.begun_uploads[name] = (digest, Parts(parts.upload_id, parts.part_bytes, {**parts.etags, number: etag}))

    def forget(self, name: str) -> None:
        self.begun_uploads.pop(name, None)

    def of_digest(self, digest: str) -> str | None:
        return next((name for name, (of, _) in self.begun_uploads.items() if of == digest), None)
