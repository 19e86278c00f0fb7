"""The daemon's events as they come, read in one thread and ended from any."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import orjson

from ..state.errors import DaemonNotRunning
from .api import Api
from .wire import NoAnswer

BEAT_S = 15.0  # over TCP somebody between may forget a silent connection
LOCAL_BEAT_S = 600.0  # a Unix socket ends with its daemon: nobody needs to be woken to see that
PATIENCE_S = 30.0  # behind a beat that does not come


class EventStream:
    """Events from now on, or behind an id; `changed` (state/api.py) says only that something is to be asked again.

    Raises (in making it, and while it is read): DaemonNotRunning when it breaks off, and whatever the daemon answers.
    """

    def __init__(self, api: Api, after: int | None = None) -> None:
        beat_s = LOCAL_BEAT_S if api.endpoint.socket else BEAT_S
        query: dict[str, Any] = {"beat_s": beat_s} | ({} if after is None else {"after": after})
        self._answer = api.open("/v1/events/stream", beat_s + PATIENCE_S, query)
        self._lock, self._closed = threading.Lock(), False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield events until the daemon stops, or `close` is called."""
        try:
            for line in self._answer.lines():
                if line.startswith("data:"):
                    yield orjson.loads(line[5:])
        except NoAnswer as error:
            if not self._closed:
                raise DaemonNotRunning(f"the daemon does not answer any more: {error}") from error
        finally:
            with self._lock:
                self._closed = True
                self._answer.close()

    def close(self) -> None:
        """End the reading, from whatever thread."""
        with self._lock:
            if not self._closed:
                self._answer.break_off()
            self._closed = True
