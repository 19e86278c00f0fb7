"""KV blocks: the order of bytes in a block, and the runs in which they are read and written.

A block of tokens `[start, stop)` is, without padding or header, the concatenation over
`[layer][K, V][batch][head]` of `(stop - start) * dim` elements. The layout lies in the manifest, and the digest of the
block covers exactly these bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

# The most buffers that one readv or writev takes (IOV_MAX on Linux).
MAX_BUFFERS = 1024


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
