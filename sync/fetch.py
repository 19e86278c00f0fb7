"""Fetch blobs from the bucket: in parallel, in the order asked, decoded while they arrive, never a wrong byte.

A blob is streamed through its decoder into a file without a name; it takes its name when its digest is right. What is
finished stays, whatever comes then; what is in the middle goes on at its offset after a reset, and begins again only
when the process was killed.

| what comes | what is done |
|---|---|
| a reset, a stall, 5xx, SlowDown | go on at the offset, with full jitter, while it gets on (`Patience`) |
| other bytes than were written | once more from the start, then the blob's next object, then ObjectDamaged |
| an object that is not there | the blob's next object, then ObjectNotFound; it stays known: a 404 may be anybody's |
| nobody answers, nobody lets us in | that error at once, to everything that waits; for a moment nothing is tried |
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from ..codec.keys import KeyRing
from ..codec.objects import Decoder
from ..state.errors import (
    BlobDamaged,
    BucketNotFound,
    ClockSkewed,
    KeyMissing,
    ObjectDamaged,
    ObjectNotFound,
    Offline,
    RemoteDenied,
    RemoteFailed,
    StoreFull,
    Throttled,
    Timeout,
    TorporError,
)
from ..state.manifest import BlobRef
from ..state.remote import RemoteObject, blob_associated
from .bucket import Bucket
from .ports import BlobWriter, LocalBlobs, ObjectIndex

OF_ALL = (Offline, RemoteDenied, ClockSkewed, BucketNotFound, StoreFull)  # what fails one download this way fails each
DOWN_S = 5.0  # for how long that is taken to hold


class Submits(Protocol):
    """What runs downloads: threads."""

    def submit(self, work: Callable[[], None], /) -> Any:
        """Run a call in a thread, in the order in which calls came."""
        ...


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a download that does not get on is kept up. Getting on is `step_bytes` more since the last failure."""

    limit_s: float = 60.0
    base_s: float = 0.5
    longest_s: float = 10.0
    step_bytes: int = 64 << 10

    def delay_s(self, failures: int, random: Callable[[], float]) -> float:
        """Return how long to wait behind the `failures`-th failure in a row: full jitter."""
        return random() * min(self.longest_s, self.base_s * 2.0 ** min(failures, 10))


class Left(Exception):  # noqa: N818 - no failure: nobody wants the blob any more
    """A download that was left."""


class Download:
    """A blob that somebody waits for. `result` is done when the blob is here, or holds why it is not."""

    def __init__(self, ref: BlobRef) -> None:
        self.ref, self.result = ref, Future[None]()
        self.arrived_bytes = 0  # raw bytes that are here of it
        self.wanted = 0  # by how many
        self.urgent = self.begun = False
        self.left = threading.Event()

    def settle(self, error: BaseException | None) -> None:
        """Tell everybody who waits how it ended; those who left were told."""
        with suppress(InvalidStateError):
            self.result.set_result(None) if error is None else self.result.set_exception(error)

    def take(self, pieces: Iterable[bytes], writer: BlobWriter) -> None:
        """Write what was decoded. Raises: Left, BlobDamaged, ObjectDamaged, StoreFull, StoreFailed."""
        for piece in pieces:
            if self.left.is_set():
                raise Left
            writer.write(piece)
            self.arrived_bytes += len(piece)


