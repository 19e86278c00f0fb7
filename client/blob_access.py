"""Two ways to the blobs with one contract: through shared files, or over HTTP.

Contract of a `BlobAccess` (tests/contract runs one suite over both, and over them with a bucket behind):
- `put` stores bytes under their digest; equal bytes are stored once, and it says whether it wrote;
- after `settle`, everything put before survives power loss;
- `read_into` fills buffers with exactly the bytes of the digest or raises; several threads may call it at once. It asks
  for a buffer when the one before is full, and may begin anew: so they may be one piece of memory, emptied in between.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from ..state.api import SAVE_HEADER
from ..state.crash_points import Checkpoint
from ..state.errors import BlobDamaged, StoreFailed
from ..state.manifest import BlobRef
from ..store.blobs import BlobStore, PutResult, digest_buffers
from ..store.files import translated
from ..store.home import Home
from ..store.staging import Staging
from .api import Api

_MOVED_HINT = "The home was moved or removed: open a new keeper."


class BlobAccess(Protocol):
    """Blobs of one store."""

    def put(
        self,
        buffers: Sequence[memoryview],
        still_good: Callable[[], None] | None = None,
        *,
        within: str | None = None,
    ) -> PutResult:
        """Store the joined bytes of some buffers; `still_good` raises when they were changed since they were hashed.

        `within` is the save whose promised room they take.
        Raises: QuotaFull, StoreFull, StoreFailed, DaemonNotRunning, and what `still_good` raises.
        """
        ...

    def put_pieces(self, pieces: Iterable[memoryview], *, within: str | None = None) -> PutResult:
        """Store bytes that are made a piece at a time, perhaps in the same memory. Raises: as `put` and they do."""
        ...

    def settle(self) -> None:
        """Make everything that was put durable."""
        ...

    def missing(self, refs: Iterable[BlobRef]) -> list[str]:
        """Return the digests that the store lacks."""
        ...

    def read_into(self, ref: BlobRef, buffers: Iterable[memoryview]) -> None:
        """Fill buffers with a blob, whose bytes are verified only once this has returned.

        Raises: BlobNotFound, BlobDamaged, StoreFailed, DaemonNotRunning.
        """
        ...

    def read(self, ref: BlobRef) -> memoryview:
        """Return a blob in fresh memory. Raises: as `read_into`."""
        ...

    def expect(self, backup_id: str, refs: Sequence[BlobRef]) -> None:
        """Be told which blobs of a backup will be read, in this order. Never raises."""
        ...

    def close(self) -> None:
        """Free what is held."""
        ...


class SharedFiles:
    """Blobs through the file system that the daemon uses too."""

    def __init__(self, home: Home, checkpoint: Checkpoint) -> None:
        self._blobs = BlobStore(home.store / "blobs", checkpoint, home.trashed_blobs)
        self._parent = home.store / "staging"
        self._staging: Staging | None = None
        self._unsynced: set[Path] = set()
        self._lock, self._settling = threading.Lock(), threading.Lock()

    def put(
        self,
        buffers: Sequence[memoryview],
        still_good: Callable[[], None] | None = None,
        *,
        within: str | None = None,
    ) -> PutResult:
        """Store bytes."""
        staging = self._opened()
        with self._noting() as unsynced:
            return self._blobs.put(staging, buffers, unsynced, still_good)

    def put_pieces(self, pieces: Iterable[memoryview], *, within: str | None = None) -> PutResult:
        """Store bytes that are made a piece at a time."""
        staging = self._opened()
        with self._noting() as unsynced:
            return self._blobs.put_pieces(staging, pieces, unsynced)

    def _opened(self) -> Staging:
        """Return the staging folder. It is made on first use, so a process that only reads leaves no trace."""
        with self._lock:
            if self._staging is None:
                with translated("look at", self._parent):
                    there = self._parent.is_dir()
                if not there:  # else a store would be made anew where nobody looks for one
                    raise StoreFailed(f"there is no store at {self._parent.parent} any more", hint=_MOVED_HINT)
                self._staging = Staging(self._parent)
            return self._staging

    @contextmanager
    def _noting(self) -> Iterator[set[Path]]:
        unsynced: set[Path] = set()
        try:
            yield unsynced
        finally:
            with self._lock:  # only now: a settle in another thread may have taken the set of before
                self._unsynced |= unsynced

    def settle(self) -> None:
        """Sync the folders that got new names; one thread after the other, for they may count on each other's."""
        with self._settling:
            with self._lock:
                folders, self._unsynced = self._unsynced, set()
            try:
                self._blobs.sync_folders(folders)
            except BaseException:
                with self._lock:
                    self._unsynced |= folders  # the next save must not count on them
                raise

    def missing(self, refs: Iterable[BlobRef]) -> list[str]:
        """Return the digests that cannot be read here."""
        return [ref.digest for ref in refs if self._blobs.find(ref) is None]

    def read_into(self, ref: BlobRef, buffers: Iterable[memoryview]) -> None:
        """Read and check a blob."""
        self._blobs.read_into(ref, buffers)

    def read(self, ref: BlobRef) -> memoryview:
        """Read and check a blob into fresh memory."""
        return self._blobs.read(ref)

    def expect(self, backup_id: str, refs: Sequence[BlobRef]) -> None:
        """Do nothing: what is read is here, or nowhere."""

    def close(self) -> None:
        """Remove the staging folder."""
        with self._lock:
            if self._staging is not None:
                self._staging.close()
                self._staging = None


