"""Blobs of a store whose second copy lies in a bucket: what is missing or damaged is brought back, then read again.

The daemon downloads and heals the store; this process reads files as ever, and holds neither credentials nor boto3.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from ..state.errors import BlobNotFound, DaemonNotRunning, SyncOff, TorporError, Unavailable
from ..state.manifest import BlobRef
from ..state.problems import from_problem
from ..store.blobs import PutResult
from .api import Api
from .blob_access import BlobAccess
from .losses import failure_of, is_loss, lost

WAIT_S = 20.0  # of one request; who waits longer asks again
PATIENCE_S = 15.0  # with a daemon that is being restarted
AGAIN_S = 0.2


class Fetching:
    """A BlobAccess over another one. Where everything is here it costs nothing. Safe to use from several threads."""

    def __init__(
        self,
        blobs: BlobAccess,
        api: Api,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._blobs, self._api, self._clock, self._sleep = blobs, api, clock, sleep

    def put(
        self,
        buffers: Sequence[memoryview],
        still_good: Callable[[], None] | None = None,
        *,
        within: str | None = None,
    ) -> PutResult:
        """Store bytes; a damaged blob that is found is written anew."""
        return self._blobs.put(buffers, still_good, within=within)

    def put_pieces(self, pieces: Iterable[memoryview], *, within: str | None = None) -> PutResult:
        """Store bytes that are made a piece at a time."""
        return self._blobs.put_pieces(pieces, within=within)

    def settle(self) -> None:
        """Make everything that was put durable."""
        self._blobs.settle()

    def missing(self, refs: Iterable[BlobRef]) -> list[str]:
        """Return the digests that the store lacks, wherever else they are."""
        return self._blobs.missing(refs)

    def read_into(self, ref: BlobRef, buffers: Iterable[memoryview]) -> None:
        """Fill buffers with a blob, from the bucket if need be. A loss says why the bucket did not help."""
        try:
            self._blobs.read_into(ref, buffers)
        except TorporError as error:
            if not is_loss(error):
                raise
            self._bring(ref, error)
            self._blobs.read_into(ref, buffers)

    def read(self, ref: BlobRef) -> memoryview:
        """Return a blob in fresh memory, from the bucket if need be."""
        try:
            return self._blobs.read(ref)
        except TorporError as error:
            if not is_loss(error):
                raise
            self._bring(ref, error)
            return self._blobs.read(ref)

    def expect(self, backup_id: str, refs: Sequence[BlobRef]) -> None:
        """Let the daemon run ahead with what is missing of these blobs, in the order in which they will be read."""
        missing = self._blobs.missing(refs)
        if len(missing) > 1:
            with suppress(TorporError):  # who reads them is told
                self._api.json("POST", f"/v1/backups/{backup_id}/fetch", json={"digests": missing})

    def look(self, digests: Iterable[str]) -> tuple[frozenset[str], TorporError | None]:
        """Return which of some blobs the bucket has, and why they cannot be fetched now, where that is known."""
        wanted = sorted(digests)
        if not wanted:
            return frozenset(), None
        try:
            found: dict[str, Any] = self._api.json("POST", "/v1/blobs/remote", json={"digests": wanted})
        except SyncOff:
            return frozenset(), None
        trouble = found["trouble"]
        return frozenset(found["remote"]), None if trouble is None else from_problem(trouble)

    def bring(self, backup_id: str, refs: Sequence[BlobRef]) -> None:
        """Bring here what is missing of some blobs. Raises: BlobNotFound, what the bucket failed with."""
        self.expect(backup_id, refs)
        by_digest = {ref.digest: ref for ref in refs}
        for digest in self._blobs.missing(refs):
            try:
                self._bring(by_digest[digest], BlobNotFound(f"blob {digest[:16]}… is not in the store"))
            except BlobNotFound as loss:
                raise failure_of(loss) or loss from None

    def _bring(self, ref: BlobRef, loss: TorporError) -> None:
        """Wait until the daemon has brought a blob here. Raises: the loss, with the bucket's error as its cause."""
        until = self._clock() + PATIENCE_S
        while True:
            try:
                answer = self._api.call("POST", f"/v1/blobs/{ref.digest}/fetch", params={"wait_s": WAIT_S})
                if answer.status_code == 200:
                    return
                until = self._clock() + PATIENCE_S
            except DaemonNotRunning:
                if self._clock() + AGAIN_S > until:
                    raise
                self._sleep(AGAIN_S)
            except SyncOff:
                raise loss from None
            except TorporError as failure:
                if type(failure) is not Unavailable or self._clock() + AGAIN_S > until:
                    raise lost(loss, failure) from failure
                self._sleep(AGAIN_S)  # the daemon is stopping; the next one goes on

    def close(self) -> None:
        """Free what is held."""
        self._blobs.close()
