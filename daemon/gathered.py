"""A transport that sends what is written within one turn of the event loop in one piece.

An answer's head and its body are two writes; as two pieces, each wakes the client, which can do nothing with the first.
"""

from __future__ import annotations

import asyncio
from typing import Any

MAX_GATHERED_BYTES = 64 << 10  # what is larger is not copied, and goes at once


class GatheredTransport(asyncio.Transport):
    """Stands in front of another transport. What waits here, waits for the end of this turn of the loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport, self._loop = transport, loop
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Send some bytes, soon."""
        if not data:
            return
        if not self._pieces:
            self._loop.call_soon(self._flush)
        self._pieces.append(bytes(data))  # a copy only of what could be changed before it is sent
        self._waiting_bytes += len(self._pieces[-1])
        if self._waiting_bytes > MAX_GATHERED_BYTES:
            self._flush()

    def _flush(self) -> None:
        pieces, size = self._pieces, self._waiting_bytes
        self._pieces, self._waiting_bytes = [], 0
        if size <= MAX_GATHERED_BYTES:
            pieces = [b"".join(pieces)] if pieces else []
        for piece in pieces if not self._transport.is_closing() else ():
            self._transport.write(piece)

    def close(self) -> None:
        """Close, behind what was written."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._pieces, self._waiting_bytes = [], 0
        self._transport.abort()

    def is_closing(self) -> bool:
        """Tell whether it is closed, or will be."""
        return self._transport.is_closing()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait."""
        return self._waiting_bytes + self._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Say when the protocol is to pause."""
        self._transport.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what is known of the connection."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        self._transport.resume_reading()
