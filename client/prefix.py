"""Reuse the KV of another session that began with the same tokens and images, under the same model."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from blake3 import blake3

from ..codec import manifest_file
from ..state.block_keys import Grid, Medium, TokenRow, block_keys, usable_tokens
from ..state.errors import BadInput, RestoreRefused
from ..state.fingerprint import KV_PARTS, VISION_PARTS, Fingerprint
from ..state.manifest import BLOCK_TOKENS, KVCache, Manifest
from ..state.plan import TargetState
from .api import Api
from .blob_access import BlobAccess
from .capture import KVSink, LiveKV
from .restore import submit_blocks

MAX_KEYS = 65_536  # of one question to the daemon


@dataclass(frozen=True, slots=True)
class PrefixHit:
    """How many leading positions can be taken over, from which backup, and why not more.

    `bytes_read` is what `restore_prefix` will read. With `tokens` 0 there is no backup.
    """

    tokens: int
    backup_id: str | None
    bytes_read: int
    reason: str
    key: str | None = None  # of the last block that is read


class PrefixTarget(Protocol):
    """A loaded model whose sessions may begin with somebody else's KV."""

    def describe(self) -> TargetState:
        """Tell what the target is."""
        ...

    def token_row(self, token_ids: Any, media: Sequence[Medium]) -> TokenRow:
        """Return ids with the media that stand behind their placeholders."""
        ...

    def allocate(self, kv: KVCache) -> KVSink:
        """Return fresh memory for a KV cache. Raises: UnsupportedState."""
        ...

    def prefix_cache(self, sink: KVSink, tokens: int) -> Any:
        """Make a live cache of the first `tokens` positions of a filled sink."""
        ...

    def live_cache(self, cache: Any) -> LiveKV:
        """Return a cache of `prefix_cache` as a live one."""
        ...


class PrefixSession(Protocol):
    """A session that has its ids and images, but no cache yet."""

    def prefix_target(self) -> PrefixTarget:
        """Return the session's model as a target. Raises: BadInput when there is a cache already."""
        ...

    def token_row(self) -> TokenRow | None:
        """Return the session's ids and media, or None where positions do not follow from them."""
        ...

    def take_prefix(self, cache: Any) -> None:
        """Go on from a cache that holds the beginning."""
        ...


def medium(data: bytes, grid: Grid, *, is_video: bool = False) -> Medium:
    """Return an image or video for `find_prefix`: its source bytes, and the grid that the processor made of it."""
    return Medium(blake3(data).hexdigest(), grid, is_video)


class Prefixes:
    """Finds and reads prefixes."""

    def __init__(self, api: Api, blobs: BlobAccess, threads: ThreadPoolExecutor) -> None:
        self._api, self._blobs, self._threads = api, blobs, threads

    def find(self, fingerprint: Fingerprint, row: TokenRow | None) -> PrefixHit:
        """Return the longest prefix that is stored for a model."""
        if row is None:
            return _nothing("prefixes are found for one row of ids, without padding")
        unknown = [part for part in KV_PARTS if fingerprint.part(part) is None]
        if unknown:
            return _nothing(f"the model is not known: {', '.join(unknown)}")
        keys = block_keys(row, fingerprint, len(row))[:MAX_KEYS]
        if not keys:
            return _nothing(_why_no_more(row, fingerprint, 0) or "fewer ids than one block holds")
        found = self._api.json("POST", "/v1/prefix", json={"keys": keys})
        blocks = found["blocks"]
        kv = self._manifest(found["backup_id"]).kv_cache if blocks else None
        if kv is None or kv.keys[:blocks] != keys[:blocks]:
            return _nothing("no stored session begins like this under this model")
        tokens = usable_tokens(row, blocks * kv.layout.block_tokens)
        read = -(-tokens // kv.layout.block_tokens)
        if not read:
            return _nothing("the image at the beginning is longer than what is stored")
        why = _why_no_more(row, fingerprint, blocks) if blocks == len(keys) else None
        return PrefixHit(
            tokens,
            found["backup_id"],
            sum(ref.size_bytes for ref in kv.blocks[:read]),
            why or "the longest stored beginning",
            keys[read - 1],
        )

    def read(self, hit: PrefixHit, target: PrefixTarget) -> tuple[Any, KVCache]:
        """Return a fresh cache of a hit's positions, every block verified, and the blocks that it was made of.

        Raises: BadInput, RestoreRefused, BackupNotFound, BlobNotFound, BlobDamaged, UnsupportedState.
        """
        if hit.backup_id is None:
            raise BadInput(f"there is no prefix to restore: {hit.reason}")
        manifest = self._manifest(hit.backup_id)
        part = _first_blocks(manifest, hit)
        _check(manifest, hit, target.describe().fingerprint)
        sink = target.allocate(part)
        self._blobs.expect(manifest.id, part.blocks)
        errors = [future.exception() for future in submit_blocks(part, sink, self._blobs, self._threads)]
        for error in errors:
            if error is not None:
                raise error
        return target.prefix_cache(sink, hit.tokens), part

    def _manifest(self, backup_id: str) -> Manifest:
        return manifest_file.load(self._api.manifest(backup_id))


def _nothing(reason: str) -> PrefixHit:
    return PrefixHit(0, None, 0, reason)


def _why_no_more(row: TokenRow, fingerprint: Fingerprint, blocks: int) -> str | None:
    """Tell what ends the chain of keys after some blocks, if not the ids."""
    for run in row.runs:
        if run.stop > blocks * BLOCK_TOKENS:
            if run.medium is None:
                return f"what stands behind the placeholders from token {run.start} on is not known"
            unknown = [part for part in VISION_PARTS if fingerprint.part(part) is None]
            return f"the image encoder is not known: {', '.join(unknown)}" if unknown else None
    return None


def _first_blocks(manifest: Manifest, hit: PrefixHit) -> KVCache:
    kv = manifest.kv_cache
    size = kv.layout.block_tokens if kv is not None else 1
    count = -(-hit.tokens // size)
    if kv is None or count < 1 or kv.keys[count - 1 : count] != (hit.key,):
        raise BadInput(f"backup {manifest.id} does not hold this prefix", hint="Call find_prefix again.")
    return KVCache(kv.layout, count * size, kv.cache_class, kv.blocks[:count])


def _check(manifest: Manifest, hit: PrefixHit, target: Fingerprint) -> None:
    """Make sure that a target is the model that a prefix was found for. Raises: RestoreRefused."""
    sees = any(start < hit.tokens for start, _ in manifest.media_spans)
    differing = manifest.fingerprint.differing(target, KV_PARTS + (VISION_PARTS if sees else ()))
    if differing:
        raise RestoreRefused(f"the prefix was computed by another model: {', '.join(differing)}")
