"""What is kept of a save that fails: text and tokens never fail with the KV cache that was captured with them.

Pictures and embeddings are large like a KV cache, so they stay away too when there is no room. When only the KV
cache was lost, everything else is saved; when that cannot be either, text and tokens are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..state.errors import MissingBlobs, QuotaFull, SnapshotLost, StoreFailed, StoreFull, TorporError
from ..state.fingerprint import Fingerprint
from ..state.manifest import LayerName
from .save_job import SaveJob

LARGE: tuple[LayerName, ...] = ("media", "vision_cache", "kv_cache")
_KV: tuple[LayerName, ...] = ("kv_cache",)
_MAY_LEAVE_TEXT = (StoreFull, StoreFailed, SnapshotLost, MissingBlobs)  # what one layer fails with, and another not


def smaller(jobs: Sequence[SaveJob], error: Exception) -> Iterator[list[SaveJob]]:
    """Yield what may be saved of some jobs that failed together, the most first; nothing where that is hopeless."""
    if isinstance(error, TorporError) and not isinstance(error, _MAY_LEAVE_TEXT) and type(error) is not TorporError:
        return
    why = reason(error)
    for layers in [_KV, LARGE] if isinstance(error, SnapshotLost) else [LARGE]:
        if any(holds_large(job, layers) for job in jobs):
            yield [_without(job, layers, why) for job in jobs]


def reason(error: Exception) -> str:
    """Say why a layer was left out, for the manifest."""
    if isinstance(error, QuotaFull):
        return "the quota of the store was used up"
    if isinstance(error, StoreFull):
        return "the disk of the store was full"
    detail = error.detail if isinstance(error, TorporError) else f"{type(error).__name__}: {error}"
    return f"it could not be saved: {detail}"


def holds_large(job: SaveJob, layers: Sequence[LayerName] = LARGE) -> bool:
    """Tell whether a job saves more than text and tokens."""
    return ("kv_cache" in layers and job.kv is not None) or any(
        name in job.trees and job.trees[name].value not in (None, {}, []) for name in layers
    )


def _without(job: SaveJob, layers: Sequence[LayerName], why: str) -> SaveJob:
    """Return a job without its KV cache and further layers, as if it had not been run."""
    gone = [name for name in layers if holds_large(job, [name])]
    known = job.fingerprint_future
    failed = known is not None and known.done() and known.exception() is not None
    return replace(
        job,
        trees={name: encoded for name, encoded in job.trees.items() if name not in gone},
        omitted=job.omitted | dict.fromkeys(gone, why),
        fingerprint=Fingerprint if failed else job.fingerprint,
        fingerprint_future=None if failed else known,
        kv=None,
        written=[],
        futures=[],
        stored=[],
    )
