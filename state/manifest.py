"""The manifest of one backup: what it holds, where its bytes lie, and what may reuse them.

A manifest is immutable and written last. Layers other than `kv_cache` are JSON trees whose special values are tags
(see codec/tree.py); blobs are named by the BLAKE3 digest of their raw bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import InvalidManifest
from .fingerprint import Fingerprint
from .ids import parse_backup_id, parse_digest, parse_session_id
from .tensors import DTYPE_SIZES

FORMAT = "qwen-state/v2"
BLOCK_TOKENS = 64

LayerName = Literal["metadata", "text_context", "tokens", "media", "vision_cache", "kv_cache", "config_snapshot"]
LAYER_NAMES: tuple[LayerName, ...] = (
    "metadata", "text_context", "tokens", "media", "vision_cache", "kv_cache", "config_snapshot",
)  # fmt: skip
REBUILDABLE: tuple[LayerName, ...] = ("kv_cache", "vision_cache")  # out of tokens and media, where they are there

MAX_COUNT = 1 << 50  # of tokens or bytes: a petabyte, and far below where SQLite's integers end
MAX_GROUP = 1024  # sessions that are saved as one
_BLOB_TAGS = frozenset({"$tensor", "$bytes", "$text"})
MAX_BLOBS = 1 << 20  # a 64-token block each: 64 million tokens, far beyond any context window


@dataclass(frozen=True, slots=True)
class BlobRef:
    """A blob by content: BLAKE3 of its raw bytes, and their count."""

    digest: str
    size_bytes: int

    def __post_init__(self) -> None:
        parse_digest(self.digest)
        if not 0 <= self.size_bytes <= MAX_COUNT:
            raise InvalidManifest("a blob of an impossible size")


@dataclass(frozen=True, slots=True)
class KVLayer:
    """One layer's part of the cache: heads, and the width of a key and of a value."""

    heads: int
    key_dim: int
    value_dim: int


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Geometry of a KV cache.

    A block holds `[layer, (K, V), batch, head, token, dim]`, all little endian and without padding, so a segment
    (one head of one batch row, K or V, of one layer) is contiguous in the block and in the live tensor alike.
    """

    dtype: str
    batch: int
    layers: tuple[KVLayer, ...]
    block_tokens: int = BLOCK_TOKENS

    def __post_init__(self) -> None:
        numbers = [self.batch, self.block_tokens, *(n for x in self.layers for n in (x.heads, x.key_dim, x.value_dim))]
        if self.dtype not in DTYPE_SIZES or not self.layers or min(numbers) < 1 or max(numbers) > 1 << 20:
            raise InvalidManifest("the KV layout is impossible")

    def token_bytes(self) -> int:
        """Return the bytes that one token (of every batch row) takes in all layers."""
        return sum(self.tensor_bytes())

    def tensor_bytes(self) -> list[int]:
        """Return the bytes that one token (of every batch row) takes in each tensor (K0, V0, K1, V1, …)."""
        row = self.batch * DTYPE_SIZES[self.dtype]
        return [x.heads * dim * row for x in self.layers for dim in (x.key_dim, x.value_dim)]


@dataclass(frozen=True, slots=True)
class KVCache:
    """The `kv_cache` layer: `tokens` positions, cut into blocks of `layout.block_tokens`, the last one partial."""

    layout: KVLayout
    tokens: int
    cache_class: str
    blocks: tuple[BlobRef, ...]
    keys: tuple[str, ...] = ()  # logical keys of the first full blocks (state/block_keys.py)

    def __post_init__(self) -> None:
        size = self.layout.block_tokens
        if len(self.keys) > self.tokens // size:
            raise InvalidManifest(f"{len(self.keys)} block keys for {self.tokens // size} full blocks")
        for key in self.keys:
            parse_digest(key)
        count = -(-self.tokens // size)  # checked before anything of that length is built
        if not 0 < self.tokens <= MAX_COUNT or count != len(self.blocks):
            raise InvalidManifest(f"{self.tokens} tokens need {count} KV blocks, not {len(self.blocks)}")
        width = self.layout.token_bytes()
        ranges = block_ranges(self.tokens, size)
        if any(r.size_bytes != (stop - start) * width for r, (start, stop) in zip(self.blocks, ranges, strict=True)):
            raise InvalidManifest("a KV block's size does not follow from its layout")

    def keyed_blocks(self) -> Iterator[tuple[str, str]]:
        """Yield each logical key with the digest of its block."""
        for key, block in zip(self.keys, self.blocks, strict=False):
            yield key, block.digest


@dataclass(frozen=True, slots=True)
class GroupRef:
    """The set of backups that this one was saved with, all or none: its id, its name, and how many they are."""

    id: str
    name: str
    size: int

    def __post_init__(self) -> None:
        parse_backup_id(self.id)
        parse_session_id(self.name)
        if not 1 <= self.size <= MAX_GROUP:
            raise InvalidManifest(f"a group of {self.size} sessions")


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that one backup is.

    `media_spans` are the token positions `(start, stop)` of each image's or video's placeholders, in order.
    """

    id: str
    session_id: str
    created_at: float  # seconds since the epoch, UTC
    adapter: str
    layers: dict[str, Any]
    tokens: int = 0
    parent_id: str | None = None
    fingerprint: Fingerprint = field(default_factory=Fingerprint)
    kv_cache: KVCache | None = None
    omitted: dict[str, str] = field(default_factory=dict)  # layer -> why it was not saved
    bytes_written: int = 0  # bytes of blobs that this backup was the first to write
    format: str = FORMAT
    media_spans: tuple[tuple[int, int], ...] = ()
    group: GroupRef | None = None
    imported: bool = False  # made of a file that was no whole backup of this session

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise InvalidManifest(f"unknown format {self.format[:40]!r}, expected {FORMAT!r}")
        parse_backup_id(self.id)
        parse_session_id(self.session_id)
        if self.parent_id is not None:
            parse_backup_id(self.parent_id)
        counts = (self.tokens, self.bytes_written)
        if not 0 <= self.created_at < 1e11 or min(counts) < 0 or max(counts) > MAX_COUNT:
            raise InvalidManifest("a time or a count is out of range")
        _check_spans(self.media_spans, self.tokens)
        unknown = set(self.layers) - set(LAYER_NAMES) | ({"kv_cache"} & set(self.layers))
        if unknown:
            raise InvalidManifest(f"unknown layers {sorted(unknown)!r:.120}")

    def present_layers(self) -> tuple[LayerName, ...]:
        """Return the layers that this backup holds, in canonical order."""
        return tuple(n for n in LAYER_NAMES if n in self.layers or (n == "kv_cache" and self.kv_cache is not None))


