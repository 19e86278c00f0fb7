"""LZ4 frames, a piece at a time: what is inflated never lies in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import lz4.frame

from ..state.errors import FileDamaged, TooLarge, UnknownFormat

MAGIC = b"\x04\x22\x4d\x18"
READ_BYTES = 256 << 10  # of one read of a file
# Frames one after the other: each costs a decoder, so tiny ones are taken only in small number.
FRAME_BYTES, MOST_TINY_FRAMES = 1 << 10, 64
_FEED_BYTES = 16 << 10  # at once, where frames follow one another: what is behind the end of a frame is copied
PIECE_BYTES = 1 << 20  # the most that one piece of inflated bytes holds; LZ4 inflates 255 times at most


def inflate(packed: Iterable[bytes], what: str, *, frames: bool = False) -> Iterator[bytes]:
    """Yield the bytes of an LZ4 frame (with `frames`: of one or more, one after the other) in bounded pieces.

    Raises: FileDamaged when the frame is cut short, altered, or has bytes behind its end.
    """
    reader, count, inflated = lz4.frame.LZ4FrameDecompressor(), 0, 0
    for data in _cut(packed) if frames else packed:
        while data:
            if reader.eof or not count:
                count += 1
                _check_count(count, inflated, what, frames)
                reader = lz4.frame.LZ4FrameDecompressor()
            for piece in _drain(reader, data, what):
                inflated += len(piece)
                yield piece
            data = reader.unused_data or b""
    if not count or not reader.eof:
        raise FileDamaged(f"{what} ends before its LZ4 frame does" if count else f"{what} is empty")


def _cut(packed: Iterable[bytes]) -> Iterator[bytes]:
    for data in packed:
        for at in range(0, len(data), _FEED_BYTES):
            yield data[at : at + _FEED_BYTES]


def _check_count(count: int, inflated: int, what: str, frames: bool) -> None:
    if count > 1 and not frames:
        raise FileDamaged(f"{what} has bytes behind the end of its LZ4 frame")
    if count > MOST_TINY_FRAMES + inflated // FRAME_BYTES:
        raise TooLarge(f"{what} holds {count} LZ4 frames of hardly any bytes", hint="")


def _drain(reader: lz4.frame.LZ4FrameDecompressor, data: bytes, what: str) -> Iterator[bytes]:
    while True:
        try:
            piece: bytes = reader.decompress(data, max_length=PIECE_BYTES)
        except (RuntimeError, EOFError) as error:
            raise FileDamaged(f"{what} is not a sound LZ4 frame: {error}") from error
        if piece:
            yield piece
        if reader.eof or reader.needs_input:
            return
        data = b""


def read_pieces(file: BinaryIO, watch: Callable[[bytes], object] | None = None) -> Iterator[bytes]:
    """Yield a file's bytes from its start; `watch` sees every piece."""
    file.seek(0)
    while data := file.read(READ_BYTES):
        if watch is not None:
            watch(data)
        yield data


def inflate_file(file: BinaryIO, watch: Callable[[bytes], object] | None = None) -> Iterator[bytes]:
    """Yield the inflated bytes of a file that is one LZ4 frame. Raises: UnknownFormat, FileDamaged."""
    file.seek(0)
    head = file.read(4)
    if head and not MAGIC.startswith(head):
        raise UnknownFormat("the file is not an LZ4 frame")
    return inflate(read_pieces(file, watch), "the file")
