"""An object that is being received: with its own time, held back by the limit, taken up again where it broke off."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..state.errors import ObjectExists, Offline, RemoteFailed
from .connections import INTERRUPTED, INTERRUPTIONS, Call, Calls
from .limiter import Limiter
from .s3_errors import translated

PIECE = 256 << 10


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer whose body arrives."""

    body: Any
    etag: str
    call: Call


class Download:
    """A stream of one object. `opened(offset, etag)` asks for it from there on, of that version only."""

    def __init__(
        self, opened: Callable[[int, str | None], Stream | None], calls: Calls, limiter: Limiter, what: str
    ) -> None:
        self._opened, self._calls, self._limiter, self._what = opened, calls, limiter, what
        self._at = 0
        self._stream: Stream | None = None

    def open(self, offset: int) -> None:
        """Ask for the object."""
        self._at = offset
        self._stream = self._opened(offset, None)

    def pieces(self, resumes: int) -> Iterator[bytes]:
        """Yield the bytes as they arrive; a broken stream is resumed so often."""
        interruptions = INTERRUPTIONS
        while self._stream is not None:
            try:
                data = self._read(self._stream)
            except RemoteFailed:
                if not resumes:
                    raise
                resumes -= 1
                self._resume(self._stream)
                continue
            except Offline:
                if self._stream.call.ended != INTERRUPTED or not interruptions:
                    raise
                interruptions -= 1
                self._resume(self._stream)
                continue
            if not data:
                return
            self._at += len(data)
            yield data

    def close(self) -> None:
        """Give the connection back, or up when bytes are left on it."""
        if self._stream is not None:
            self._stream.body.close()

    def _read(self, stream: Stream) -> bytes:
        call = stream.call
        wanted = self._limiter.down(PIECE, lambda: self._calls.is_closed or call.ended is not None)
        with translated(self._what), self._calls.running(call, self._what):
            return bytes(stream.body.read(wanted))

    def _resume(self, broken: Stream) -> None:
        broken.body.close()
        try:
            self._stream = self._opened(self._at, broken.etag)
        except ObjectExists as error:  # 412: If-Match found another version
            raise RemoteFailed(f"{self._what}: the object changed while it was read") from error
