"""Read a backup: small layers and KV blocks, in parallel, every digest checked, before anything is handed over."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..codec import tree
from ..state.errors import InvalidManifest
from ..state.manifest import BlobRef, KVCache, Manifest, block_ranges
from ..state.plan import RestorePlan
from .blob_access import BlobAccess
from .capture import KVSink, RestoreTarget, Woken

READ_AHEAD = 6  # blocks on their way beyond those being read: keeps a disk busy while others are hashed


def read_backup(
    manifest: Manifest, plan: RestorePlan, target: RestoreTarget[Any], blobs: BlobAccess, threads: ThreadPoolExecutor
) -> Woken:
    """Return the layers that a plan reuses, verified. The target is not touched.

    Raises: BlobNotFound, BlobDamaged, StoreFailed, InvalidManifest, UnsupportedState.
    """
    kv, sink, futures = manifest.kv_cache, None, []
    if kv is not None and plan.reuses("kv_cache"):
        sink = target.allocate(kv)
        futures = _submit_blocks(kv, sink, blobs, threads)
    try:
        layers = {
            name: tree.decode(encoded, lambda refs: _read_joined(refs, blobs), target.from_leaf)
            for name, encoded in manifest.layers.items()
            if plan.reuses(name)  # type: ignore[arg-type]
        }
    finally:
        errors = [future.exception() for future in futures]  # waits for all: no thread may write after this returns
    for error in errors:
        if error is not None:
            raise error
    return Woken(plan, layers, manifest.tokens, kv if sink is not None else None, sink)  # type: ignore[arg-type]


def _submit_blocks(kv: KVCache, sink: KVSink, blobs: BlobAccess, threads: ThreadPoolExecutor) -> list[Future[None]]:
    for ref in kv.blocks[:READ_AHEAD]:
        blobs.expect(ref)
    ranges = block_ranges(kv.tokens, kv.layout.block_tokens)
    return [
        threads.submit(_read_block, blobs, kv.blocks, i, sink, start, stop) for i, (start, stop) in enumerate(ranges)
    ]


def _read_block(blobs: BlobAccess, refs: tuple[BlobRef, ...], i: int, sink: KVSink, start: int, stop: int) -> None:
    if i + READ_AHEAD < len(refs):
        blobs.expect(refs[i + READ_AHEAD])
    ref, segments = refs[i], sink.block(start, stop)
    if sum(segment.nbytes for segment in segments) != ref.size_bytes:
        raise InvalidManifest("the target's cache has another shape than the manifest says")
    blobs.read_into(ref, segments)


def _read_joined(refs: list[BlobRef], blobs: BlobAccess) -> memoryview:
    if len(refs) == 1:
        return blobs.read(refs[0])
    joined = memoryview(bytearray(sum(ref.size_bytes for ref in refs)))
    at = 0
    for ref in refs:
        blobs.read_into(ref, [joined[at : at + ref.size_bytes]])
        at += ref.size_bytes
    return joined
