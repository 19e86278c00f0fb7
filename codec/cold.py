"""The cold form of a blob: compressed without loss, a chunk at a time, for places where bytes cost more than time.

```
object  = "torporC" version u8  chunk*  end
chunk   = width u8  packed u8  raw_bytes u32  (stored_bytes u32 for each packed plane)  plane*
end     = 0x00 0x00 0x00000000  total u64
```

A chunk's raw bytes are dealt out in turn to `width` planes (1, 2 or 4): plane i has the bytes i, i + width, ... So the
exponents of floats lie together. Bit i of `packed` says that plane i is a zstd frame, else it is as it is. A plane is
packed only where that gains. Numbers are little endian; no chunk has more than CHUNK_BYTES raw bytes.

Version 2 also has chunks whose `width` carries EXCHANGED: before they were packed, the highest bits of the last two
planes changed places. In bf16 and float32 these are the sign, which nothing packs, and the lowest bit of the exponent,
which then lies beside the other seven. An object in which no chunk is so has version 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import zstandard
from bitarray import bitarray

from ..state.errors import NewerFormat, ObjectDamaged

MAGIC, PLAIN, VERSION = b"torporC", 1, 2
HEAD_BYTES = len(MAGIC) + 1
CHUNK_BYTES = 1 << 20
PACKED_BYTES = 256 << 10  # of what is written: larger buffers are given back to the system each time, and come empty
WIDTHS = (1, 2, 4)
EXCHANGED = 0x80
LEVEL = 1  # of bytes as they are (text, JSON); levels above take three times as long for a few per cent
WORTH = 0.95  # a plane is packed when it becomes smaller than this
# What is looked at of a chunk before it is taken apart: a few pieces, spread over it.
_SAMPLE_PIECES, _SAMPLE_BYTES = 4, 4 << 10
# Planes are dealt out and back in pieces that stay in the cache, and in memory that is at hand.
_PIECE_BYTES = 64 << 10
_HIGHEST = b"\x80" * (_PIECE_BYTES // 2)
_MAX_WINDOW_BYTES = 2 * CHUNK_BYTES

# A chunk is looked at anew when the one before it came out larger or smaller than the one looked at by more than this.
_DRIFT = 0.05

# Of planes: exponents of a KV cache repeat in no pattern, so looking for matches costs time and room; what gains is the
# entropy coder. A table of 64 entries still finds runs. A block is no larger than the window, and each has a Huffman
# table of its own: layers, and K and V, differ. See "Compression on the way to the bucket" in docs/PERFORMANCE.md.
_PLANE = zstandard.ZstdCompressionParameters(
    window_log=14, chain_log=6, hash_log=6, search_log=1, min_match=7, strategy=zstandard.STRATEGY_FAST
)

_CHUNK = struct.Struct("<BBI")
_STORED = struct.Struct("<I")
_TOTAL = struct.Struct("<Q")


def plane_bytes(raw_bytes: int, width: int) -> list[int]:
    """Return how many bytes each plane of a chunk has."""
    return [(raw_bytes - i + width - 1) // width for i in range(width)]


def pack(source: BinaryIO, *, compress: bool = True) -> Iterator[bytes]:
    """Yield the cold form of what a file holds from its position on, in pieces of about a chunk."""
    raw = _read_chunk(source)
    packer, total = _Packer(raw) if compress else None, 0
    yield MAGIC + bytes([packer.version if packer else PLAIN])
    while raw:
        total += len(raw)
        yield packer.chunk(raw) if packer else _CHUNK.pack(1, 0, len(raw)) + raw
        raw = _read_chunk(source)
    yield _CHUNK.pack(0, 0, 0) + _TOTAL.pack(total)


def _read_chunk(source: BinaryIO) -> bytes:
    found = source.read(PACKED_BYTES)
    if len(found) in (0, PACKED_BYTES):
        return found
    parts, missing = [found], PACKED_BYTES - len(found)
    while missing and (more := source.read(missing)):
        parts.append(more)
        missing -= len(more)
    return b"".join(parts)


def _dealt(raw: bytes, kind: int) -> list[bytes]:
    """Return the planes of a chunk."""
    width = kind & ~EXCHANGED
    if width == 1:
        return [raw]
    parts = list[list[bytearray]]()
    for at in range(0, len(raw), _PIECE_BYTES):
        piece = bytearray(raw[at : at + _PIECE_BYTES])  # its slices take half the time that those of bytes do
        parts.append([piece[i::width] for i in range(width)])
        if kind & EXCHANGED:
            _exchange(parts[-1])
    return [b"".join(plane) for plane in zip(*parts, strict=True)]


def _exchange(planes: list[bytearray]) -> None:
    """Let the highest bits of the last two planes change places, item by item; done twice, nothing has changed."""
    size = len(planes[-1])
    low, high = bitarray(buffer=memoryview(planes[-2])[:size]), bitarray(buffer=planes[-1])
    differ = low ^ high
    differ &= bitarray(buffer=_HIGHEST[:size])
    low ^= differ
    high ^= differ


def _joined(planes: list[bytes | memoryview], raw_bytes: int, *, exchanged: bool) -> bytes:
    """Deal the planes of a chunk back, a piece at a time."""
    size = _PIECE_BYTES // len(planes)
    pieces = [
        _merged([bytearray(plane[at : at + size]) for plane in planes], exchanged)
        for at in range(0, len(planes[0]), size)
    ]
    return b"".join(pieces)[:raw_bytes]


def _merged(planes: list[bytearray], exchanged: bool) -> bytearray | bitarray:
    """Deal pieces of planes back. Two are widened by codecs of `str`, in a third of the time that slices take."""
    if exchanged:
        _exchange(planes)
    if len(planes) != 2:
        merged = bytearray(sum(map(len, planes)))
        for i, plane in enumerate(planes):
            merged[i :: len(planes)] = plane
        return merged
    low, high = planes
    high += bytes(len(low) - len(high))
    out = bitarray(buffer=bytearray(low.decode("latin-1").encode("utf-16-le")))
    out |= bitarray(buffer=high.decode("latin-1").encode("utf-16-be"))
    return out


class _Packer:
    """Packs one chunk after the other; the first decides on the version. Not for several threads at once."""

    def __init__(self, first: bytes) -> None:
        whole, plane = zstandard.ZstdCompressor(level=LEVEL), zstandard.ZstdCompressor(compression_params=_PLANE)
        self._packers = {1: whole, 2: plane, 4: plane}
        self._exchanges, self._drifted = True, False
        self._kind = self._best(first)
        self._exchanges, self._seen = bool(self._kind & EXCHANGED), 0.0
        self.version = VERSION if self._exchanges else PLAIN

    def chunk(self, raw: bytes) -> bytes:
        """Return a chunk, packed as is best for it."""
        looked_at = not self._seen or self._drifted or not self._kind
        if self._seen and looked_at:
            self._kind = self._best(raw)
        packed = self._packed_as(raw, self._kind) if self._kind else _CHUNK.pack(1, 0, len(raw)) + raw
        share = len(packed) / len(raw)
        self._seen = share if looked_at else self._seen
        self._drifted = abs(share - self._seen) > _DRIFT * self._seen
        return packed

    def _packed_as(self, raw: bytes, kind: int) -> bytes:
        mask, sizes, stored = 0, list[bytes](), list[bytes]()
        for i, plane in enumerate(_dealt(raw, kind)):
            packed = self._plane(plane, kind)
            mask |= (packed is not plane) << i
            sizes += [] if packed is plane else [_STORED.pack(len(packed))]
            stored.append(packed)
        if not mask:
            return _CHUNK.pack(1, 0, len(raw)) + raw
        return b"".join((_CHUNK.pack(kind, mask, len(raw)), *sizes, *stored))

    def _best(self, raw: bytes) -> int:
        """Try the widths on a sample; return what packs best, or 0 when nothing is worth it."""
        # What an exchange gains is little, so the first chunk of an object is looked at more closely.
        sample, size = raw, _SAMPLE_BYTES * (4 if self._exchanges else 1)
        if len(raw) > _SAMPLE_PIECES * size:
            step = len(raw) // _SAMPLE_PIECES & ~(max(WIDTHS) - 1)  # each piece starts where an item of any width does
            sample = b"".join(raw[i * step : i * step + size] for i in range(_SAMPLE_PIECES))
        sizes = {width: self._size(sample, width) for width in WIDTHS}
        best, worth = 1, len(sample) / 1024  # more planes are more work, and an exchange shuts older programs out
        for width in WIDTHS:
            best = width if sizes[width] < sizes[best] - worth else best
        if best > 1 and self._exchanges and self._size(sample, best | EXCHANGED) < sizes[best] - worth:
            return best | EXCHANGED
        return best if sizes[best] < len(sample) else 0

    def _size(self, sample: bytes, kind: int) -> int:
        return sum(len(self._packed(plane, kind)) for plane in _dealt(sample, kind))

    def _plane(self, plane: bytes, kind: int) -> bytes:
        """Return a plane packed, or itself; one whose middle does not pack is not tried as a whole."""
        if len(plane) > 4 * _SAMPLE_BYTES:
            middle = len(plane) // 2
            sample = plane[middle : middle + _SAMPLE_BYTES]
            if self._packed(sample, kind) is sample:
                return plane
        return self._packed(plane, kind)

    def _packed(self, plane: bytes, kind: int) -> bytes:
        packed: bytes = self._packers[kind & ~EXCHANGED].compress(plane)
        return packed if len(packed) < WORTH * len(plane) else plane


@dataclass(frozen=True, slots=True)
class _Head:
    """The head of a chunk: its length in bytes, and the raw and stored sizes of its planes."""

    length: int
    raw_bytes: int
    exchanged: bool
    packed: int
    raw: list[int]
    stored: list[int]


class Unpacker:
    """Reads a cold form that arrives in pieces of any size. At most one chunk waits in memory."""

    def __init__(self) -> None:
        self._buffer, self._begun, self._ended, self._total = bytearray(), False, False, 0
        self._version = PLAIN
        self._reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes in; yield what can be read by now. The rest waits when the iterator is left early.

        Raises: ObjectDamaged, NewerFormat.
        """
        self._buffer += data
        return self._drain()

    def finish(self) -> None:
        """Check that the object was whole. Raises: ObjectDamaged."""
        if not self._ended:
            raise ObjectDamaged("the object was cut short" if self._begun or self._buffer else "the object is empty")
        if self._buffer:
            raise ObjectDamaged("the object has bytes behind its end")

    def _drain(self) -> Iterator[bytes]:
        if not self._begun:
            if len(self._buffer) < HEAD_BYTES:
                return
            check_magic(bytes(self._buffer[:HEAD_BYTES]), MAGIC, VERSION)
            self._version = self._buffer[HEAD_BYTES - 1]
            del self._buffer[:HEAD_BYTES]
            self._begun = True
        while not self._ended and (head := self._head()) is not None:
            if len(self._buffer) < head.length + sum(head.stored):
                return
            raw = self._chunk(head)
            self._total += len(raw)
            yield raw
        if self._ended and self._buffer:
            raise ObjectDamaged("the object has bytes behind its end")

    def _head(self) -> _Head | None:
        """Read the head of the next chunk as soon as it is there whole; notice the end."""
        buffer = self._buffer
        if len(buffer) < _CHUNK.size:
            return None
        kind, packed, raw_bytes = _CHUNK.unpack_from(buffer)
        width, exchanged = kind & ~EXCHANGED, bool(kind & EXCHANGED)
        if not kind:
            self._read_end(packed, raw_bytes)
            return None
        if width not in WIDTHS or packed >> width or not 0 < raw_bytes <= CHUNK_BYTES:
            raise ObjectDamaged("the object has a chunk that nothing of ours wrote")
        if exchanged and (width == 1 or self._version == PLAIN):
            raise ObjectDamaged("the object has a chunk that nothing of ours wrote")
        raw, length = plane_bytes(raw_bytes, width), _CHUNK.size + packed.bit_count() * _STORED.size
        if len(buffer) < length:
            return None
        sizes = iter(_STORED.iter_unpack(buffer[_CHUNK.size : length]))
        stored = [next(sizes)[0] if packed >> i & 1 else size for i, size in enumerate(raw)]
        if any(packed >> i & 1 and not 0 < stored[i] < raw[i] for i in range(width)):
            raise ObjectDamaged("the object has a packed plane that is not smaller than what it holds")
        return _Head(length, raw_bytes, exchanged, packed, raw, stored)

    def _read_end(self, packed: int, raw_bytes: int) -> None:
        if packed or raw_bytes:
            raise ObjectDamaged("the object has a chunk that nothing of ours wrote")
        if len(self._buffer) < _CHUNK.size + _TOTAL.size:
            return
        if _TOTAL.unpack_from(self._buffer, _CHUNK.size)[0] != self._total:
            raise ObjectDamaged("the object has lost or got chunks")
        del self._buffer[: _CHUNK.size + _TOTAL.size]
        self._ended = True

    def _chunk(self, head: _Head) -> bytes:
        with memoryview(self._buffer) as stored:
            raw = self._raw(head, stored)
        del self._buffer[: head.length + sum(head.stored)]
        return raw

    def _raw(self, head: _Head, buffer: memoryview) -> bytes:
        at, planes = head.length, list[bytes | memoryview]()
        for i, (raw, stored) in enumerate(zip(head.raw, head.stored, strict=True)):
            piece = buffer[at : at + stored]
            planes.append(self._plane(piece, raw) if head.packed >> i & 1 else piece)
            at += stored
        return bytes(planes[0]) if len(planes) == 1 else _joined(planes, head.raw_bytes, exchanged=head.exchanged)

    def _plane(self, packed: memoryview, raw_bytes: int) -> bytes:
        """Inflate a plane. Its declared size is checked first: the library takes that much memory at once."""
        try:
            if zstandard.frame_content_size(packed) != raw_bytes:
                raise ObjectDamaged("the object has a plane of another size than its chunk says")
            plane: bytes = self._reader.decompress(packed, max_output_size=raw_bytes, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ObjectDamaged("the object has a plane that is not a sound zstd frame") from error
        if len(plane) != raw_bytes:
            raise ObjectDamaged("the object has a plane of another size than its chunk says")
        return plane


def check_magic(head: bytes, magic: bytes, version: int) -> None:
    """Check the first bytes of an object. Raises: ObjectDamaged, NewerFormat."""
    if head[: len(magic)] != magic or not head[len(magic)]:
        raise ObjectDamaged("the object does not begin as one of ours")
    if head[len(magic)] > version:
        raise NewerFormat(f"the object is of version {head[len(magic)]}, and this program knows up to {version}")
