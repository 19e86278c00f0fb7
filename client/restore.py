"""Read a backup: small layers and KV blocks, in parallel, every digest checked, before anything is handed over."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ..codec import tree
from ..state.manifest import BlobRef, KVCache, Manifest, block_ranges
from ..state.plan import RestorePlan
from .blob_access import BlobAccess
from .capture import KVSink, RestoreTarget, Woken


def read_backup(
    manifest: Manifest, plan: RestorePlan, target: RestoreTarget[Any], blobs: BlobAccess, threads: ThreadPoolExecutor
) -> Woken:
    """Return the layers that a plan reuses, verified. The target is not touched.

    Raises: BlobNotFound, BlobDamaged, StoreFailed, InvalidManifest, UnsupportedState.
    """
    kv, sink, futures = manifest.kv_cache, None, []
    if kv is not None and plan.reuses("kv_cache"):
        sink = target.allocate(kv)
        futures = submit_blocks(kv, sink, blobs, threads)
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


def submit_blocks(kv: KVCache, sink: KVSink, blobs: BlobAccess, threads: ThreadPoolExecutor) -> list[Future[None]]:
    """Start to read every block into a sink. The caller waits for all of them, also when one has failed."""
    ranges = block_ranges(kv.tokens, kv.layout.block_tokens)
    return [
        threads.submit(_read_block, blobs, ref, sink, start, stop)
        for ref, (start, stop) in zip(kv.blocks, ranges, strict=True)
    ]


_scratch = threading.local()  # one block's worth a thread: warm memory, used for every block


def _read_block(blobs: BlobAccess, ref: BlobRef, sink: KVSink, start: int, stop: int) -> None:
    memory: memoryview | None = getattr(_scratch, "memory", None)
    if memory is None or memory.nbytes < ref.size_bytes:
        memory = _scratch.memory = memoryview(bytearray(ref.size_bytes))
    block = memory[: ref.size_bytes]
    blobs.read_into(ref, [block])
    sink.put(start, stop, block)


def _read_joined(refs: list[BlobRef], blobs: BlobAccess) -> memoryview:
    if len(refs) == 1:
        return blobs.read(refs[0])
    joined = memoryview(bytearray(sum(ref.size_bytes for ref in refs)))
    at = 0
    for ref in refs:
        blobs.read_into(ref, [joined[at : at + ref.size_bytes]])
        at += ref.size_bytes
    return joined