class OverHttp:
    """Blobs through the API, for a process that shares no files with the daemon."""

    def __init__(self, api: Api) -> None:
        self._api = api

    def put(
        self,
        buffers: Sequence[memoryview],
        still_good: Callable[[], None] | None = None,
        *,
        within: str | None = None,
    ) -> PutResult:
        """Upload bytes unless the store has them. The daemon checks them and makes them durable before it answers."""
        ref = BlobRef(digest_buffers(buffers), sum(b.nbytes for b in buffers))
        if not self.missing([ref]):
            return PutResult(ref, written=False)
        headers = {"Content-Type": "application/octet-stream"} | ({} if within is None else {SAVE_HEADER: within})
        self._api.call("PUT", f"/v1/blobs/{ref.digest}", content=b"".join(buffers), headers=headers)
        return PutResult(ref, written=True)

    def put_pieces(self, pieces: Iterable[memoryview], *, within: str | None = None) -> PutResult:
        """Upload bytes, gathered first: one request takes them."""
        body = bytearray()
        for piece in pieces:
            body += piece
        return self.put([memoryview(body)], within=within)

    def settle(self) -> None:
        """Do nothing: each upload was durable when it was answered."""

    def missing(self, refs: Iterable[BlobRef]) -> list[str]:
        """Return the digests that the store lacks."""
        wanted = {ref.digest: ref.size_bytes for ref in refs}
        if not wanted:
            return []
        found: list[str] = self._api.json("POST", "/v1/blobs/missing", json={"blobs": wanted})["missing"]
        return found

    def read_into(self, ref: BlobRef, buffers: Iterable[memoryview]) -> None:
        """Download and check a blob, then copy it where it belongs."""
        body, at = self.read(ref), 0
        for buffer in buffers:
            buffer[:] = body[at : at + buffer.nbytes]
            at += buffer.nbytes

    def read(self, ref: BlobRef) -> memoryview:
        """Download and check a blob."""
        body = memoryview(self._api.call("GET", f"/v1/blobs/{ref.digest}").content)
        if body.nbytes != ref.size_bytes or digest_buffers([body]) != ref.digest:
            raise BlobDamaged(f"blob {ref.digest[:16]}… does not match its digest")
        return body

    def expect(self, backup_id: str, refs: Sequence[BlobRef]) -> None:
        """Do nothing: what is read is in the daemon's store, or nowhere."""

    def close(self) -> None:
        """Do nothing: the connections are the API's."""
