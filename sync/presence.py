"""Whether objects that a record names are there, and will stay."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from ..state.errors import ObjectNotFound
from ..state.remote import BLOBS_PREFIX, MARKS_PREFIX, RemoteObject, condemned_blob, removed_backup
from .bucket import Bucket
from .parallel import Pool, in_parallel

# A listing answers for a thousand objects at once, so for many it is the cheaper way, unless the bucket is far larger.
LIST_FROM = 64
LISTED_PER_OBJECT = 50


@dataclass(frozen=True, slots=True)
class Marks:
    """What was marked in a bucket: blobs' objects that are condemned, with the time of it, and backups taken out."""

    condemned: dict[str, float]
    removed: frozenset[str]


def read_marks(bucket: Bucket) -> Marks:
    """Read which objects are going to be deleted, and which backups stay out. Raises: the bucket's errors."""
    listed = [(info.name, info.modified_at) for info in bucket.list(MARKS_PREFIX)]
    condemned = {blob: at for name, at in listed if (blob := condemned_blob(name)) is not None}
    return Marks(condemned, frozenset(filter(None, (removed_backup(name) for name, _ in listed))))


class Presence:
    """Looks objects up in the bucket; `looked` is called behind each answer, and may end it."""

    def __init__(self, bucket: Bucket, pool: Pool, looked: Callable[[], None] = lambda: None) -> None:
        self._bucket, self._pool, self._looked = bucket, pool, looked

    def doomed(self, objects: Collection[RemoteObject], marks: Marks) -> tuple[set[str], set[str]]:
        """Return the names of those that are condemned, and of those that are gone or have another size.

        The marks were read before: a condemnation is withdrawn only when its object is gone, which is seen then.
        """
        marked = {found.name for found in objects if found.name in marks.condemned}
        return marked, self._gone([found for found in objects if found.name not in marked])

    def _gone(self, objects: Collection[RemoteObject]) -> set[str]:
        left = {found.name: found for found in objects}
        if len(left) >= LIST_FROM:
            self._strike_listed(left)
        looked = in_parallel(self._pool, self._is_there, list(left.values()))
        return {name for name, there in zip(list(left), looked, strict=True) if not there}

    def _strike_listed(self, left: dict[str, RemoteObject]) -> None:
        budget = LISTED_PER_OBJECT * len(left)
        for count, info in enumerate(self._bucket.list(BLOBS_PREFIX)):
            found = left.get(info.name)
            if found is not None and found.stored_bytes == info.size_bytes:
                del left[info.name]
            if count % 1000 == 0:
                self._looked()
            if not left or count >= budget:
                return

    def _is_there(self, found: RemoteObject) -> bool:
        self._looked()
        try:
            return self._bucket.head(found.name).size_bytes == found.stored_bytes
        except ObjectNotFound:
            return False