class Fetcher:
    """Downloads of one bucket. Safe to use from several threads; one download of a blob serves all who wait for it."""

    def __init__(
        self,
        bucket: Bucket,
        objects: ObjectIndex,
        local: LocalBlobs,
        threads: Submits,
        *,
        ring: Callable[[], KeyRing | None],
        arrived: Callable[[BlobRef], None],
        random: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[threading.Event, float], object] = threading.Event.wait,
        patience: Patience = Patience(),
        look_again: Callable[[], object] = lambda: None,
    ) -> None:
        """Take the parts. `look_again` learns from the bucket what its records name now."""
        self._look_again = look_again
        self._bucket, self._objects, self._local, self._threads = bucket, objects, local, threads
        self._ring, self._arrived, self._random, self._clock = ring, arrived, random, clock
        self._sleep, self._patience = sleep, patience
        self._lock = threading.Lock()
        self._open: dict[str, Download] = {}  # by digest, until they are done
        self._waiting: list[tuple[bool, int, Download]] = []  # a heap: urgent ones first, then as they were asked for
        self._count = 0
        self._down: tuple[TorporError, float] | None = None

    def ask(self, ref: BlobRef, *, urgent: bool = False) -> Download:
        """Begin to fetch a blob, or join those who wait for it. `urgent` puts it before what is not."""
        with self._lock:
            download = self._open.get(ref.digest)
            if download is None or download.ref != ref:
                download = Download(ref)
                if self._down is not None and self._clock() < self._down[1]:
                    download.result.set_exception(self._down[0])
                    return download
                self._open[ref.digest] = download
            elif not urgent or download.urgent:
                download.wanted += 1
                return download
            download.wanted += 1
            download.urgent = urgent
            self._count += 1
            heapq.heappush(self._waiting, (not urgent, self._count, download))
        self._threads.submit(self._next)
        return download

    def leave(self, download: Download) -> None:
        """Stop waiting for a blob. When nobody else does, its download ends."""
        with self._lock:
            download.wanted -= 1
            if download.wanted > 0:
                return
            self._forget(download)
        self._end(download)

    def down(self) -> TorporError | None:
        """Return why nothing can be fetched for the moment, None as far as nobody knows of anything."""
        with self._lock:
            return self._down[0] if self._down is not None and self._clock() < self._down[1] else None

    def close(self) -> None:
        """End all downloads. What is finished stays."""
        with self._lock:
            downloads = list(self._open.values())
            self._open.clear()
        for download in downloads:
            self._end(download)

    @staticmethod
    def _end(download: Download) -> None:
        download.left.set()
        download.result.cancel()

    def _forget(self, download: Download) -> None:
        if self._open.get(download.ref.digest) is download:
            del self._open[download.ref.digest]

    def _next(self) -> None:
        """Run the first download that waits. One that became urgent stands twice in the queue, and runs once."""
        with self._lock:
            download = heapq.heappop(self._waiting)[2]
            if download.begun or download.left.is_set():
                return
            download.begun = True
        try:
            if not self._local.is_sound(download.ref):
                self._bring(download)
            self._arrived(download.ref)
        except BaseException as error:
            self._failed(download, error)
        else:
            with self._lock:
                self._down = None
                self._forget(download)
            download.arrived_bytes = download.ref.size_bytes
            download.settle(None)

    def _failed(self, download: Download, error: BaseException) -> None:
        """Tell those who wait; what nobody can fetch now is told to all who wait for anything."""
        with self._lock:
            failed = [download]
            if isinstance(error, OF_ALL):
                self._down = (error, self._clock() + DOWN_S)
                failed += [other for other in self._open.values() if not other.begun]
            for each in failed:
                self._forget(each)
        for each in failed:
            each.settle(error)
            each.left.set()

    def _bring(self, download: Download) -> None:
        """Fetch a blob; its writer may have sent it again under another name since the records were read."""
        try:
            self._bring_known(download)
        except ObjectNotFound:
            self._look_again()
            self._bring_known(download)

    def _bring_known(self, download: Download) -> None:
        """Fetch a blob from the first of its objects that gives it."""
        found: TorporError | None = None
        for each in self._objects.every_object(download.ref.digest):
            try:
                self._twice(download, each)
                return
            except ObjectNotFound as error:
                found = found or error
            except (ObjectDamaged, KeyMissing) as error:
                found = error
        raise found or ObjectNotFound(f"no object of blob {download.ref.digest[:16]}… is known in the bucket")

    def _twice(self, download: Download, found: RemoteObject) -> None:
        """Download an object; what comes damaged is asked for once more, since it may have been so on its way only."""
        try:
            self._download(download, found)
        except ObjectDamaged:
            self._download(download, found)

    def _download(self, download: Download, found: RemoteObject) -> None:
        """Stream an object into the store. Raises: ObjectDamaged, Left, the bucket's errors, StoreFull, StoreFailed."""
        download.arrived_bytes = 0
        decoder = Decoder(blob_associated(download.ref.digest), self._ring())
        try:
            with self._local.receive(download.ref) as writer:
                self._stream(download, found, decoder, writer)
                decoder.finish()
        except BlobDamaged as error:
            raise ObjectDamaged(f"{found.name} holds other bytes than its blob") from error

    def _stream(self, download: Download, found: RemoteObject, decoder: Decoder, writer: BlobWriter) -> None:
        """Feed a decoder with an object, over as many connections as it takes."""
        offset = sure = failures = 0  # bytes that came; those that had come when it last got on
        until = self._clock() + self._patience.limit_s
        while True:
            began = offset
            try:
                with self._bucket.get(found.name, offset=offset) as pieces:
                    for piece in pieces:
                        offset += len(piece)
                        download.take(decoder.feed(piece), writer)
                return
            except (Throttled, RemoteFailed, Timeout, Offline) as error:
                if download.left.is_set():
                    raise Left from error
                if 0 < found.stored_bytes <= offset:
                    return  # all of it came before the end was told
                if isinstance(error, Offline) and offset == began:
                    raise
                if offset - sure >= self._patience.step_bytes:
                    sure, failures, until = offset, 0, self._clock() + self._patience.limit_s
                wait_s = self._patience.delay_s(failures, self._random)
                failures += 1
                if self._clock() + wait_s > until:
                    raise
                self._sleep(download.left, wait_s)
