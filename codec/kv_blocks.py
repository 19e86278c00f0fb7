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


def pieces(buffers: Sequence[memoryview], size_bytes: int) -> Iterator[list[memoryview]]:
    """Cut buffers into runs of about `size_bytes` that one vectored call can take; large buffers are cut up."""
    run: list[memoryview] = []
    filled = 0
    for buffer in buffers:
        flat = buffer.cast("B") if buffer.format != "B" or buffer.ndim != 1 else buffer
        for at in range(0, flat.nbytes, size_bytes):
            part = flat[at : at + size_bytes]
            run.append(part)
            filled += part.nbytes
            if filled >= size_bytes or len(run) == MAX_BUFFERS:
                yield run
                run, filled = [], 0
    if run:
        yield run
