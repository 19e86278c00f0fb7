"""The token ids of two backups: how many at their head are the same. Chunks of one digest are not read."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..state.errors import BadInput
from ..state.manifest import BlobRef, Manifest
from ..state.tensors import DTYPE_SIZES
from .nodes import fields
from .tree import Leaf, decode, leaf_spec

MAX_BYTES = 32 << 20  # of ids that are read: eight million
_CODES = {"uint8": "B", "int32": "i", "int64": "q"}

# Returns the joined, verified bytes of some blobs.
ReadJoined = Callable[[list[BlobRef]], memoryview]


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """How many ids two backups have, and how many at the head of both are the same."""

    a: int
    b: int
    same: int


@dataclass(frozen=True, slots=True)
class _Ids:
    """One row of ids: its tensor's body, as the manifest has it."""

    body: dict[str, Any]
    dtype: str
    count: int

    def blocks(self) -> list[Any]:
        found = self.body.get("blocks")
        return found if isinstance(found, list) else []

    def after(self, blocks: int, skipped: int, read: ReadJoined) -> array[int]:
        """Return the ids behind the first blocks. Raises: InvalidManifest, BlobNotFound, BlobDamaged."""
        body = {**self.body, "shape": [self.count - skipped]}
        if blocks:
            body["blocks"] = self.blocks()[blocks:]
        leaf: Leaf = decode({"$tensor": body}, read, lambda found: found)
        return array(_CODES[self.dtype], leaf.data.tobytes())


def compare_ids(a: Manifest, b: Manifest, read: ReadJoined) -> TokenCounts | None:
    """Count the ids at the head of both; None where one has none, several rows, or more than can be read.

    Raises: BlobNotFound, BlobDamaged, InvalidManifest.
    """
    left, right = _ids(a), _ids(b)
    if left is None or right is None:
        return None
    shared = skipped = 0
    if left.dtype == right.dtype:
        pairs = zip(left.blocks(), right.blocks(), strict=False)
        shared = next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(left.blocks()), len(right.blocks())))
        skipped = sum(_size(block) for block in left.blocks()[:shared]) // DTYPE_SIZES[left.dtype]
    if skipped > min(left.count, right.count):
        return None
    ids, others = left.after(shared, skipped, read), right.after(shared, skipped, read)
    return TokenCounts(left.count, right.count, skipped + _common(ids, others))


def _size(block: Any) -> int:
    size = block.get("size_bytes") if isinstance(block, dict) else None
    return size if type(size) is int else 0


def _ids(manifest: Manifest) -> _Ids | None:
    node = fields(manifest.layers.get("tokens")).get("ids")
    body = node.get("$tensor") if isinstance(node, dict) else None
    if not isinstance(body, dict):
        return None
    try:
        spec = leaf_spec(body)
    except BadInput:
        return None
    count = spec.shape[-1] if spec.shape else 0
    rows = len(spec.shape) == 1 or (len(spec.shape) == 2 and spec.shape[0] == 1)
    if not rows or spec.dtype not in _CODES or spec.size_bytes > MAX_BYTES:
        return None
    return _Ids(body, spec.dtype, count)


def _common(a: array[int], b: array[int]) -> int:
    """Return the length of the common head, by halving: comparing slices costs next to nothing."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
