"""Ask the daemon for room before a save writes, and keep it told of what is still to come.

The promise ends with the commit. A save that dies is forgotten by the daemon when nobody renews its promise.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ..state.errors import StoreFull, TorporError
from ..state.quota import SMALL_BYTES
from .api import Api

RENEW_S = 1.0
STEP_BYTES = 64 << 20  # asked for at once by an import, which does not know how much comes out of its file
SLACK_BYTES = 64 << 10  # for a manifest; where it takes more, the commit sees to it


class Promise:
    """What one save may still write. Its id is the save's, or the group's. Safe to use from several threads."""

    def __init__(self, desk: RoomDesk, name: str, session_id: str | None) -> None:
        self.name, self._desk, self._session_id = name, desk, session_id
        self._lock = threading.Lock()
        self._left_bytes = self._written_bytes = 0
        self._told_at, self._made, self._ahead_bytes = 0.0, False, STEP_BYTES

    def ask(self, size_bytes: int, *, text: bool) -> None:
        """Ask for room for so many new bytes, unless they are so few that nobody has to ask.

        Raises: QuotaFull, StoreFull, StoreFailed, DaemonNotRunning.
        """
        if size_bytes <= self._desk.unasked_bytes and not self._made:
            return
        size, written = size_bytes + SLACK_BYTES, self._written_bytes
        self._desk.tell(self.name, size, written, text=text, session_id=self._session_id)
        with self._lock:
            self._left_bytes = size - (self._written_bytes - written)
            self._told_at, self._made = self._desk.now(), True

    def need(self, size_bytes: int, *, ahead_bytes: int) -> None:
        """See to it that so many bytes may be written, asking for what comes behind them too. Raises: as `ask`."""
        with self._lock:
            if size_bytes <= self._left_bytes:
                return
        self._ahead_bytes = ahead = min(ahead_bytes, self._ahead_bytes)
        while True:
            try:
                self.ask(max(size_bytes, ahead), text=False)
                return
            except StoreFull:
                if ahead <= size_bytes:
                    raise
                self._ahead_bytes = ahead = ahead // 2

    def wrote(self, size_bytes: int) -> None:
        """Note that bytes were written, or need not be; the daemon is told now and then, which renews the promise."""
        with self._lock:
            self._written_bytes += size_bytes
            self._left_bytes = max(self._left_bytes - size_bytes, 0)
            now, left, written = self._desk.now(), self._left_bytes, self._written_bytes
            if not self._made or now - self._told_at < RENEW_S:
                return
            self._told_at = now
        with suppress(TorporError):  # a daemon that was restarted may have no room any more: the commit is told
            self._desk.tell(self.name, left, written)

    def end(self) -> None:
        """Give back what was not used."""
        with self._lock:
            made, self._made = self._made, False
        if made:
            self._desk.end(self.name)


class RoomDesk:
    """Where promises are made: the daemon's API, and what it said last."""

    def __init__(self, api: Api, unasked_bytes: int = SMALL_BYTES, clock: Callable[[], float] = time.monotonic) -> None:
        """Take the API; a save of up to `unasked_bytes` asks nobody."""
        self._api, self.unasked_bytes, self.now = api, unasked_bytes, clock

    def promise(self, name: str, session_id: str | None = None) -> Promise:
        """Return the promise of a save, which is not made yet. What that session's last backup holds stays for it."""
        return Promise(self, name, session_id)

    def tell(
        self, name: str, size_bytes: int, written_bytes: int, *, text: bool = False, session_id: str | None = None
    ) -> None:
        """Ask for a promise, or renew it. Raises: QuotaFull, StoreFull, StoreFailed, DaemonNotRunning."""
        wanted = {
            "size_bytes": size_bytes,
            "written_bytes": written_bytes,
            "text": text,
            "session_id": session_id,
        }
        self.unasked_bytes = int(self._api.json("PUT", f"/v1/room/{name}", json=wanted)["unasked_bytes"])

    def end(self, name: str) -> None:
        """Give a promise back. Raises: DaemonNotRunning."""
        self._api.call("DELETE", f"/v1/room/{name}")

    def is_tight(self) -> None:
        """Ask for everything from now on, until the daemon says that there is room."""
        self.unasked_bytes = 0
