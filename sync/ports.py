"""What the remote side needs of this machine, as ports: it knows neither the index nor the store's files."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from ..state.backup import Backup
from ..state.errors import TorporError
from ..state.manifest import BlobRef, Manifest
from ..state.outbox import ErrorClass, Item, Stage
from ..state.remote import Parts, RemoteObject, RemoteRecord


class BlobWriter(Protocol):
    """A blob that is arriving. Left without an error, it is checked against its digest and published durably."""

    def write(self, data: bytes) -> None:
        """Append raw bytes. Raises: BlobDamaged when there are too many, StoreFull, StoreFailed."""
        ...


class LocalBlobs(Protocol):
    """The blobs of this machine."""

    def open(self, digest: str) -> BinaryIO:
        """Open a blob for reading. Raises: BlobNotFound, StoreFailed."""
        ...

    def is_sound(self, ref: BlobRef) -> bool:
        """Read a blob and tell whether it is there, whole and undamaged."""
        ...

    def receive(self, ref: BlobRef) -> AbstractContextManager[BlobWriter]:
        """Take a blob in; an error inside leaves nothing. Raises: BlobDamaged when the bytes are others."""
        ...


@dataclass(frozen=True, slots=True)
class LocalBackup:
    """What is sent of a backup: its manifest, verbatim and read, and what the user said of it."""

    manifest: Manifest
    raw: bytes
    title: str | None
    pinned: bool
    expires_at: float | None


class LocalBackups(Protocol):
    """The backups of this machine."""

    def read(self, backup_id: str) -> LocalBackup:
        """Return a backup. Raises: BackupNotFound, ManifestDamaged."""
        ...

    def adopt(self, record: RemoteRecord) -> Backup:
        """Enter a backup of the bucket into the index, whatever of its blobs is here. Again changes nothing."""
        ...


class ObjectIndex(Protocol):
    """What this machine knows of the bucket. It may be forgotten: it is read from there again."""

    def objects(self, digests: Iterable[str]) -> Mapping[str, RemoteObject]:
        """Return an object for each digest that has one."""
        ...

    def every_object(self, digest: str) -> Sequence[RemoteObject]:
        """Return all objects of a blob that commit records or uploads name, the newest first."""
        ...

    def note_objects(self, objects: Iterable[RemoteObject]) -> None:
        """Remember uploaded blobs, durably: a killed upload goes on behind them."""
        ...

    def forget_objects(self, names: Iterable[str]) -> None:
        """Forget objects that are gone or condemned."""
        ...

    def record_names(self) -> set[str]:
        """Return the names of the commit records that were read."""
        ...

    def note_record(self, name: str, record: RemoteRecord, *, checked: bool) -> None:
        """Remember a commit record and its objects. `checked`: its objects were looked at after its commit."""
        ...

    def forget_records(self, names: Collection[str]) -> None:
        """Forget commit records that are gone, and objects that no other one names."""
        ...

    def records_of(self, backup_id: str) -> Mapping[str, bool]:
        """Return the names of a backup's records, and whether each was checked."""
        ...


class PartJournal(Protocol):
    """Multipart uploads that outlive a restart, by object name."""

    def read(self, name: str) -> Parts | None:
        """Return an upload that was begun."""
        ...

    def begun(self, name: str, digest: str, upload_id: str, part_bytes: int) -> None:
        """Remember an upload, durably, before its first part is sent."""
        ...

    def done(self, name: str, number: int, etag: str) -> None:
        """Remember a part."""
        ...

    def forget(self, name: str) -> None:
        """Forget an upload that was finished or given up."""
        ...

    def of_digest(self, digest: str) -> str | None:
        """Return the object name under which a blob's upload was begun."""
        ...


class Outbox(Protocol):
    """The durable queue. Every change is on disk when it returns."""

    def lease(self, now: float, owner: str, until: float) -> list[Item]:
        """Take what is due first: the lowest stage, the newest session, the newest backup.

        All due stages of that backup come along as long as they are small. Nothing is due: an empty list.
        """
        ...

    def renew(self, ids: Iterable[int], until: float) -> None:
        """Keep a lease."""
        ...

    def release(self, ids: Iterable[int]) -> None:
        """Give items back untouched: no attempt was made, or it says nothing of them (offline)."""
        ...

    def finish(self, ids: Iterable[int]) -> None:
        """Remove items that are done."""
        ...

    def fail(self, item_id: int, kind: ErrorClass, detail: str, next_at: float | None) -> None:
        """Count an attempt, and try again at `next_at`, or never by itself (dead) when that is None."""
        ...

    def hold(self, item_id: int, reason: str) -> None:
        """Keep an item here, by policy."""
        ...

    def next_due(self) -> float | None:
        """Return when the next item is due; None when nothing waits."""
        ...


class Interrupted(BaseException):
    """A transfer has to end at once: a stop, a pause, or something more urgent. What was not noted is sent again.

    No failure, and no `Exception`: nothing between the body of a request and the pump may take it for one.
    """


class Turn(Protocol):
    """A push that runs, as the pump watches over it. Safe to call from several threads."""

    def sent(self, size_bytes: int) -> None:
        """Count bytes of a body as they go out: at least once a MiB. Raises: Interrupted at a stop or a pause."""
        ...

    def next_blob(self) -> None:
        """Ask before a blob, or a part of a large one, is begun; those that run already may end.

        Raises: Interrupted, also when something more urgent waits.
        """
        ...


@dataclass(frozen=True, slots=True)
class Pushed:
    """What came of pushing stages of a backup: bytes that went over the wire, and those that were there already.

    `failed` are items whose own failure kept them back (a damaged blob): the others were done without them.
    """

    sent_bytes: int
    reused_bytes: int
    stages: tuple[Stage, ...]
    failed: Mapping[int, TorporError] = field(default_factory=dict)


class Pusher(Protocol):
    """What brings items to the bucket. Doing the same again is harmless."""

    def push(self, items: Sequence[Item], turn: Turn, left_out: Mapping[Stage, str]) -> Pushed:
        """Send stages of one backup, commit them, and check them; or take the backup's records out of the bucket.

        A removal comes alone. `left_out` says why other stages stay here. What is raised is about the remote, or about
        the whole backup; nothing is said to be done then.
        """
        ...
