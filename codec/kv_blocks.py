"""KV blocks: the order of bytes in a block, and the runs in which they are read and written.

A block of tokens `[start, stop)` is, without padding or header, the concatenation over
`[layer][K, V][batch][head]` of `(stop - start) * dim` elements. The layout lies in the manifest, and the digest of the
block covers exactly these bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

# The most buffers that one readv or writev takes (IOV_MAX on Linux).
MAX_BUFFERS = 1024
# Of a block, copied, hashed and read or written while it is in the second-level cache.
PIECE_BYTES = 512 << 10


def cut_up(buffers: Iterable[memoryview], size_bytes: int) -> Iterator[memoryview]:
    """Yield buffers in parts of at most `size_bytes`; a buffer is asked for when all before it were taken."""
    for buffer in buffers:
        flat = buffer.cast("B") if buffer.format != "B" or buffer.ndim != 1 else buffer
        for at in range(0, flat.nbytes, size_bytes):
            yield flat[at : at + size_bytes]


def tensor_runs(tensor_bytes: Sequence[int], tokens: int, size_bytes: int) -> Iterator[tuple[int, int]]:
    """Cut a block of some tokens between tensors: yield the first tensor of each run, and the run's bytes.

    `tensor_bytes` is what a token takes in K0, V0, K1, V1, …; a run has about `size_bytes`, and one tensor at least.
    """
    first, filled = 0, 0
    for i, width in enumerate(tensor_bytes):
        if filled and filled + width * tokens > size_bytes:
            yield first, filled
            first, filled = i, 0
        filled += width * tokens
    yield first, filled


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
