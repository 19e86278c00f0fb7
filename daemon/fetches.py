"""What is brought back from the bucket: batches of blobs in the background, and single ones that somebody waits for.

A batch lives in memory alone: what of it has arrived is in the store, and asking for the rest again is another batch.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, Literal

from ..codec import manifest_file
from ..db.presence import blob_sizes, note_present
from ..state.errors import BadInput, BlobNotFound, NotFound, TorporError, Unavailable
from ..state.ids import parse_digest
from ..state.manifest import BlobRef, manifest_blobs
from ..state.problems import to_problem
from ..sync.fetch import Download, Fetcher
from .catalog import Catalog

BatchState = Literal["running", "done", "failed", "cancelled"]
KEPT = 64  # batches that ended, so that somebody may still ask how
ERRORS_SHOWN = 10
MEASURED_BYTES = 1 << 20  # less says nothing of a rate


class Batch:
    """Blobs that were asked for together, in their order."""

    def __init__(self, batch_id: str, backup_id: str, refs: Sequence[BlobRef], began_at: float) -> None:
        self.id, self.backup_id, self.began_at = batch_id, backup_id, began_at
        self.size_bytes = sum(ref.size_bytes for ref in refs)
        self.downloads: list[Download] = []
        self.errors: dict[str, BaseException] = {}
        self.left, self.ended_at = len(refs), began_at if not refs else None
        self.cancelled = False

    @property
    def state(self) -> BatchState:
        """Return how it is, or how it ended."""
        if self.cancelled:
            return "cancelled"
        if self.ended_at is None:
            return "running"
        return "failed" if self.errors else "done"

    def describe(self, now: float) -> dict[str, Any]:
        """Tell how far it is, as the API does. Bytes are raw ones."""
        arrived = sum(download.arrived_bytes for download in self.downloads)
        seconds = max((self.ended_at if self.ended_at is not None else now) - self.began_at, 1e-9)
        errors = list(self.errors.items())[:ERRORS_SHOWN]
        return {
            "id": self.id,
            "backup_id": self.backup_id,
            "state": self.state,
            "blobs": len(self.downloads),
            "blobs_done": sum(_is_here(download) for download in self.downloads),
            "blobs_failed": len(self.errors),
            "bytes": self.size_bytes,
            "bytes_done": arrived,
            "seconds": seconds,
            "bytes_per_s": arrived / seconds,
            "errors": [{"digest": digest, "problem": to_problem(_told(error))} for digest, error in errors],
        }


def _is_here(download: Download) -> bool:
    result = download.result
    return result.done() and not result.cancelled() and result.exception() is None


def _told(error: BaseException) -> TorporError:
    return error if isinstance(error, TorporError) else TorporError(f"{type(error).__name__}: {error}")


class Fetches:
    """Batches and single blobs over one fetcher. Safe to call from several threads."""

    def __init__(
        self,
        catalog: Catalog,
        fetcher: Fetcher,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        measured: Callable[[int, float], None],
    ) -> None:
        self._catalog, self._fetcher, self._clock, self._new_id = catalog, fetcher, clock, new_id
        self._measured = measured
        self._lock = threading.Lock()
        self._batches: OrderedDict[str, Batch] = OrderedDict()

    def start(self, backup_id: str, digests: Sequence[str] | None = None) -> Batch:
        """Begin to bring blobs here, in this order: those given, or all of a backup that are not here.

        Blobs that are on their way already are joined. Raises: BackupNotFound, ManifestDamaged, BadInput.
        """
        refs = self._missing_of(backup_id) if digests is None else self._refs(digests)
        batch = Batch(self._new_id(), backup_id, refs, self._clock())
        with self._lock:
            ended = [each.id for each in self._batches.values() if each.ended_at is not None]
            for old in ended[: max(len(ended) - KEPT, 0)]:
                del self._batches[old]
            self._batches[batch.id] = batch
        batch.downloads += [self._fetcher.ask(ref) for ref in refs]
        for download in batch.downloads:
            download.result.add_done_callback(partial(self._ended, batch, download))
        return batch

    def _missing_of(self, backup_id: str) -> list[BlobRef]:
        named = manifest_blobs(manifest_file.load(self._catalog.manifest_json(backup_id)))
        refs = {digest: BlobRef(digest, size) for digest, (size, _) in named.items()}
        return [refs[digest] for digest in self._catalog.blobs.missing(refs.values())]

    def _refs(self, digests: Sequence[str]) -> list[BlobRef]:
        wanted = list(dict.fromkeys(parse_digest(digest) for digest in digests))
        with self._catalog.index.reading() as connection:
            sizes = blob_sizes(connection, wanted)
        if unknown := [digest for digest in wanted if digest not in sizes]:
            raise BadInput(f"no backup needs {len(unknown)} of these blobs, {unknown[0][:16]}… among them")
        return [BlobRef(digest, sizes[digest]) for digest in wanted]

    def _ended(self, batch: Batch, download: Download, result: Future[None]) -> None:
        """Count a download of a batch; measure the batch when it was the last."""
        error = None if result.cancelled() else result.exception()
        with self._lock:
            batch.left -= 1
            batch.cancelled = batch.cancelled or result.cancelled()
            if error is not None:
                batch.errors[download.ref.digest] = error
            if batch.left:
                return
        ended_at, whole = self._clock(), not batch.errors and not batch.cancelled
        try:
            if whole and batch.size_bytes >= MEASURED_BYTES:
                self._measured(batch.size_bytes, ended_at - batch.began_at)
        finally:
            batch.ended_at = ended_at

    def batch(self, batch_id: str) -> dict[str, Any]:
        """Tell how far a batch is. Raises: NotFound for one that nobody knows any more."""
        with self._lock:
            found = self._batches.get(batch_id)
        if found is None:
            raise NotFound(f"there is no fetch {batch_id[:40]}", hint="`torpor fetch` begins another one.")
        return found.describe(self._clock())

    def cancel(self, batch_id: str) -> dict[str, Any]:
        """End a batch, as far as nobody else waits for its blobs. What has arrived stays. Raises: NotFound."""
        self.batch(batch_id)
        with self._lock:
            batch = self._batches[batch_id]
            batch.cancelled = batch.left > 0
        if batch.cancelled:
            for download in batch.downloads:
                self._fetcher.leave(download)
        return batch.describe(self._clock())

    def one(self, digest: str) -> Download:
        """Begin to bring one blob here, before all that nobody waits for. Raises: BlobNotFound."""
        with self._catalog.index.reading() as connection:
            sizes = blob_sizes(connection, [digest])
        if digest not in sizes:
            raise BlobNotFound(f"no backup needs blob {digest[:16]}…")
        return self._fetcher.ask(BlobRef(digest, sizes[digest]), urgent=True)

    def down(self) -> TorporError | None:
        """Return why nothing can be fetched for the moment, as far as it is known."""
        return self._fetcher.down()

    def close(self) -> None:
        """Let everybody go who waits."""
        self._fetcher.close()


def outcome(download: Download) -> None:
    """Raise what a download that is done failed with."""
    if download.result.cancelled():
        raise Unavailable("the download was ended", hint="Ask again; what had arrived of other blobs is kept.")
    error = download.result.exception()
    if error is not None:
        raise error


def arrived(catalog: Catalog) -> Callable[[BlobRef], None]:
    """Return what notes in the index that a blob is here."""

    def note(ref: BlobRef) -> None:
        with catalog.index.writing() as connection:
            note_present(connection, [ref.digest])

    return note
