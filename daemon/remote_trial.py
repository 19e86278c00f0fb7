"""Try a bucket before anything is configured: all that the second copy does there, done once with a tiny object.

Nothing stays behind, and nothing of a repository that lies there is changed.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from ..state.errors import ObjectNotFound, RemoteFailed, TorporError
from ..state.remote import RepoInfo
from ..sync.bucket import Bucket
from ..sync.keys import unlock
from ..sync.quirks import PROBES_PREFIX, InProcess
from ..sync.repository import has_keys, read_info, read_small
from .remote_settings import S3Settings

CONNECT_S, DEADLINE_S = 5.0, 20.0  # somebody waits before a prompt
_BODY = b"Torpor tries whether this bucket can be used; this object may be removed.\n"


@dataclass(frozen=True, slots=True)
class Trial:
    """What a bucket was seen to be. `ahead_s`: how far its clock is before this machine's, in seconds."""

    repository: str | None
    encrypted: bool
    conditional_put: bool
    checksum: str
    ahead_s: float


def try_out(settings: S3Settings, clock: Callable[[], float], new_id: Callable[[], str]) -> Trial:
    """List, write, read, delete, and begin a large upload; find out what the storage keeps to.

    Raises: Offline, Timeout, RemoteDenied, BucketNotFound, ClockSkewed, RemoteRefused, RemoteFailed, Throttled,
    UnknownRepository, ObjectDamaged.
    """
    memory = InProcess()
    with _opened(settings, memory) as bucket:
        ahead_s = bucket.now() - clock()
        info, locked = read_info(bucket), has_keys(bucket)
        _write_and_read(bucket, f"{PROBES_PREFIX}{new_id().lower()}")
    return _judged(memory, info, locked=locked, ahead_s=ahead_s)


def opens(settings: S3Settings, passphrase: str) -> None:
    """Make sure that a passphrase opens the bucket's keys. Raises: WrongPassphrase, the bucket's errors."""
    with _opened(settings, InProcess()) as bucket:
        unlock(bucket, passphrase)


@contextmanager
def _opened(settings: S3Settings, memory: InProcess) -> Iterator[Bucket]:
    from ..sync.s3 import S3Bucket

    quick = replace(
        settings.options(),
        connect_timeout_s=min(settings.connect_timeout_s, CONNECT_S),
        stall_s=min(settings.stall_s, DEADLINE_S),
        deadline_s=min(settings.deadline_s, DEADLINE_S),
        attempts=1,
    )
    bucket = S3Bucket(quick, memory=memory)
    try:
        yield bucket
    finally:
        bucket.close()


def _write_and_read(bucket: Bucket, name: str) -> None:
    try:
        bucket.put(name, io.BytesIO(_BODY), len(_BODY), only_new=True)
        if read_small(bucket, name) != _BODY:
            raise RemoteFailed(f"get {name}: the storage gives back other bytes than it took")
        bucket.abort_upload(name, bucket.start_upload(name))
        bucket.delete(name)
    except BaseException:  # an impatient Ctrl-C too: what was written is taken back
        with suppress(TorporError):
            bucket.delete(name)
        raise
    with suppress(ObjectNotFound):
        bucket.head(name)
        raise RemoteFailed(f"delete {name}: the storage says yes, and keeps the object")


def _judged(memory: InProcess, info: RepoInfo | None, *, locked: bool, ahead_s: float) -> Trial:
    quirks = memory.read() or {}
    return Trial(
        repository=None if info is None else info.repo_id,
        encrypted=locked or (info is not None and info.encrypted),
        conditional_put=bool(quirks.get("conditional_put")),
        checksum=str(quirks.get("checksum", "none")),
        ahead_s=ahead_s,
    )
