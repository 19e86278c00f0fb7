"""The bucket and the repository in it, opened when they can be reached, and once for all who need them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from ulid import ULID

from ..codec.keys import KeyRing
from ..db.remote import RemoteIndex
from ..state.errors import KeyMissing, SyncOff, TorporError, Unavailable
from ..sync.bucket import Bucket
from ..sync.limiter import Limiter
from ..sync.network import steady_clock
from ..sync.parallel import Pool
from ..sync.repository import Repository, has_keys, read_info
from .keys import KeyStore
from .remote_settings import S3Settings
from .sync_memory import QuirksMemory, SyncMemory

if TYPE_CHECKING:
    from ..sync.s3 import S3Bucket

log = logging.getLogger("torpor.sync")

ASKERS, FAILURE_HOLDS_S = 4, 5.0  # who may wait for the bucket to be opened; how long a failure is everybody's
QUIRKS_KEY, REPOSITORY_KEY, ENCRYPTED_KEY = "quirks", "repository", "encrypted:"
_AGAIN_HINT = "`torpor key init` makes a key again; or set another S3_BUCKET or S3_PREFIX. Nothing was sent."


class Opening:
    """Opens the bucket. Safe to call from several threads; boto3 is imported with the first use."""

    def __init__(
        self,
        settings: S3Settings | None,
        *,
        machine: str,
        known: RemoteIndex,
        memory: SyncMemory,
        keys: KeyStore,
        pool: Pool,
        limiter: Limiter,
        clock: Callable[[], float],
    ) -> None:
        self._settings, self._machine, self._known, self._memory = settings, machine, known, memory
        self._keys, self._pool, self._limiter, self._clock = keys, pool, limiter, clock
        self._making, self._opening = threading.Lock(), threading.Lock()
        self._askers = threading.BoundedSemaphore(ASKERS)
        self._failure: tuple[TorporError | None, float] = (None, 0.0)
        self._bucket: S3Bucket | None = None
        self._repository: Repository | None = None

    def bucket(self) -> Bucket:
        """Return the bucket; nothing is sent by that. Raises: SyncOff, RemoteDenied, RemoteRefused."""
        if self._settings is None:
            raise SyncOff("there is no second copy: no S3 storage is configured")
        with self._making:
            if self._bucket is None:
                from ..sync.s3 import S3Bucket

                memory = QuirksMemory(self._memory, QUIRKS_KEY)
                self._bucket = S3Bucket(self._settings.options(), limiter=self._limiter, memory=memory)
            return self._bucket

    def bucket_when_needed(self) -> Bucket:
        """Return the bucket for somebody who is put together before it can be had: it is made at the first call."""
        return cast(Bucket, _Late(self.bucket))

    def break_off(self) -> None:
        """End every upload that is under way."""
        if self._bucket is not None:
            self._bucket.interrupt()

    def end(self) -> None:
        """Break off everything, for good."""
        if self._bucket is not None:
            self._bucket.close()

    @property
    def opened(self) -> Repository | None:
        """Return the repository if it was opened."""
        return self._repository

    def repository(self) -> Repository:
        """Return the repository, opened now if need be; a failure holds for a few seconds, for all who ask.

        Raises: SyncOff, KeyMissing, UnknownRepository, Offline, ...; Unavailable while it is being opened for others.
        """
        found = self._repository
        if found is not None:
            return found
        if not self._askers.acquire(blocking=False):  # else a network that swallows everything takes every thread
            raise Unavailable("the bucket is being opened", hint="Try again in a moment.")
        try:
            bucket = self.bucket()
            with self._opening:
                error, until = self._failure
                if error is not None and steady_clock() < until:
                    raise error
                return self._repository or self._open(bucket)
        finally:
            self._askers.release()

    def open_anew(self) -> Repository:
        """Open the repository, whatever was known of it. Raises: as `repository`."""
        bucket = self.bucket()
        with self._opening:
            self._repository = None
            return self._open(bucket)

    def close(self) -> None:
        """Forget the repository: it is opened anew at need."""
        with self._opening:
            self._repository, self._failure = None, (None, 0.0)

    def _open(self, bucket: Bucket) -> Repository:
        try:
            found = Repository.open(
                bucket, self._machine, self._ring_of(bucket), self._known, self._pool, clock=self._clock, new_id=_new_id
            )
        except TorporError as error:
            self._failure = (error, steady_clock() + FAILURE_HOLDS_S)
            raise
        self._settle(found.info.repo_id)
        self._repository, self._failure = found, (None, 0.0)
        return found

    def _settle(self, repo_id: str) -> None:
        """Forget what was known of another repository."""
        before: Any = self._memory.read(REPOSITORY_KEY)
        now = {"server": self._server(), "repo_id": repo_id}
        if before != now:
            if before is not None:
                log.warning("the bucket holds another repository than before; what was known of it is forgotten")
                self._known.forget_everything()
            self._memory.write(REPOSITORY_KEY, now)

    def _server(self) -> str:
        return "" if self._settings is None else self._settings.options().server

    def _ring_of(self, bucket: Bucket) -> KeyRing | None:
        """Return the keys of a bucket; a keyring is asked only where there is one, or was.

        A bucket that was encrypted once is so for ever here: nobody who takes its keys away, or empties it, gets plain
        backups. Raises: KeyMissing, the bucket's errors.
        """
        info = read_info(bucket)
        if info is None:
            self._refuse_emptied()
            return None
        key = f"{ENCRYPTED_KEY}{info.repo_id.lower()}"
        was = self._memory.read(key) is not None
        if not (was or info.encrypted or has_keys(bucket)):
            return None
        ring = self._keys.load(info.repo_id)
        if ring is None:
            raise KeyMissing("what is in the bucket is encrypted, and this machine does not have the key")
        if not was:
            self._memory.write(key, True)
        return ring

    def _refuse_emptied(self) -> None:
        before = self._memory.read(REPOSITORY_KEY)
        if not isinstance(before, dict) or before.get("server") != self._server():
            return
        if self._memory.read(f"{ENCRYPTED_KEY}{str(before.get('repo_id')).lower()}") is not None:
            raise KeyMissing("the bucket is empty now, and what was in it before was encrypted", hint=_AGAIN_HINT)


class _Late:
    """Stands for what another call makes: every attribute is that one's."""

    def __init__(self, made: Callable[[], object]) -> None:
        self._made = made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._made(), name)


def _new_id() -> str:
    return str(ULID())
