"""Blobs that arrive from elsewhere, piece by piece: nothing has a name in the store before all of it was checked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from blake3 import blake3

from ..state.errors import BlobDamaged
from ..state.manifest import BlobRef
from .blobs import BlobStore
from .files import create_exclusive, store_error, translated
from .staging import Staging
from .writeback import start_writeback


class Arriving:
    """A blob of which a part is here, in a staging file."""

    def __init__(self, path: Path, ref: BlobRef) -> None:
        self._path, self._ref, self._hasher = path, ref, blake3()
        self.size_bytes = 0
        with translated("create", path):
            self._fd = create_exclusive(path)

    def write(self, data: bytes) -> None:
        """Append bytes. Raises: BlobDamaged when there are more than the blob has, StoreFull, StoreFailed."""
        if self.size_bytes + len(data) > self._ref.size_bytes:
            raise BlobDamaged(f"blob {self._ref.digest[:16]}… arrived with more than {self._ref.size_bytes} bytes")
        self._hasher.update(data)
        view, start = memoryview(data), self.size_bytes
        with translated("write", self._path):
            while view:
                view = view[os.write(self._fd, view) :]
        self.size_bytes += len(data)
        start_writeback(self._fd, start, len(data))

    def finish(self) -> None:
        """Check what arrived, and make its bytes durable. Raises: BlobDamaged, StoreFull, StoreFailed."""
        if self.size_bytes != self._ref.size_bytes or self._hasher.hexdigest() != self._ref.digest:
            raise BlobDamaged(f"blob {self._ref.digest[:16]}… arrived with other bytes than its digest says")
        with translated("sync", self._path):
            os.fsync(self._fd)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


class StoreBlobs:
    """The blobs of this machine for what sends and receives them. Safe to use from several threads."""

    def __init__(self, blobs: BlobStore, staging: Staging) -> None:
        self._blobs, self._staging = blobs, staging

    def open(self, digest: str) -> BinaryIO:
        """Open a blob for reading. Raises: BlobNotFound, StoreFailed."""
        return os.fdopen(self._blobs.open(digest), "rb", buffering=0)

    def is_sound(self, ref: BlobRef) -> bool:
        """Read a blob and tell whether it is there, whole and undamaged."""
        return self._blobs.has(ref) and self._blobs.is_sound(ref)

    @contextmanager
    def receive(self, ref: BlobRef) -> Iterator[Arriving]:
        """Take a blob in; left without an error it is checked and takes its name, in place of a damaged file too.

        Durability: on leaving, the blob survives power loss. An error inside leaves what was there before.
        Raises: BlobDamaged when the bytes are others, StoreFull, StoreFailed.
        """
        path = self._staging.new_path()
        arriving = Arriving(path, ref)
        try:
            try:
                yield arriving
                arriving.finish()
            finally:
                arriving.close()
            unsynced: set[Path] = set()
            try:
                self._blobs.publish(path, ref, unsynced)
            except OSError as error:
                raise store_error(error, "publish a blob from", path) from error
            self._blobs.sync_folders(unsynced)
        finally:
            path.unlink(missing_ok=True)  # there only when something failed
