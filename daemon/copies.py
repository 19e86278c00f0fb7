"""Where another copy of a damaged blob may be had: the trash, files in watched folders, the bucket."""

from __future__ import annotations

import os
import threading
from concurrent.futures import CancelledError
from contextlib import suppress

from ..db.damage import watched_copies
from ..state.errors import BlobNotFound, ObjectNotFound, Unavailable
from ..state.manifest import BlobRef
from ..state.watching import Signature
from .catalog import Catalog
from .fetches import Fetches
from .importer import Importer, Stopped
from .repair import Copies


def from_trash(catalog: Catalog) -> Copies:
    """Return the blobs that wait to be removed."""

    def bring(ref: BlobRef) -> bool:
        with catalog.locked():
            return bool(catalog.trash.take_back([ref.digest]))

    return Copies("the trash", bring)


def from_bucket(fetches: Fetches) -> Copies:
    """Return the bucket. It is waited for as long as it sends."""

    def bring(ref: BlobRef) -> bool:
        try:
            fetches.one(ref.digest).result.result()
        except (ObjectNotFound, BlobNotFound):
            return False
        except CancelledError as error:
            raise Unavailable("the daemon is being stopped") from error
        return True

    return Copies("the bucket", bring)


class WatchedCopies:
    """Files in watched folders from which backups were made: importing one again writes what the store lacks.

    They are read by the worker that reads all foreign files, and only while they are what they were then.
    """

    def __init__(self, catalog: Catalog, home: str) -> None:
        self._catalog = catalog
        self._importer, self._lock = Importer(home, threading.Lock()), threading.Lock()

    def copies(self) -> Copies:
        """Return them as a place to heal from."""
        return Copies("a file in a watched folder", self._bring)

    def stop(self) -> None:
        """End at once."""
        self._importer.stop()

    def _bring(self, ref: BlobRef) -> bool:
        with self._catalog.index.reading() as connection:
            files = watched_copies(connection, ref.digest)
        with self._lock:
            return any(self._import(ref, os.fsdecode(path), size, mtime) for path, size, mtime in files)

    def _import(self, ref: BlobRef, path: str, size_bytes: int, mtime_ns: int) -> bool:
        with suppress(OSError):
            status = os.stat(path)
            now = Signature.of(status.st_size, status.st_mtime_ns, status.st_ino)
            if now.matches(Signature(size_bytes, mtime_ns, 0)):
                try:
                    self._importer.ask(path, now)
                except Stopped as error:
                    raise Unavailable("the daemon is being stopped") from error
                finally:
                    self._importer.close()
                return self._catalog.blobs.has(ref)
        return False
