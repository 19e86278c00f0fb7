"""Backups that are whole and lie: written through the daemon like any other, with something in them exchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torpor.adapters.dynamic_cache import CacheSink, LiveCache
from torpor.client import Keeper
from torpor.codec import manifest_file, torch_bridge, tree
from torpor.state.backup import Backup
from torpor.state.manifest import KVCache, Manifest, block_ranges
from transformers import DynamicCache
from ulid import ULID


def forged(
    keeper: Keeper,
    backup: Backup,
    *,
    kv: Callable[[list[Any]], list[Any]] | None = None,
    tokens: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Backup:
    """Commit a copy of a backup in which `kv` (K0, V0, K1, …) or the `tokens` layer was changed; all else stays."""
    manifest = keeper.manifest(backup.id)[1]
    if kv is not None and manifest.kv_cache is not None:
        found = read_kv(keeper, manifest)
        manifest = replace(manifest, kv_cache=write_kv(keeper, kv(found), manifest.kv_cache))
    if tokens is not None:
        layer = tree.decode(manifest.layers["tokens"], lambda refs: keeper.blobs.read(refs[0]), torch_bridge.from_leaf)
        manifest = replace(manifest, layers={**manifest.layers, "tokens": _encoded(keeper, tokens(layer))})
    manifest = replace(manifest, id=str(ULID()), parent_id=None)
    return keeper.api.commit(manifest.id, manifest_file.dump(manifest))


def read_kv(keeper: Keeper, manifest: Manifest) -> list[Any]:
    """Read a backup's K0, V0, K1, V1, … `[batch, head, token, dim]`."""
    assert manifest.kv_cache is not None
    kv = manifest.kv_cache
    sink = CacheSink(kv)
    for ref, (start, stop) in zip(kv.blocks, block_ranges(kv.tokens, kv.layout.block_tokens), strict=True):
        sink.put(start, stop, keeper.blobs.read(ref))
    return sink.tensors


def write_kv(keeper: Keeper, tensors: list[Any], like: KVCache) -> KVCache:
    """Write K0, V0, K1, V1, … as the blocks of a backup."""
    cache = DynamicCache()
    for i in range(len(tensors) // 2):
        cache.update(*tensors[2 * i : 2 * i + 2], i)
    live, blocks = LiveCache(cache), []
    for start, stop in block_ranges(live.tokens, live.layout.block_tokens):
        image = memoryview(bytearray((stop - start) * live.layout.token_bytes()))
        live.copy(start, stop, image)
        blocks.append(keeper.blobs.put([image]).ref)
    keeper.blobs.settle()
    return replace(like, layout=live.layout, tokens=live.tokens, blocks=tuple(blocks), keys=())


def _encoded(keeper: Keeper, layer: dict[str, Any]) -> Any:
    encoded = tree.encode(layer, torch_bridge.to_leaf)
    for leaf, body in encoded.pending:
        tree.fill(body, [keeper.blobs.put([chunk]).ref for chunk in tree.chunks(leaf)])
    keeper.blobs.settle()
    return encoded.value
