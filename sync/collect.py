"""Collect what no record names any more, beside other machines that write, read and collect (state/collection.py)."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from dataclasses import dataclass

from ..codec.remote_files import dump_condemned
from ..state.collection import Grace, Seen, Verdict, clock_jumped, judge
from ..state.errors import ClockSkewed, ObjectDamaged, ObjectNotFound
from ..state.remote import (
    BLOBS_PREFIX,
    RECORDS_PREFIX,
    RecordName,
    RemoteRecord,
    condemned_name,
    is_blob_name,
)
from .parallel import Pool, in_parallel
from .presence import read_marks
from .repository import Repository


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did, or would do: counts of objects, and bytes that are free again.

    `waiting` are condemned and not due yet, or still named by a record that was there before.
    """

    dry_run: bool
    records: int
    blobs: int
    blob_bytes: int
    condemned: int
    deleted: int
    deleted_bytes: int
    withdrawn: int
    waiting: int


Progress = Callable[[str, int, int], None]


def no_progress(what: str, done: int, total: int) -> None:
    """Tell nobody."""


class Collector:
    """Collects one repository. `check` is asked before each deletion: what it raises ends the collection there."""

    def __init__(
        self,
        repository: Repository,
        pool: Pool,
        *,
        clock: Callable[[], float],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._repository, self._bucket, self._pool = repository, repository.bucket, pool
        self._clock, self._check = clock, check

    def run(self, grace: Grace = Grace(), *, dry_run: bool = False, progress: Progress = no_progress) -> Collected:  # noqa: B008
        """Condemn what no record names and is old enough, delete what was condemned before.

        Nothing is done by halves of a listing: one that fails ends it. Raises: ClockSkewed, ObjectDamaged (a record
        that cannot be read may name anything), KeyMissing, NewerFormat, and the bucket's errors.
        """
        now, here = self._bucket.now(), self._clock()
        marks = read_marks(self._bucket)
        sizes, blobs = self._blobs()
        names = self._record_names(marks.removed, dry_run)
        named = self._named(names, progress)
        seen = Seen(now, marks.condemned, blobs, named)
        if clock_jumped(seen, here):
            raise ClockSkewed(
                "the storage's clock and this machine's are too far apart to collect; nothing was deleted"
            )
        verdict = judge(seen, grace)
        if not dry_run:
            self._act(verdict, now, progress)
        return Collected(
            dry_run=dry_run,
            records=len(names),
            blobs=len(blobs),
            blob_bytes=sum(sizes.values()),
            condemned=len(verdict.condemn),
            deleted=len(verdict.delete),
            deleted_bytes=sum(sizes[name] for name in verdict.delete),
            withdrawn=len(verdict.withdraw),
            waiting=len(marks.condemned.keys() & blobs.keys()) - len(verdict.delete) + len(verdict.condemn),
        )

    def _blobs(self) -> tuple[dict[str, int], dict[str, float]]:
        listed = [info for info in self._bucket.list(BLOBS_PREFIX) if is_blob_name(info.name)]
        return {i.name: i.size_bytes for i in listed}, {i.name: i.modified_at for i in listed}

    def _record_names(self, removed: Collection[str], dry_run: bool) -> list[str]:
        """List the records that count; those of ours that another one stands for go, and of backups taken out."""
        listed = [(info.name, RecordName.parse(info.name)) for info in self._bucket.list(RECORDS_PREFIX)]
        foreign = [name for name, parsed in listed if parsed is None]
        if foreign:
            raise ObjectDamaged(f"{foreign[0][:120]!r} among the records is none; what it names is not known")
        out = {name for name, parsed in listed if parsed is not None and parsed.backup_id in removed}
        names = sorted(name for name, _ in listed if name not in out)
        if dry_run:
            return names
        for name in [*sorted(out), *self._repository.leftovers(names)]:
            self._bucket.delete(name)
            out.add(name)
        self._repository.index.forget_records(out)
        return [name for name in names if name not in out]

    def _named(self, names: list[str], progress: Progress) -> set[str]:
        """Return all objects that records name, read from the bucket: the index may be old, and forgets on purpose."""
        named: set[str] = set()
        for count, (_, record) in enumerate(self._repository.read_all(names), 1):
            if isinstance(record, RemoteRecord):
                named.update(found.name for found in record.objects.values())
            elif not isinstance(record, ObjectNotFound):  # one that was deleted meanwhile needs nothing any more
                raise record
            self._check()
            progress("records", count, len(names))
        return named

    def _act(self, verdict: Verdict, now: float, progress: Progress) -> None:
        self._each("delete", verdict.delete, self._delete, progress)
        self._each("condemn", verdict.condemn, lambda name: self._condemn(name, now), progress)
        self._each("withdraw", verdict.withdraw, lambda name: self._bucket.delete(condemned_name(name)), progress)

    def _each(self, what: str, names: tuple[str, ...], act: Callable[[str], None], progress: Progress) -> None:
        def checked(name: str) -> None:
            self._check()
            act(name)

        for count, _ in enumerate(in_parallel(self._pool, checked, names), 1):
            progress(what, count, len(names))

    def _delete(self, name: str) -> None:
        self._bucket.delete(name)
        self._repository.index.forget_objects([name])

    def _condemn(self, name: str, now: float) -> None:
        """Condemn an object. Two collectors may both do so; the later time counts, which only makes it later."""
        raw = dump_condemned(name, self._repository.machine, now)
        self._bucket.put(condemned_name(name), io.BytesIO(raw), len(raw))
