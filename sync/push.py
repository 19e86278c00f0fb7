"""Bring a backup to the bucket: its blobs, then a commit record, then the check; only what was checked is synced.

Write order (MUST):
1. a look: it is still the repository that was opened, and nobody made a key for it or took this backup out;
2. blobs, under names that were never used; each is noted here once it is there;
3. the commit record, under a name that was never used;
4. the check: read what is condemned and what was taken out, then look each reference up. What is condemned or gone goes
   up again under a new name, with a record that supersedes this one, and is checked again;
5. only then is the record noted as checked, and the records that it supersedes are deleted.

The check comes after the commit, whatever was seen before it: a machine that was suspended in between may wake weeks
later. From the check on, every collector that condemns one of the objects finds the record in its second listing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from ..state.crash_points import Checkpoint, no_checkpoint
from ..state.errors import BackupNotFound, BlobDamaged, BlobNotFound, ObjectNotFound, RemoteFailed, TorporError
from ..state.manifest import BlobRef
from ..state.outbox import Item, Stage
from ..state.remote import RecordName, RemoteObject, RemoteRecord, plain_copy_name, stage_blobs, whole_stages
from .parallel import Pool, in_parallel
from .ports import LocalBackup, LocalBackups, Pushed, Turn
from .presence import Presence, read_marks
from .repository import Repository
from .upload import Uploader

MOST_COMMITS = 8  # each further one means that a collector was at work in between


@dataclass(frozen=True, slots=True)
class BucketPusher:
    """Pushes stages of backups, and removes backups. `mark` returns 8 random hex digits."""

    repository: Repository
    backups: LocalBackups
    uploader: Uploader
    pool: Pool
    clock: Callable[[], float]
    mark: Callable[[], str]
    checkpoint: Checkpoint = no_checkpoint

    def push(self, items: Sequence[Item], turn: Turn, left_out: Mapping[Stage, str]) -> Pushed:
        """Send stages of one backup, commit and check them; or remove a backup. Again changes nothing.

        What fails for a stage alone (a blob that is damaged, or nowhere) is said by item; the others go on.
        Raises: BackupNotFound (also when it was taken out of the bucket), ManifestDamaged, TooLarge, UnknownRepository,
        KeyMissing, StoreFull, StoreFailed, Interrupted, the bucket's errors.
        """
        if items[0].kind == "remove":
            self._remove(items[0].backup_id)
            return Pushed(0, 0, ())
        local = self.backups.read(items[0].backup_id)
        pushed = _Push(self, local, turn, left_out).run(items)
        self.checkpoint("push.done")
        return pushed

    def _remove(self, backup_id: str) -> None:
        """Take a backup out, of every machine: it is the user who wants it gone. Blobs are collected later.

        It is marked before its records are listed. So a record that is not listed was written behind the mark, which
        its writer finds in its check.
        """
        self.repository.assure()
        self.repository.mark_removed(backup_id)
        names = self.repository.record_names(backup_id)
        for name in [*names, plain_copy_name(backup_id)]:
            self.repository.bucket.delete(name)
        self.repository.index.forget_records({*names, *self.repository.index.records_of(backup_id)})


@dataclass(slots=True)
class _Push:
    """One run. `objects` are what the record is going to name: digest -> object."""

    by: BucketPusher
    local: LocalBackup
    turn: Turn
    left_out: Mapping[Stage, str]
    objects: dict[str, RemoteObject] = field(default_factory=dict)
    condemned: dict[str, RemoteObject] = field(default_factory=dict)
    failed: dict[str, TorporError] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)
    sent_bytes: int = 0

    def run(self, items: Sequence[Item]) -> Pushed:
        """Send what is wanted and not there yet, commit, check."""
        self.by.repository.assure()
        blobs, own = stage_blobs(self.local.manifest), self._own_records()
        newest = max(own, key=lambda name: own[name].seq, default=None)
        wanted = {digest for item in items if item.stage for digest in blobs.get(item.stage, ())}
        if newest is not None:
            ours = {digest for stage in blobs.values() for digest in stage}  # it came out of the bucket: anybody's
            self.objects.update((d, found) for d, found in own[newest].objects.items() if d in ours)
            wanted |= self.objects.keys()
        self.objects.update(self.by.repository.index.objects(wanted - self.objects.keys()))
        self._drop_doomed()
        reused_bytes = sum(found.stored_bytes for found in self.objects.values())
        name = self._commit(newest, None if newest is None else own[newest], wanted)
        if name is not None:
            self._supersede(own, name)
        return Pushed(self.sent_bytes, reused_bytes, self._stages(), self._failures(items))

    def _own_records(self) -> dict[str, RemoteRecord]:
        """Return this machine's records of the backup, and let go of those that nobody can use."""
        repository = self.by.repository
        known = map(RecordName.parse, repository.index.records_of(self.local.manifest.id))
        names = [str(name) for name in known if name is not None and name.machine == repository.machine]
        found = {}
        for name, record in repository.read_all(names):
            self.turn.sent(0)
            if isinstance(record, RemoteRecord):
                found[name] = record
            elif isinstance(record, ObjectNotFound):
                repository.index.forget_records([name])
        return found

    def _commit(self, name: str | None, committed: RemoteRecord | None, wanted: set[str]) -> str | None:
        """Write records until one stands whose objects were all sound behind its commit; return its name.

        On entry and on every round, what is in `objects` was looked at after `committed` was written.
        """
        index, seq = self.by.repository.index, 0 if committed is None else committed.seq
        for _ in range(MOST_COMMITS):
            self._send(wanted)
            record = self._record(seq)
            if not record.stages:
                return None
            if name is not None and committed is not None and _alike(record, committed):
                index.note_record(name, committed, checked=True)
                self.by.checkpoint("push.checked")
                return name
            seq += 1
            committed = replace(record, seq=seq)
            name = self._write(committed)
            self._drop_doomed()
        raise RemoteFailed(f"the record of backup {self.local.manifest.id} lost objects {MOST_COMMITS} times in a row")

    def _write(self, record: RemoteRecord) -> str:
        name = str(RecordName(record.machine, record.backup_id, record.seq, self.by.mark()))
        self.sent_bytes += self.by.repository.write_record(name, record)
        self.written.append(name)
        self.by.checkpoint("push.record-sent")
        self.by.repository.index.note_record(name, record, checked=False)
        self.by.checkpoint("push.record-noted")
        return name

    def _record(self, seq: int) -> RemoteRecord:
        stages, local, has = self._stages(), self.local, stage_blobs(self.local.manifest)
        return RemoteRecord(
            backup_id=local.manifest.id,
            machine=self.by.repository.machine,
            seq=seq,
            written_at=self.by.clock(),
            manifest=local.raw,
            objects=dict(self.objects),
            stages=stages,
            left_out={stage: self.left_out[stage] for stage in has if stage in self.left_out and stage not in stages},
            title=local.title,
            pinned=local.pinned,
            expires_at=local.expires_at,
        )

    def _drop_doomed(self) -> None:
        """Look every object up; leave out those that are condemned or gone.

        Raises: BackupNotFound when the backup was taken out of the bucket.
        """
        marks = read_marks(self.by.repository.bucket)
        if self.local.manifest.id in marks.removed:
            self._withdraw()
        look = Presence(self.by.repository.bucket, self.by.pool, lambda: self.turn.sent(0))
        condemned, gone = look.doomed(self.objects.values(), marks)
        if condemned or gone:
            self.by.repository.index.forget_objects(condemned | gone)
        self.condemned.update({digest: found for digest, found in self.objects.items() if found.name in condemned})
        bad = condemned | gone
        self.objects = {digest: found for digest, found in self.objects.items() if found.name not in bad}

    def _withdraw(self) -> NoReturn:
        """Take out what this machine wrote of a backup that somebody took out. Here it stays."""
        backup_id, repository = self.local.manifest.id, self.by.repository
        for text in {*repository.index.records_of(backup_id), *self.written}:
            name = RecordName.parse(text)
            if name is not None and name.machine == repository.machine:
                repository.bucket.delete(text)
            repository.index.forget_records([text])
        raise BackupNotFound(f"backup {backup_id} was taken out of the bucket by its user; on this machine it stays")

    def _send(self, wanted: Collection[str]) -> None:
        refs = {d: n for blobs in stage_blobs(self.local.manifest).values() for d, n in blobs.items() if d in wanted}
        missing = [BlobRef(d, n) for d, n in refs.items() if d not in self.objects and d not in self.failed]
        for ref, sent in zip(missing, in_parallel(self.by.pool, self._send_one, missing), strict=True):
            if isinstance(sent, RemoteObject):
                self.objects[ref.digest] = sent
                self.sent_bytes += sent.stored_bytes
            else:
                self.failed[ref.digest] = sent

    def _send_one(self, ref: BlobRef) -> RemoteObject | TorporError:
        try:
            sent = self.by.uploader.send(ref, self.turn)
        except (BlobNotFound, BlobDamaged) as error:
            copied = self._copy(ref.digest)
            if copied is None:
                return error
            sent = copied
        self.by.checkpoint("push.blob-sent")
        self.by.repository.index.note_objects([sent])
        self.by.checkpoint("push.blob-noted")
        return sent

    def _copy(self, digest: str) -> RemoteObject | None:
        """Send what is condemned and still in the bucket again: this machine has let go of its own copy."""
        found = self.condemned.get(digest)
        try:
            return None if found is None else self.by.uploader.copy(found, self.turn)
        except ObjectNotFound:
            return None

    def _supersede(self, own: Mapping[str, RemoteRecord], name: str) -> None:
        """Delete earlier records of this machine that say nothing more than the one that was checked."""
        repository = self.by.repository
        covered = [n for n, record in own.items() if record.objects.keys() <= self.objects.keys()]
        for earlier in [*covered, *self.written]:
            if earlier != name:
                repository.bucket.delete(earlier)
                repository.index.forget_records([earlier])
                self.by.checkpoint("push.superseded")

    def _stages(self) -> tuple[Stage, ...]:
        return whole_stages(stage_blobs(self.local.manifest), self.objects)

    def _failures(self, items: Sequence[Item]) -> dict[int, TorporError]:
        blobs, failures = stage_blobs(self.local.manifest), {}
        for item in items:
            lost = [self.failed[d] for d in (blobs.get(item.stage, {}) if item.stage else ()) if d in self.failed]
            if lost:
                failures[item.id] = lost[0]
        return failures


def _alike(one: RemoteRecord, other: RemoteRecord) -> bool:
    """Tell whether two records say the same, whenever they were written."""
    return replace(one, seq=0, written_at=0.0) == replace(other, seq=0, written_at=0.0)
