"""HTTP/1.1 with deadlines: nobody keeps a connection by sending slowly, sending on and on, or not reading.

uvicorn's protocol bounds a head in bytes, and nothing in time but an idle connection. Timers run only while somebody
is waited for, so that an idle daemon stays idle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from .gathered import GatheredTransport

BODY_BYTES = 10 << 10  # by which a body grows while the daemon is patient with it
READERS_PATIENCE = 6  # times as long a client may take nothing of its answer: it may be busy with what it has
LINGER_S = 1.0  # in which a client that still sends what nobody wants can read its answer
MAX_CONNECTIONS = 256  # of TCP, and as many of the Unix socket, so that strangers do not keep the owner out


def patient(seconds: float) -> type[GuardedProtocol]:
    """Return the protocol with another patience."""
    return type("PatientProtocol", (GuardedProtocol,), {"patience_s": seconds})


class GuardedProtocol(H11Protocol):
    """One connection. A head takes no longer than `patience_s`, from its first byte or from the connection on."""

    patience_s: ClassVar[float] = 10.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._reading: Literal["head", "body", "rest"] | None = None  # what the timer waits for
        self._reader: asyncio.TimerHandle | None = None
        self._body_bytes, self._born = 0, self.loop.time()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; where there are too many connections, one that waits for a request goes."""
        super().connection_made(GatheredTransport(transport, self.loop))
        self._make_room()
        self._wait("head", self.patience_s, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._wait_no_more()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes; the first of a request starts its deadline."""
        if self._idle and self._reading is None:
            self._wait("head", self.patience_s, self.transport.close)
        self._body_bytes += len(data)
        super().data_received(data)

    def handle_events(self) -> None:
        """Handle what is whole, and wait for what is not."""
        try:
            super().handle_events()
        except ValueError:  # a Content-Length of thousands of digits, which h11 lets through
            self.send_400_response("Invalid HTTP request received.")
        comes = self.conn.their_state is h11.SEND_BODY
        if not self._idle:
            if comes and self._reading != "body":
                self._await_body()
            elif not comes:
                self._wait_no_more()
        elif self._reading == "rest" and not comes:  # all of it came: the connection may serve again
            self._wait("head", self.patience_s, self.transport.close)

    def on_response_complete(self) -> None:
        """Go on with the next request, unless a body that nobody reads still comes."""
        unread = self.conn.their_state is h11.SEND_BODY
        super().on_response_complete()
        if unread and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._wait("rest", LINGER_S, self.transport.close)

    def pause_writing(self) -> None:
        """Wait for a client that does not read, for a while."""
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        """Go on."""
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None
        super().resume_writing()

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_body(self) -> None:
        self._body_bytes = 0
        self._wait("body", self.patience_s, self._check_body)

    def _check_body(self) -> None:
        ours = self.flow.read_paused or self.cycle.waiting_for_100_continue  # the daemon is the slow one
        if ours or self._body_bytes >= BODY_BYTES:
            self._await_body()
        else:
            self.transport.abort()

    def _await_reader(self) -> None:
        before = self.transport.get_write_buffer_size()

        def check() -> None:
            if self.transport.get_write_buffer_size() < before:
                self._await_reader()
            else:
                self.transport.abort()

        self._reader = self.loop.call_later(READERS_PATIENCE * self.patience_s, check)

    def _wait(self, what: Literal["head", "body", "rest"], seconds: float, then: Callable[[], None]) -> None:
        self._wait_no_more()
        self._reading, self._timer = what, self.loop.call_later(seconds, then)

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._reading = self._timer = None

    def _make_room(self) -> None:
        """Close the connection that has waited longest without a request; this one, where all others are at work."""
        ours = [each for each in self.connections if isinstance(each, GuardedProtocol)]
        alike = [each for each in ours if (each.client is None) == (self.client is None)]
        if len(alike) > MAX_CONNECTIONS:
            idle = (each for each in alike if each._idle and each is not self)
            min(idle, key=lambda each: each._born, default=self).transport.abort()
