"""Whether objects that a record names are there, and will stay."""

from __future__ import annotations

from collections.abc import Collection

from ..state.errors import ObjectNotFound
from ..state.remote import BLOBS_PREFIX, CONDEMNED_PREFIX, RemoteObject, condemned_blob
from .bucket import Bucket
from .parallel import Pool, in_parallel

# A listing answers for a thousand objects at once, so for many it is the cheaper way, unless the bucket is far larger.
LIST_FROM = 64
LISTED_PER_OBJECT = 50


def condemned(bucket: Bucket) -> set[str]:
    """Return the blobs' objects that are going to be deleted. Raises: the bucket's errors."""
    names = (condemned_blob(info.name) for info in bucket.list(CONDEMNED_PREFIX))
    return {name for name in names if name is not None}


class Presence:
    """Looks objects up in the bucket."""

    def __init__(self, bucket: Bucket, pool: Pool) -> None:
        self._bucket, self._pool = bucket, pool

    def doomed(self, objects: Collection[RemoteObject]) -> tuple[set[str], set[str]]:
        """Return the names of those that are condemned, and of those that are gone or have another size.

        The condemnations are read first: one is withdrawn only when its object is gone, which is then seen.
        """
        listed = condemned(self._bucket)
        marked = {found.name for found in objects if found.name in listed}
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
            if not left or count >= budget:
                return

    def _is_there(self, found: RemoteObject) -> bool:
        try:
            return self._bucket.head(found.name).size_bytes == found.stored_bytes
        except ObjectNotFound:
            return False
