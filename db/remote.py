"""What is known of the bucket: objects, commit records, and uploads that were begun. All of it can be read again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, delete, func, insert, or_, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from ..state.backup import Backup
from ..state.outbox import Stage
from ..state.remote import Parts, RemoteObject, RemoteRecord
from .index import Index
from .schema import remote_objects as objects
from .schema import remote_record_objects as links
from .schema import remote_records as records
from .schema import uploads

_T = TypeVar("_T")
_BATCH = 500  # values of one statement
_UPLOAD_CHARS = 26  # of an object's name, at its end: a ULID, so the newest upload is the greatest


@dataclass(frozen=True, slots=True)
class KnownRecord:
    """A commit record as it is remembered."""

    name: str
    backup: Backup
    machine: str
    seq: int
    stages: tuple[Stage, ...]
    checked: bool
    written_at: float


class RemoteIndex:
    """Objects and commit records of the bucket; implements the port `ObjectIndex`.

    `describe` makes of a record the backup that the index would list.
    """

    def __init__(self, index: Index, describe: Callable[[RemoteRecord], Backup]) -> None:
        self._index, self._describe = index, describe

    def objects(self, digests: Iterable[str]) -> Mapping[str, RemoteObject]:
        """Return an object for each digest that has one, its newest."""
        found: dict[str, RemoteObject] = {}
        with self._index.reading() as connection:
            for batch in _batches(digests):
                mine = objects.c.digest.in_([bytes.fromhex(digest) for digest in batch])
                newest_last = func.substr(objects.c.name, -_UPLOAD_CHARS)
                for row in connection.execute(select(objects).where(mine).order_by(newest_last)):
                    found[row.digest.hex()] = RemoteObject(row.digest.hex(), row.size_bytes, row.name, row.stored_bytes)
        return found

    def every_object(self, digest: str) -> list[RemoteObject]:
        """Return all objects of a digest, the newest first."""
        newest = func.substr(objects.c.name, -_UPLOAD_CHARS).desc()
        mine = select(objects).where(objects.c.digest == bytes.fromhex(digest)).order_by(newest)
        with self._index.reading() as connection:
            return [RemoteObject(digest, o.size_bytes, o.name, o.stored_bytes) for o in connection.execute(mine)]

    def note_objects(self, found: Iterable[RemoteObject]) -> None:
        """Remember uploaded blobs. Durability: on return they survive power loss."""
        with self._index.writing() as connection:
            _insert_objects(connection, found)

    def forget_objects(self, names: Iterable[str]) -> None:
        """Forget objects that are gone or condemned; one that a record names leaves with that record.

        It may only have seemed to be gone, and where the blob is not on this machine it could not be fetched any more.
        """
        named = select(links.c.object).where(links.c.object == objects.c.name)
        with self._index.writing() as connection:
            for batch in _batches(names):
                connection.execute(delete(objects).where(objects.c.name.in_(batch), ~named.exists()))

    def record_names(self) -> set[str]:
        """Return the names of the commit records that were read."""
        with self._index.reading() as connection:
            return set(connection.scalars(select(records.c.name)))

    def note_record(self, name: str, record: RemoteRecord, *, checked: bool) -> None:
        """Remember a commit record and its objects, durably. One that was checked stays so: it never changes."""
        backup = self._describe(record)
        row = {
            "name": name,
            "backup_id": record.backup_id,
            "session_id": backup.session_id,
            "machine": record.machine,
            "seq": record.seq,
            "stages": " ".join(record.stages),
            "checked": checked,
            "written_at": record.written_at,
            "backup": orjson.dumps(asdict(backup)).decode(),
        }
        with self._index.writing() as connection:
            new = upsert(records).values(row)
            kept = row | {"checked": or_(records.c.checked, new.excluded.checked)}
            connection.execute(new.on_conflict_do_update(index_elements=["name"], set_=kept))
            connection.execute(delete(links).where(links.c.record == name))
            _insert_objects(connection, record.objects.values())
            named = [{"record": name, "object": found} for found in sorted({o.name for o in record.objects.values()})]
            if named:
                connection.execute(insert(links), named)

    def forget_records(self, names: Collection[str]) -> None:
        """Forget commit records that are gone, and objects that no other one names."""
        with self._index.writing() as connection:
            for batch in _batches(names):
                theirs = set(connection.scalars(select(links.c.object).where(links.c.record.in_(batch))))
                connection.execute(delete(records).where(records.c.name.in_(batch)))
                for group in _batches(theirs):
                    others = select(links.c.object).where(links.c.object == objects.c.name)
                    connection.execute(delete(objects).where(objects.c.name.in_(group), ~others.exists()))

    def records_of(self, backup_id: str) -> Mapping[str, bool]:
        """Return the names of a backup's records, and whether each was checked."""
        with self._index.reading() as connection:
            mine = select(records.c.name, records.c.checked).where(records.c.backup_id == backup_id)
            return {row.name: row.checked for row in connection.execute(mine)}

    def known(self, backup_ids: Iterable[str]) -> dict[str, list[KnownRecord]]:
        """Return what is known of the records of each of some backups."""
        found: dict[str, list[KnownRecord]] = {}
        with self._index.reading() as connection:
            for batch in _batches(backup_ids):
                for row in connection.execute(select(records).where(records.c.backup_id.in_(batch))):
                    found.setdefault(row.backup_id, []).append(known_record(row))
        return found

    def last_synced(self, machine: str) -> float | None:
        """Return when the newest record of a machine was written that was checked."""
        mine = (records.c.machine == machine, records.c.checked)
        with self._index.reading() as connection:
            found: float | None = connection.scalar(select(func.max(records.c.written_at)).where(*mine))
        return found

    def forget_everything(self) -> None:
        """Forget all that is known of the bucket: another one is used, or it is read again from the start."""
        with self._index.writing() as connection:
            for table in (links, records, objects, uploads):
                connection.execute(delete(table))


