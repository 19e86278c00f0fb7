"""The tray's connection to the daemon: it listens, and comes back by itself. Nothing is asked again and again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..client.api import Api
from ..client.event_stream import EventStream
from ..state.errors import DaemonNotRunning, TorporError

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
STEADY_S = 10.0  # a stream that held so long was one
STOP_S = 2.0  # a daemon that hangs is not waited for
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class There:
    """The daemon answers, and its events come from now on."""

    api: Api


@dataclass(frozen=True, slots=True)
class Happened:
    """An event of the daemon; `changed` among them."""

    event: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Away:
    """The daemon does not answer, or no longer."""

    error: TorporError


Word = There | Happened | Away


class Link:
    """Listens in a thread of its own, and tells what it hears in that thread."""

    def __init__(
        self,
        connect: Callable[[], Api],
        tell: Callable[[Word], None],
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect, self._tell, self._steady = connect, tell, steady
        self._lock, self._stopped, self._again = threading.Lock(), False, threading.Event()
        self._stream: EventStream | None = None
        self._thread = threading.Thread(target=self._listen, name="link", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def retry(self) -> None:
        """Try now, and in quick succession: somebody says that the daemon is about to come."""
        self._again.set()

    def stop(self) -> None:
        """End, whatever it waits for; what a daemon that hangs keeps waiting is left behind."""
        with self._lock:
            self._stopped = True
            if self._stream is not None:
                self._stream.close()
        self._again.set()
        self._thread.join(STOP_S)

    def _listen(self) -> None:
        api, after, pause_s = None, None, FIRST_PAUSE_S
        while not self._stopped:
            opened_at = float("inf")
            try:
                if api is None:
                    api = self._connect()
                stream, opened_at = self._open(api, after), self._steady()
                for event in stream:
                    after = event["id"]
                    self._tell(Happened(event))
                error: TorporError = DaemonNotRunning("the daemon was stopped")
            except TorporError as found:
                error = found
            except Exception as found:  # a defect of ours, or of what answers: the icon is not to die of it
                _log.exception("the daemon cannot be listened to")
                error = TorporError(f"a defect of ours: {type(found).__name__}")
            if not self._stopped:
                self._tell(Away(error))
                pause_s = self._rest(FIRST_PAUSE_S if self._steady() - opened_at > STEADY_S else pause_s)
        if api is not None:
            api.close()

    def _open(self, api: Api, after: int | None) -> EventStream:
        stream = EventStream(api, after)
        with self._lock:
            self._stream = stream
            if self._stopped:
                stream.close()
        self._tell(There(api))
        return stream

    def _rest(self, pause_s: float) -> float:
        """Wait, and return how long to wait the next time."""
        if self._again.wait(pause_s):
            self._again.clear()
            return FIRST_PAUSE_S
        return min(pause_s * 2, LONGEST_PAUSE_S)
