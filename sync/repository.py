"""The repository that lies in a bucket: what it is, and the commit records in it."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

from ..codec.keys import KeyRing
from ..codec.remote_files import MAX_SMALL_BYTES, MAX_STORED_BYTES, dump_record, dump_repo, load_record, load_repo
from ..state.errors import (
    KeyMissing,
    NewerFormat,
    ObjectDamaged,
    ObjectExists,
    ObjectNotFound,
    RemoteFailed,
    TorporError,
    UnknownRepository,
)
from ..state.remote import (
    BLOBS_PREFIX,
    KEYS_PREFIX,
    RECORDS_PREFIX,
    REPO_NAME,
    RecordName,
    RemoteRecord,
    RepoInfo,
)
from .bucket import Bucket
from .parallel import Pool, in_parallel
from .ports import ObjectIndex

_TRIES = 3  # to read a record that came damaged: it may have been so on the way only


class Repository:
    """The bucket's records as this machine sees them. Safe to use from several threads."""

    def __init__(
        self, bucket: Bucket, machine: str, ring: KeyRing | None, index: ObjectIndex, pool: Pool, info: RepoInfo
    ) -> None:
        self.bucket, self.machine, self.ring, self.index, self.info = bucket, machine, ring, index, info
        self._pool = pool
        self._unreadable: dict[str, tuple[TorporError, int]] = {}  # and how often it was tried

    @classmethod
    def open(
        cls,
        bucket: Bucket,
        machine: str,
        ring: KeyRing | None,
        index: ObjectIndex,
        pool: Pool,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> Repository:
        """Open the bucket's repository, or make one. Without a ring nothing is written to one that has a key.

        Raises: UnknownRepository, KeyMissing, and the bucket's errors; then nothing was written.
        """
        info = read_info(bucket)
        if ring is None and ((info is not None and info.encrypted) or has_keys(bucket)):
            raise KeyMissing("what is in the bucket is encrypted, and this machine does not have the key")
        info = info or create_info(bucket, RepoInfo(new_id(), clock(), ring is not None))
        return cls(bucket, machine, ring, index, pool, info)

    def refresh(self) -> list[tuple[str, TorporError]]:
        """Learn which records came and went; return those that cannot be read, with the reason.

        What another record holds is not lost by one that is damaged. Raises: the bucket's errors; then nothing is
        forgotten.
        """
        known = self.index.record_names()  # before the listing: a record that is written meanwhile is not gone
        there = {info.name for info in self.bucket.list(RECORDS_PREFIX) if RecordName.parse(info.name)}
        self.index.forget_records(known - there)
        before = {name: self._unreadable[name] for name in there & self._unreadable.keys()}
        given_up = {name for name, (_, tries) in before.items() if tries >= _TRIES}
        self._unreadable = dict(before)
        for name, found in self.read_all(there - known - given_up):
            self._unreadable.pop(name, None)
            if isinstance(found, RemoteRecord):
                self.index.note_record(name, found, checked=False)
            elif not isinstance(found, ObjectNotFound):
                self._unreadable[name] = (found, before[name][1] + 1 if name in before else 1)
        return sorted((name, error) for name, (error, _) in self._unreadable.items())

    def read_all(self, names: Collection[str]) -> list[tuple[str, RemoteRecord | TorporError]]:
        """Read records in parallel. Those that are gone, damaged, or another key's come with the reason."""
        return list(in_parallel(self._pool, self._try_to_read, sorted(names)))

    def _try_to_read(self, name: str) -> tuple[str, RemoteRecord | TorporError]:
        try:
            return name, self.read_record(name)
        except (ObjectNotFound, ObjectDamaged, KeyMissing, NewerFormat) as error:
            return name, error

    def read_record(self, name: str) -> RemoteRecord:
        """Read a commit record. Raises: ObjectNotFound, ObjectDamaged, KeyMissing, NewerFormat, the bucket's errors."""
        return load_record(read_small(self.bucket, name, MAX_STORED_BYTES), name, self.ring)

    def record_names(self, backup_id: str) -> list[str]:
        """Return the names of a backup's records, of all machines, as the bucket lists them now."""
        names = (RecordName.parse(info.name) for info in self.bucket.list(RECORDS_PREFIX))
        return sorted(str(name) for name in names if name is not None and name.backup_id == backup_id)

    def leftovers(self, names: Collection[str]) -> list[str]:
        """Return those of some records that this machine wrote and that a checked one of its own stands for.

        A process that was killed behind a commit, or a request that came late, leaves one that nothing here knows.
        """
        mine: dict[str, list[RecordName]] = {}
        for name in filter(None, map(RecordName.parse, names)):
            if name.machine == self.machine:
                mine.setdefault(name.backup_id, []).append(name)
        return [name for several in mine.values() if len(several) > 1 for name in self._covered(several)]

    def _covered(self, names: list[RecordName]) -> Iterator[str]:
        checked = self.index.records_of(names[0].backup_id)
        top = max((n for n in names if checked.get(str(n))), key=lambda name: name.seq, default=None)
        if top is None:
            return
        earlier = [str(n) for n in names if n != top and n.seq <= top.seq]  # a later one is being written
        standing = self._try_to_read(str(top))[1]
        for name, record in self.read_all(earlier):
            useless = isinstance(record, ObjectDamaged)
            if isinstance(standing, RemoteRecord) and isinstance(record, RemoteRecord):
                useless = record.objects.keys() <= standing.objects.keys()
            if useless and isinstance(standing, RemoteRecord):
                yield name

    def require_same(self) -> None:
        """Make sure that what this daemon has opened is still there, before anything is sent to it.

        Raises: UnknownRepository when the bucket was emptied or holds another one, KeyMissing when it has a key by now.
        """
        info = read_info(self.bucket)
        if info is None or info.repo_id != self.info.repo_id:
            said = "was emptied" if info is None else "holds another repository"
            hint = "It is opened anew by itself in a minute, or with `torpor sync now`; nothing was written."
            raise UnknownRepository(f"the bucket {said} since this daemon opened it", hint=hint)
        if self.ring is None and has_keys(self.bucket):  # another machine made one since this daemon looked
            raise KeyMissing("what is in the bucket is encrypted by now, and this machine does not have the key")

    def write_record(self, name: str, record: RemoteRecord) -> int:
        """Write a commit record under a name that is new; return its size. Written before by us, it is written.

        Raises: ObjectExists when something else has the name, KeyMissing, TooLarge, and the bucket's errors.
        """
        self.require_same()
        raw = dump_record(record, name, self.ring)
        put_once(self.bucket, name, raw)
        return len(raw)


def read_info(bucket: Bucket) -> RepoInfo | None:
    """Return what repo.json says, None where there is no repository.

    Raises: UnknownRepository, ObjectDamaged, the bucket's errors.
    """
    try:
        return load_repo(read_small(bucket, REPO_NAME))
    except ObjectNotFound:
        return None


def has_keys(bucket: Bucket) -> bool:
    """Tell whether there is a key: a bucket may have begun without one."""
    return any(True for _ in bucket.list(KEYS_PREFIX))


def create_info(bucket: Bucket, info: RepoInfo) -> RepoInfo:
    """Write repo.json; return what is there then, which may be another machine's. Raises: UnknownRepository."""
    for prefix in (BLOBS_PREFIX, RECORDS_PREFIX):
        if any(True for _ in bucket.list(prefix)):
            raise UnknownRepository(f"the bucket has objects under {prefix} and no {REPO_NAME}")
    raw = dump_repo(info)
    with suppress(ObjectExists):  # another machine was first, or our own write whose reply was lost
        bucket.put(REPO_NAME, io.BytesIO(raw), len(raw), only_new=True)
    found = read_info(bucket)  # where the server takes no conditions, whoever wrote last is right
    if found is None:
        raise RemoteFailed(f"the storage took {REPO_NAME} and does not have it")
    return found


def put_once(bucket: Bucket, name: str, raw: bytes) -> None:
    """Write a small object under a new name; what our own write left there, its reply lost, is as good.

    Raises: ObjectExists, the bucket's errors.
    """
    try:
        bucket.put(name, io.BytesIO(raw), len(raw), only_new=True)
    except ObjectExists:
        if read_small(bucket, name, len(raw)) != raw:
            raise


def read_small(bucket: Bucket, name: str, most_bytes: int = MAX_SMALL_BYTES) -> bytes:
    """Read an object that is not large. Raises: ObjectDamaged when it is, ObjectNotFound, the bucket's errors."""
    found = bytearray()
    with bucket.get(name) as pieces:
        for piece in pieces:
            found += piece
            if len(found) > most_bytes:
                raise ObjectDamaged(f"{name} has more than {most_bytes} bytes")
    return bytes(found)