class Uploads:
    """Multipart uploads that outlive a restart; implements the port `PartJournal`."""

    def __init__(self, index: Index, clock: Callable[[], float]) -> None:
        self._index, self._clock = index, clock

    def read(self, name: str) -> Parts | None:
        """Return an upload that was begun."""
        with self._index.reading() as connection:
            row = connection.execute(select(uploads).where(uploads.c.name == name)).first()
        if row is None:
            return None
        return Parts(row.upload_id, row.part_bytes, {int(n): etag for n, etag in orjson.loads(row.etags).items()})

    def begun(self, name: str, digest: str, upload_id: str, part_bytes: int) -> None:
        """Remember an upload, durably, before its first part is sent."""
        row = {"name": name, "digest": bytes.fromhex(digest), "upload_id": upload_id, "part_bytes": part_bytes}
        row |= {"etags": "{}", "created_at": self._clock()}
        with self._index.writing() as connection:
            connection.execute(upsert(uploads).values(row).on_conflict_do_update(index_elements=["name"], set_=row))

    def done(self, name: str, number: int, etag: str) -> None:
        """Remember a part; parts of one upload may be done at once."""
        mine = uploads.c.name == name
        with self._index.writing() as connection:
            text = connection.scalar(select(uploads.c.etags).where(mine))
            if text is not None:
                etags = orjson.dumps({**orjson.loads(text), str(number): etag}).decode()
                connection.execute(update(uploads).where(mine).values(etags=etags))

    def forget(self, name: str) -> None:
        """Forget an upload that was finished or given up."""
        with self._index.writing() as connection:
            connection.execute(delete(uploads).where(uploads.c.name == name))

    def of_digest(self, digest: str) -> str | None:
        """Return the object name under which a blob's upload was begun, the newest."""
        mine = select(uploads.c.name).where(uploads.c.digest == bytes.fromhex(digest))
        with self._index.reading() as connection:
            return connection.scalar(mine.order_by(uploads.c.created_at.desc(), uploads.c.name.desc()).limit(1))


def _insert_objects(connection: Connection, found: Iterable[RemoteObject]) -> None:
    rows = [
        {
            "name": each.name,
            "digest": bytes.fromhex(each.digest),
            "size_bytes": each.size_bytes,
            "stored_bytes": each.stored_bytes,
        }
        for each in found
    ]
    if rows:
        connection.execute(upsert(objects).on_conflict_do_nothing(), rows)


def known_record(row: Any) -> KnownRecord:
    """Return a row of the table as a record."""
    backup = Backup.from_dict(orjson.loads(row.backup))
    stages = tuple(row.stages.split())
    return KnownRecord(row.name, backup, row.machine, row.seq, stages, row.checked, row.written_at)


def _batches(values: Iterable[_T]) -> Iterator[list[_T]]:
    whole = list(values)
    for at in range(0, len(whole), _BATCH):
        yield whole[at : at + _BATCH]
