"""Blobs that are lost to a restore: which errors mean that, and what a plan says of them."""

from __future__ import annotations

import errno

from ..state.backup import Backup
from ..state.errors import (
    BlobDamaged,
    BlobNotFound,
    ClockSkewed,
    KeyMissing,
    ObjectDamaged,
    ObjectNotFound,
    Offline,
    RemoteDenied,
    StoreFailed,
    StoreFull,
    TorporError,
)
from ..state.manifest import Manifest, manifest_blobs, rebuildable

LET_GO = "no longer kept here (its TTL was over, or the room was short)"
NOT_THERE = "missing or damaged here, and not in S3"
_WHY: tuple[tuple[type[TorporError], str], ...] = (
    (Offline, "in S3, which cannot be reached"),
    (RemoteDenied, "in S3, which does not accept the credentials"),
    (ClockSkewed, "in S3, whose clock is too far from this machine's"),
    (KeyMissing, "in S3, encrypted with a key that this machine does not have"),
    (ObjectDamaged, "missing or damaged here, and damaged in S3 too"),
    (ObjectNotFound, NOT_THERE),
    (StoreFull, "in S3, and the disk here is full"),
)


def why_let_go(backup: Backup, manifest: Manifest) -> dict[str, str]:
    """Say of the KV cache and embeddings of a backup that they were let go of, where they were, by their blobs."""
    if backup.dropped_at is None:
        return {}
    blobs, went = manifest_blobs(manifest).items(), rebuildable(manifest.present_layers())
    return {digest: LET_GO for digest, (_, layer) in blobs if layer in went}


def is_loss(error: BaseException) -> bool:
    """Tell whether a blob is gone as far as this machine goes: no file, other bytes, or a sector that is not read."""
    cause = error.__cause__
    bad_sector = isinstance(error, StoreFailed) and isinstance(cause, OSError) and cause.errno == errno.EIO
    return bad_sector or isinstance(error, (BlobNotFound, BlobDamaged))


def lost(loss: TorporError, failure: TorporError) -> TorporError:
    """Return the loss of a blob that the bucket could not make good, because of `failure`."""
    kind = BlobNotFound if isinstance(loss, BlobNotFound) else BlobDamaged
    made = kind(f"{loss.detail}; the bucket could not make it good: {failure.detail}", hint=failure.hint)
    made.__cause__ = failure
    return made


def failure_of(loss: BaseException) -> TorporError | None:
    """Return what the bucket failed with, where a loss was made of it."""
    cause = loss.__cause__
    return cause if isinstance(cause, TorporError) and is_loss(loss) else None


def why(loss: BaseException) -> str | None:
    """Say where a lost blob is and why it is not had, where more is known than that it is missing or damaged."""
    failure = failure_of(loss)
    return None if failure is None else why_not_fetched(failure)


def why_not_fetched(failure: TorporError) -> str:
    """Say where a blob is that cannot be fetched, and why."""
    for kind, words in _WHY:
        if isinstance(failure, kind):
            return words
    return f"in S3, which fails ({failure.code})"
