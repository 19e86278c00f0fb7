"""KV blocks: the order of bytes in a block, as arithmetic over a layout.

A block of tokens `[start, stop)` is, without padding or header, the concatenation over
`[layer][K, V][batch][head]` of `(stop - start) * dim` elements. The layout lies in the manifest, and the digest of the
block covers exactly these bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..state.manifest import KVLayout
from ..state.tensors import DTYPE_SIZES

# The most buffers that one readv or writev takes (IOV_MAX on Linux).
MAX_BUFFERS = 1024


def row_bytes(layout: KVLayout) -> list[int]:
    """Return, for each tensor in the order K0, V0, K1, V1, …, the bytes of one token of one head."""
    item = DTYPE_SIZES[layout.dtype]
    return [dim * item for layer in layout.layers for dim in (layer.key_dim, layer.value_dim)]


def heads_of(layout: KVLayout) -> list[int]:
    """Return the number of heads of each tensor, in the order of `row_bytes`."""
    return [layer.heads for layer in layout.layers for _ in range(2)]


def segment_sizes(layout: KVLayout, tokens: int) -> list[int]:
    """Return the sizes in bytes of a block's segments, in order."""
    sizes: list[int] = []
    for heads, row in zip(heads_of(layout), row_bytes(layout), strict=True):
        sizes.extend([row * tokens] * (heads * layout.batch))
    return sizes


def batches(buffers: Sequence[memoryview]) -> Iterator[Sequence[memoryview]]:
    """Cut a list of buffers into runs that one vectored call can take."""
    for at in range(0, len(buffers), MAX_BUFFERS):
        yield buffers[at : at + MAX_BUFFERS]
