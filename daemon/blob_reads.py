"""Blobs as the daemon's own routes read them: from the store, else brought back from the bucket."""

from __future__ import annotations

from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as TooLate

from ..state.errors import BlobDamaged, BlobNotFound, ObjectNotFound, Timeout, Unavailable
from ..state.manifest import BlobRef
from .catalog import Catalog
from .fetch_api import BackFromBucket

PATIENCE_S = 20.0  # for a blob of the bucket: below that of whoever asks


class BlobReads:
    """Reads blobs, checked. Safe to use from several threads; none of them may be that of the event loop."""

    def __init__(self, catalog: Catalog, back: BackFromBucket | None, patience_s: float = PATIENCE_S) -> None:
        self._blobs, self._back, self._patience_s = catalog.blobs, back, patience_s

    def joined(self, refs: list[BlobRef]) -> memoryview:
        """Return the joined bytes of some blobs. Raises: BlobNotFound, BlobDamaged, StoreFailed, and as the bucket."""
        if len(refs) == 1:
            return self.one(refs[0])
        return memoryview(b"".join(self.one(ref) for ref in refs))

    def missing(self, refs: list[BlobRef]) -> list[str]:
        """Return those that are not here and cannot be brought here now; the others are here then."""
        missing = self._blobs.missing(refs)
        for digest in missing:
            try:
                self._bring(digest)
            except (BlobNotFound, Unavailable):
                break  # one that the bucket does not give at once: nobody waits for the others
        return self._blobs.missing(refs) if missing else []

    def one(self, ref: BlobRef) -> memoryview:
        """Return the bytes of a blob. Raises: as `joined`."""
        try:
            return self._blobs.read(ref)
        except (BlobNotFound, BlobDamaged):
            if self._back is None:
                raise
        self._bring(ref.digest)
        return self._blobs.read(ref)

    def _bring(self, digest: str) -> None:
        if self._back is None:
            raise BlobNotFound(f"blob {digest[:16]}… is not in the store")
        try:
            self._back.fetches.one(digest).result.result(self._patience_s)
        except ObjectNotFound as error:
            raise BlobNotFound(f"blob {digest[:16]}… is neither here nor in the bucket") from error
        except CancelledError as error:
            raise Unavailable("the daemon is being stopped") from error
        except TooLate as error:
            raise Timeout(f"blob {digest[:16]}… did not arrive from the bucket in time") from error
