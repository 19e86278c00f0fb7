"""LZ4 frames, a piece at a time: what is inflated never lies in memory as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

import lz4.frame

from ..state.errors import FileDamaged, UnknownFormat

MAGIC = b"\x04\x22\x4d\x18"
READ_BYTES = 256 << 10  # of one read of a file
PIECE_BYTES = 1 << 20  # the most that one piece of inflated bytes holds; LZ4 inflates 255 times at most


def inflate(packed: Iterable[bytes], what: str, *, frames: bool = False) -> Iterator[bytes]:
    """Yield the bytes of an LZ4 frame (with `frames`: of one or more, one after the other) in bounded pieces.

    Raises: FileDamaged when the frame is cut short, altered, or has bytes behind its end.
    """
    reader, begun = lz4.frame.LZ4FrameDecompressor(), False
    for data in packed:
        while data:
            if reader.eof:
                if not frames:
                    raise FileDamaged(f"{what} has bytes behind the end of its LZ4 frame")
                reader = lz4.frame.LZ4FrameDecompressor()
            begun = True
            yield from _drain(reader, data, what)
            data = reader.unused_data or b""
    if not begun or not reader.eof:
        raise FileDamaged(f"{what} ends before its LZ4 frame does" if begun else f"{what} is empty")


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
