"""What is sent: a range of a file, read where it lies, summed, and held back by the bandwidth limit."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from ..state.errors import FileChanged, StoreFailed
from .connections import Call, Calls
from .limiter import Limiter
from .quirks import Checksum

SMALL = 64 << 10  # goes in one piece with the headers: `Expect: 100-continue` would cost a round trip more
_PIECE = 1 << 20


class Body(io.RawIOBase):
    """`size_bytes` of a file from an offset on, as a file of its own.

    Files with a descriptor are read at their place, so several threads may send parts of one. A file that ends early
    raises FileChanged: the request would wait for bytes that never come.
    """

    def __init__(self, file: BinaryIO, offset: int, size_bytes: int) -> None:
        super().__init__()
        self._file, self._offset, self._size = file, offset, size_bytes
        self._at = 0
        self._paced: tuple[Calls, Call, Limiter] | None = None
        try:
            self._descriptor: int | None = file.fileno()
        except (OSError, AttributeError):
            self._descriptor = None

    def pace(self, calls: Calls, call: Call, limiter: Limiter) -> None:
        """Hold the bytes back by a limit from now on, as long as they are sent."""
        self._paced = calls, call, limiter

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes: a request may be signed, and sent again."""
        return True

    def tell(self) -> int:
        """Return the place within the range."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place within the range."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def __len__(self) -> int:
        return self._size

    def read(self, size: int | None = -1) -> bytes:
        """Read at most so many bytes. Raises: FileChanged, StoreFailed."""
        left = max(0, self._size - self._at)
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted and self._paced is not None and self._paced[1].sending:
            wanted = self._granted(wanted)
        data = self._read(wanted) if wanted else b""
        self._at += len(data)
        return data

    def whole(self) -> bytes:
        """Read a small body at once, when the limit lets it go."""
        data, left = self.read(), self._size
        while left and self._paced is not None:
            left -= self._granted(left)
        return data

    def checksum(self, kind: Checksum) -> dict[str, str]:
        """Return the header that lets the storage notice altered bytes, as an argument of boto3."""
        if kind == "crc32":
            return {"ChecksumCRC32": _base64(self._crc32().to_bytes(4, "big"))}
        if kind == "md5":
            return {"ContentMD5": _base64(self._md5())}
        return {}

    def _granted(self, wanted: int) -> int:
        """Wait for the limit; the request's time stands still meanwhile."""
        assert self._paced is not None
        calls, call, limiter = self._paced
        with calls.paused(call):
            return limiter.up(wanted, lambda: calls.is_closed or call.ended is not None)

    def _crc32(self) -> int:
        found = 0
        for piece in self._pieces():
            found = zlib.crc32(piece, found)
        return found

    def _md5(self) -> bytes:
        found = hashlib.md5(usedforsecurity=False)
        for piece in self._pieces():
            found.update(piece)
        return found.digest()

    def _pieces(self) -> Iterator[bytes]:
        self.seek(0)
        while piece := self.read(_PIECE):
            yield piece
        self.seek(0)

    def _read(self, wanted: int) -> bytes:
        try:
            if self._descriptor is not None:
                data = os.pread(self._descriptor, wanted, self._offset + self._at)
            else:
                self._file.seek(self._offset + self._at)
                data = self._file.read(wanted)
        except OSError as error:
            raise StoreFailed(f"a file cannot be read while it is sent: {error.strerror}") from error
        if not data:
            raise FileChanged(f"a file that is being sent ends {self._size - self._at} bytes early")
        return data


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
