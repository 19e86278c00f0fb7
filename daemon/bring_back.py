"""Puts together what brings things back from the bucket."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import orjson
from ulid import ULID

from ..codec.keys import KeyRing
from ..db.remembered import Remembered
from ..db.remote import RemoteIndex
from ..state.errors import TorporError
from ..state.manifest import BlobRef
from ..state.quota import on_disk
from ..state.rates import FETCH_KEY, KEPT, Observation, from_rows, to_rows
from ..store.arriving import Arriving, StoreBlobs
from ..store.blobs import BlobStore
from ..store.staging import Staging
from ..sync.bucket import Bucket
from ..sync.fetch import Fetcher, Submits
from ..sync.repository import Repository
from .asks import Asks
from .catalog import Catalog
from .fetch_api import BackFromBucket
from .fetches import Fetches, arrived
from .remote_backups import RemoteBackups
from .room import Room

DOWNLOADS = 6  # at once: enough for a long way to the bucket, and few enough for those that want few


def bring_back(
    catalog: Catalog,
    bucket: Bucket,
    known: RemoteIndex,
    *,
    repository: Callable[[], Repository],
    ring: Callable[[], KeyRing | None],
    room: Room,
    threads: Submits,
    lookers: Submits,
    away: Callable[[], TorporError | None] = lambda: None,
    clock: Callable[[], float] = time.time,
) -> BackFromBucket:
    """Return what the routes need. `threads` run downloads, `DOWNLOADS` of them at once; `lookers` what else waits.

    `repository` opens it, and raises what keeps it from being opened; `ring` are the keys as they are now; `away` says
    why the bucket cannot be used, as far as those know who send.
    """
    fetcher = Fetcher(
        bucket,
        known,
        _WithRoom(catalog.blobs, catalog.staging, room),
        threads,
        ring=ring,
        arrived=arrived(catalog),
        random=random.random,
        look_again=lambda: backups.look(),
    )
    fetches = Fetches(
        catalog,
        fetcher,
        clock=time.monotonic,
        new_id=lambda: str(ULID()),
        measured=lambda size_bytes, seconds: remember_rate(Remembered(catalog.index), size_bytes, seconds, clock()),
    )
    backups = RemoteBackups(catalog, known, repository, time.monotonic, _start, lambda: fetcher.down() or away())
    return BackFromBucket(fetches, backups, known, Asks(lookers))


class _WithRoom(StoreBlobs):
    """The blobs of this machine, which ask for room before one is taken in."""

    def __init__(self, blobs: BlobStore, staging: Staging, room: Room) -> None:
        super().__init__(blobs, staging)
        self._room = room

    @contextmanager
    def receive(self, ref: BlobRef) -> Iterator[Arriving]:
        """Take a blob in. Raises: QuotaFull, and as without."""
        with self._room.taking() as take:
            take(on_disk(ref.size_bytes))
            with super().receive(ref) as arriving:
                yield arriving


def _start(look: Callable[[], None]) -> None:
    """Look at the bucket in a thread of its own: behind a long download it would wait for hours."""
    threading.Thread(target=look, name="look", daemon=True).start()


def remember_rate(remembered: Remembered, size_bytes: int, seconds: float, now: float) -> None:
    """Remember how fast a download was, so that plans can tell how long the next one takes."""
    raw = remembered.get("rate", FETCH_KEY, now=now)
    seen = from_rows("fetch", None if raw is None else orjson.loads(raw))
    kept = [*seen, Observation("fetch", size_bytes, seconds)][-2 * KEPT :]
    remembered.put("rate", FETCH_KEY, orjson.dumps(to_rows(kept)).decode(), now=now)
