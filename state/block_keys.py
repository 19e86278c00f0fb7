"""Logical keys of KV blocks: what a block was computed from, as against the digest of its bytes.

Equal keys mean: the same model read the same tokens and the same images up to the end of the block. They find blocks
that may stand in for a prefill; they do not say that two blocks have the same bytes.

A key is the SHA-256 of its fields, each with its length before it, so that no two lists of fields are encoded alike:
the version, the fingerprint (from the first image on with the vision encoder's), the key of the block before, the token
ids (64 bits each, little endian), and for each run of placeholders in the block the medium's digest, its grid, and how
far into the medium the block begins.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .fingerprint import KV_PARTS, VISION_PARTS, Fingerprint
from .manifest import BLOCK_TOKENS, block_ranges

_VERSION = b"torpor-block-key-v1"
_ID_BYTES = 8

Grid = tuple[int, int, int]  # patches in time, height and width


@dataclass(frozen=True, slots=True)
class Medium:
    """A source image or video: the BLAKE3 of its bytes, and the grid of patches that the processor made of it."""

    digest: str
    grid: Grid
    is_video: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """A run of placeholders among the token ids, `[start, stop)`, and what stands there (None: unknown).

    `offset` counts the medium's placeholders before this run: a video has a run for each of its frames.
    """

    start: int
    stop: int
    medium: Medium | None = None
    offset: int = 0


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row of token ids (packed by `pack_ids`), and its runs of placeholders in order."""

    ids: bytes
    runs: tuple[Run, ...] = ()

    def __len__(self) -> int:
        return len(self.ids) // _ID_BYTES


def pack_ids(ids: Iterable[int]) -> bytes:
    """Encode token ids: 64 bits each, little endian."""
    packed = array("q", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def block_keys(
    row: TokenRow, fingerprint: Fingerprint, tokens: int, block_tokens: int = BLOCK_TOKENS
) -> tuple[str, ...]:
    """Return the keys of the full blocks of the first `tokens` ids.

    The chain ends before the first block whose medium or whose part of the fingerprint is not known.
    """
    return tuple(_chain(row, fingerprint, min(tokens, len(row)) // block_tokens * block_tokens, block_tokens))


def _chain(row: TokenRow, fingerprint: Fingerprint, tokens: int, block_tokens: int) -> Iterator[str]:
    model, encoder = fingerprint.key(KV_PARTS), fingerprint.key(VISION_PARTS)
    if model is None:
        return
    parent, seen = b"", b""  # `seen` is the encoder's key from the first image on
    for (start, stop), runs in zip(
        block_ranges(tokens, block_tokens), _runs_of(row.runs, tokens, block_tokens), strict=True
    ):
        if runs and (encoder is None or any(run.medium is None for run in runs)):
            return
        if runs and encoder is not None:
            seen = encoder.encode()
        ids = row.ids[start * _ID_BYTES : stop * _ID_BYTES]
        digest = hashlib.sha256(_framed([_VERSION, model.encode(), seen, parent, ids]))
        for run in runs:
            digest.update(_run(run, start))
        parent = digest.digest()
        yield parent.hex()


def _runs_of(runs: Sequence[Run], tokens: int, block_tokens: int) -> Iterator[list[Run]]:
    """Yield the runs that overlap each block."""
    first = 0
    for start, stop in block_ranges(tokens, block_tokens):
        while first < len(runs) and runs[first].stop <= start:
            first += 1
        last = first
        while last < len(runs) and runs[last].start < stop:
            last += 1
        yield list(runs[first:last])


def _run(run: Run, block_start: int) -> bytes:
    assert run.medium is not None
    inside = run.offset + max(block_start - run.start, 0)
    grid = struct.pack("<3q", *run.medium.grid)
    return _framed([run.medium.digest.encode(), grid, struct.pack("<q?", inside, run.medium.is_video)])


def _framed(fields: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack("<q", len(field)) + field for field in fields)


def runs_of(
    spans: Sequence[tuple[int, int]], videos: Sequence[bool], media: Sequence[Medium], merge: int
) -> tuple[Run, ...]:
    """Tell which medium stands behind each run of placeholders, `videos` saying which of the runs are of a video.

    Media come in the order of their placeholders. A medium takes one run of its kind after the other until its grid
    is used up (`merge` x `merge` patches are one placeholder). Where that does not come out even, nothing is known.
    """
    unknown = tuple(Run(*span) for span in spans)
    runs: list[Run] = []
    for medium in media:
        wanted, offset = medium.grid[0] * medium.grid[1] * medium.grid[2] // merge**2, 0
        while offset < wanted:
            if len(runs) == len(spans) or videos[len(runs)] != medium.is_video:
                return unknown
            start, stop = spans[len(runs)]
            runs.append(Run(start, stop, medium, offset))
            offset += stop - start
        if offset != wanted or wanted == 0:
            return unknown
    return tuple(runs) if len(runs) == len(spans) else unknown


def usable_tokens(row: TokenRow, tokens: int) -> int:
    """Return how many of `tokens` cached positions a session of this row may take over.

    At least one id is left to be fed, and an image is taken whole or not at all.
    """
    most = min(tokens, len(row) - 1)
    for run in row.runs:
        if run.start < most < run.stop:
            return run.start
    return max(most, 0)