def _check_spans(spans: tuple[tuple[int, int], ...], tokens: int) -> None:
    at = 0
    for start, stop in spans:
        if not at <= start < stop <= tokens:
            raise InvalidManifest(f"a media span {start}-{stop} is out of order or beyond {tokens} tokens")
        at = stop


def block_ranges(tokens: int, block_tokens: int, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield `(start, stop)` of every block that covers `[start, tokens)`; `start` is a multiple of `block_tokens`."""
    for begin in range(start, tokens, block_tokens):
        yield begin, min(begin + block_tokens, tokens)


def layer_blobs(tree: Any) -> Iterator[BlobRef]:
    """Yield the blobs that a layer's encoded tree names (tags with `blocks`, see codec/tree.py)."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if type(node) is str:  # nearly all of a long conversation
            continue
        if isinstance(node, list):
            stack += reversed(node)
        elif isinstance(node, dict):
            if not _BLOB_TAGS.isdisjoint(node):
                for tag in ("$tensor", "$bytes", "$text"):
                    body = node.get(tag)
                    if isinstance(body, dict) and "blocks" in body:
                        yield from leaf_refs(body["blocks"])
            stack += reversed(node.values())


def rebuildable(layers: Collection[str]) -> tuple[LayerName, ...]:
    """Return those of a backup's layers that a model can make again out of the others.

    Embeddings without their pictures are all that is left of these: a plain state, or a session that was given none.
    """
    return tuple(n for n in REBUILDABLE if n in layers and (n != "vision_cache" or "media" in layers))


def leaf_refs(blocks: Any) -> Iterator[BlobRef]:
    """Yield the blobs that a leaf's `blocks` names. Raises: InvalidManifest."""
    if not isinstance(blocks, list):
        raise InvalidManifest("`blocks` is not a list")
    for ref in blocks:
        if (
            not isinstance(ref, dict)
            or not isinstance(ref.get("digest"), str)
            or type(ref.get("size_bytes")) is not int
        ):
            raise InvalidManifest("a block is not {digest, size_bytes}")
        yield BlobRef(ref["digest"], ref["size_bytes"])


def manifest_blobs(manifest: Manifest) -> dict[str, tuple[int, str]]:
    """Return every blob of a manifest: digest -> (size in bytes, layer). Raises: InvalidManifest."""
    found: dict[str, tuple[int, str]] = {}

    def add(ref: BlobRef, layer: str) -> None:
        if found.setdefault(ref.digest, (ref.size_bytes, layer))[0] != ref.size_bytes:
            raise InvalidManifest(f"blob {ref.digest[:16]} is named with two sizes")
        if len(found) > MAX_BLOBS:
            raise InvalidManifest(f"more than {MAX_BLOBS} blobs")

    for name, tree in manifest.layers.items():
        for ref in layer_blobs(tree):
            add(ref, name)
    if manifest.kv_cache is not None:
        for ref in manifest.kv_cache.blocks:
            add(ref, "kv_cache")
    return found
