"""The cold form of a blob: compressed without loss, a chunk at a time, for places where bytes cost more than time.

```
object  = "torporC" 0x01  chunk*  end
chunk   = width u8  packed u8  raw_bytes u32  (stored_bytes u32 for each packed plane)  plane*
end     = 0x00 0x00 0x00000000  total u64
```

A chunk's raw bytes are dealt out in turn to `width` planes (1, 2 or 4): plane i has the bytes i, i + width, ... So the
exponents of floats lie together. Bit i of `packed` says that plane i is a zstd frame, else it is as it is. A plane is
packed only where that gains. Numbers are little endian; no chunk has more than CHUNK_BYTES raw bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import zstandard

from ..state.errors import NewerFormat, ObjectDamaged

MAGIC, VERSION = b"torporC", 1
HEAD_BYTES = len(MAGIC) + 1
CHUNK_BYTES = 1 << 20
WIDTHS = (1, 2, 4)
LEVEL = 1  # of bytes as they are (text, JSON); levels above take three times as long for a few per cent
WORTH = 0.95  # a plane is packed when it becomes smaller than this
# What is looked at of a chunk before it is taken apart: a few pieces, spread over it.
_SAMPLE_PIECES, _SAMPLE_BYTES = 4, 4 << 10
_MAX_WINDOW_BYTES = 2 * CHUNK_BYTES

# Of planes: exponents of a KV cache repeat in no pattern, so looking for matches costs time and room; what gains is the
# entropy coder. A table of 64 entries still finds runs. On a real KV cache 1.455 at twice the speed of level 1's 1.446.
_PLANE = zstandard.ZstdCompressionParameters(
    window_log=19, chain_log=6, hash_log=6, search_log=1, min_match=7, strategy=zstandard.STRATEGY_FAST
)

_CHUNK = struct.Struct("<BBI")
_STORED = struct.Struct("<I")
_TOTAL = struct.Struct("<Q")


def plane_bytes(raw_bytes: int, width: int) -> list[int]:
    """Return how many bytes each plane of a chunk has."""
    return [(raw_bytes - i + width - 1) // width for i in range(width)]


def pack(source: BinaryIO, *, compress: bool = True) -> Iterator[bytes]:
    """Yield the cold form of what a file holds from its position on, in pieces of about a chunk."""
    yield MAGIC + bytes([VERSION])
    packer, total = _Packer(), 0
    while raw := _read_chunk(source):
        total += len(raw)
        yield packer.chunk(raw) if compress else _CHUNK.pack(1, 0, len(raw)) + raw
    yield _CHUNK.pack(0, 0, 0) + _TOTAL.pack(total)


def _read_chunk(source: BinaryIO) -> bytes:
    found = source.read(CHUNK_BYTES)
    if len(found) in (0, CHUNK_BYTES):
        return found
    parts, missing = [found], CHUNK_BYTES - len(found)
    while missing and (more := source.read(missing)):
        parts.append(more)
        missing -= len(more)
    return b"".join(parts)


class _Packer:
    """Packs one chunk after the other. Not for several threads at once."""

    def __init__(self) -> None:
        whole, plane = zstandard.ZstdCompressor(level=LEVEL), zstandard.ZstdCompressor(compression_params=_PLANE)
        self._packers = {width: whole if width == 1 else plane for width in WIDTHS}

    def chunk(self, raw: bytes) -> bytes:
        """Return a chunk, packed as is best for it."""
        width = self._width(raw)
        planes, mask, sizes, stored = [raw[i::width] for i in range(width)] if width else [], 0, list[bytes](), []
        for i, plane in enumerate(planes):
            packed = self._plane(plane, width)
            mask |= (packed is not plane) << i
            sizes += [] if packed is plane else [_STORED.pack(len(packed))]
            stored.append(packed)
        if not mask:
            return _CHUNK.pack(1, 0, len(raw)) + raw
        return b"".join((_CHUNK.pack(width, mask, len(raw)), *sizes, *stored))

    def _width(self, raw: bytes) -> int:
        """Try the widths on a sample; return the one that packs best, or 0 when none is worth it."""
        sample = raw
        if len(raw) > _SAMPLE_PIECES * _SAMPLE_BYTES:
            step = len(raw) // _SAMPLE_PIECES & ~(max(WIDTHS) - 1)  # each piece starts where an item of any width does
            sample = b"".join(raw[i * step : i * step + _SAMPLE_BYTES] for i in range(_SAMPLE_PIECES))
        sizes = {w: sum(len(self._packed(sample[i::w], w)) for i in range(w)) for w in WIDTHS}
        best = min(WIDTHS, key=lambda width: sizes[width])
        return best if sizes[best] < len(sample) else 0

    def _plane(self, plane: bytes, width: int) -> bytes:
        """Return a plane packed, or itself; one whose middle does not pack is not tried as a whole."""
        if len(plane) > 4 * _SAMPLE_BYTES:
            middle = len(plane) // 2
            sample = plane[middle : middle + _SAMPLE_BYTES]
            if self._packed(sample, width) is sample:
                return plane
        return self._packed(plane, width)

    def _packed(self, plane: bytes, width: int) -> bytes:
        packed: bytes = self._packers[width].compress(plane)
        return packed if len(packed) < WORTH * len(plane) else plane


@dataclass(frozen=True, slots=True)
class _Head:
    """The head of a chunk: its length in bytes, and the raw and stored sizes of its planes."""

    length: int
    raw_bytes: int
    packed: int
    raw: list[int]
    stored: list[int]


class Unpacker:
    """Reads a cold form that arrives in pieces of any size. At most one chunk waits in memory."""

    def __init__(self) -> None:
        self._buffer, self._begun, self._ended, self._total = bytearray(), False, False, 0
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
        width, packed, raw_bytes = _CHUNK.unpack_from(buffer)
        if not width:
            self._read_end(packed, raw_bytes)
            return None
        if width not in WIDTHS or packed >> width or not 0 < raw_bytes <= CHUNK_BYTES:
            raise ObjectDamaged("the object has a chunk that nothing of ours wrote")
        raw, length = plane_bytes(raw_bytes, width), _CHUNK.size + packed.bit_count() * _STORED.size
        if len(buffer) < length:
            return None
        sizes = iter(_STORED.iter_unpack(buffer[_CHUNK.size : length]))
        stored = [next(sizes)[0] if packed >> i & 1 else size for i, size in enumerate(raw)]
        if any(packed >> i & 1 and not 0 < stored[i] < raw[i] for i in range(width)):
            raise ObjectDamaged("the object has a packed plane that is not smaller than what it holds")
        return _Head(length, raw_bytes, packed, raw, stored)

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
        at, planes = head.length, []
        for i, (raw, stored) in enumerate(zip(head.raw, head.stored, strict=True)):
            piece = bytes(memoryview(self._buffer)[at : at + stored])
            planes.append(self._plane(piece, raw) if head.packed >> i & 1 else piece)
            at += stored
        del self._buffer[:at]
        if len(planes) == 1:
            return planes[0]
        out = bytearray(head.raw_bytes)
        for i, plane in enumerate(planes):
            out[i :: len(planes)] = plane
        return bytes(out)

    def _plane(self, packed: bytes, raw_bytes: int) -> bytes:
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
