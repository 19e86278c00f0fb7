"""Requests under way and their sockets: an overall deadline for each, and a way to break them off from outside.

A socket's timeout only bounds the wait for the next byte: a server, or a network, that lets a trickle through keeps a
request for hours. While the kernel's buffers drain over a slow line, it fires though all is well. And a request in a
black hole does not notice that the network came back. So every request is known here together with its socket: whether
bytes pass is asked of the kernel, and a request is ended by shutting its socket down, which wakes the thread on it.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

from ..state.errors import Offline, Timeout

OVERDUE = "it did not end within its time"
STALLED = "no byte came through for too long"
INTERRUPTED = "it was broken off to connect anew"
CLOSING = "the connection to the storage is closed"
INTERRUPTIONS = 8  # so often a request that can go on by itself does; a network that changes still is no network

LOOK_S, IDLE_S = 0.25, 30.0
LONGEST_SILENCE_S = 3600.0  # of the socket itself; the watcher ends what is silent long before
_PASSED = struct.Struct("=120xQQ")  # struct tcp_info of linux/tcp.h: tcpi_bytes_acked, tcpi_bytes_received
_current = threading.local()


class Call:
    """A request under way, which may still wait for the network for `allowed_s`."""

    __slots__ = ("allowed_s", "ended", "moved_at", "passed", "sending", "since", "socket")

    def __init__(self, allowed_s: float) -> None:
        self.allowed_s = allowed_s
        self.since: float | None = None  # monotonic seconds; None while its time stands still
        self.ended: str | None = None  # why it was broken off
        self.sending = False  # the body goes out; before that, it may be read to be signed
        self.socket: socket.socket | None = None
        self.passed: tuple[int, ...] = ()  # bytes that came through, either way
        self.moved_at = 0.0

    def go_on(self) -> None:
        """Let its time run."""
        self.since = self.moved_at = time.monotonic()

    def stand_still(self) -> None:
        """Stop its time."""
        if self.since is not None:
            self.allowed_s -= time.monotonic() - self.since
            self.since = None

    def look(self, now: float, stall_s: float) -> None:
        """Break it off when its time is up, or when nothing came through for so long."""
        since, passed = self.since, _passed(self.socket)
        if passed != self.passed:
            self.passed, self.moved_at = passed, now
        if since is not None and now - since > self.allowed_s:
            self.break_off(OVERDUE)
        elif since is not None and now - self.moved_at > stall_s:
            self.break_off(STALLED)

    def break_off(self, why: str) -> None:
        """Wake the thread that waits on the socket."""
        self.ended = self.ended or why
        if self.socket is not None:
            with contextlib.suppress(OSError):
                # Not SSLSocket's own: that drops the cipher first, and a thread that is sending would go on in clear.
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)


def _refuse_ended(call: Call, what: str, error: Exception | None = None) -> None:
    """Raise why a call was broken off; what came of it otherwise may look like a short answer."""
    if call.ended in (OVERDUE, STALLED):
        raise Timeout(f"{what}: {call.ended}", hint="It is tried again by itself.") from error
    if call.ended is not None:
        raise Offline(f"{what}: {call.ended}") from error


def _passed(sock: socket.socket | None) -> tuple[int, ...]:
    """Return how many bytes the other side has acknowledged and sent."""
    try:
        return _PASSED.unpack(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _PASSED.size)) if sock else ()
    except (OSError, struct.error):
        return ()


class Calls:
    """All requests of one bucket. One through which no byte comes for `stall_s` is broken off."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._running: set[Call] = set()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._watcher: threading.Thread | None = None

    @contextlib.contextmanager
    def running(self, call: Call, what: str) -> Iterator[None]:
        """Let a call's time run while its thread waits for the network.

        Raises: Timeout when its time is up, Offline when it was broken off; what the socket said is only the cause.
        """
        if self._closed.is_set():
            raise Offline(f"{what}: {CLOSING}")
        outer, _current.call = getattr(_current, "call", None), call
        self._enter(call)
        try:
            yield
            _refuse_ended(call, what)
        except Exception as error:
            _refuse_ended(call, what, error)
            raise
        finally:
            _current.call = outer
            self._leave(call)

    @staticmethod
    @contextlib.contextmanager
    def paused(call: Call) -> Iterator[None]:
        """Stop a call's time, e.g. while a bandwidth limit holds it back."""
        call.stand_still()
        try:
            yield
        finally:
            call.go_on()

    def interrupt(self, why: str = INTERRUPTED) -> None:
        """Break off everything that is under way; what comes later goes on."""
        with self._changed:
            for call in self._running:
                call.break_off(why)

    def wait(self, delay_s: float) -> None:
        """Wait, but not longer than until `close`."""
        self._closed.wait(delay_s)

    def close(self) -> None:
        """Break off everything for good."""
        self._closed.set()
        self.interrupt(CLOSING)
        with self._changed:
            self._changed.notify_all()

    @property
    def is_closed(self) -> bool:
        """Tell whether nothing may begin any more."""
        return self._closed.is_set()

    def pool_classes(self) -> dict[str, type]:
        """Return urllib3's pools by scheme, as botocore has them, with connections that are known here."""
        from botocore.awsrequest import (
            AWSHTTPConnection,
            AWSHTTPConnectionPool,
            AWSHTTPSConnection,
            AWSHTTPSConnectionPool,
        )

        return {
            "http": type("Pool", (AWSHTTPConnectionPool,), {"ConnectionCls": self._watched(AWSHTTPConnection)}),
            "https": type("Pool", (AWSHTTPSConnectionPool,), {"ConnectionCls": self._watched(AWSHTTPSConnection)}),
        }

    def _watched(self, base: Any) -> type:
        calls = self

        class Watched(base):  # type: ignore[misc]
            def connect(self) -> None:
                super().connect()
                calls._attach(self.sock)

            def request(self, *args: Any, **kwargs: Any) -> Any:
                calls._attach(self.sock)
                return super().request(*args, **kwargs)

        return Watched

    def _attach(self, sock: socket.socket | None) -> None:
        """Note the socket that serves this thread's call."""
        call: Call | None = getattr(_current, "call", None)
        if call is None:
            return
        call.sending = True
        with self._changed:
            call.socket = sock
            if call.ended is not None:
                raise TimeoutError(call.ended)
        if sock is not None:
            sock.settimeout(LONGEST_SILENCE_S)  # urllib3 sends under the timeout that is meant for connecting

    def _enter(self, call: Call) -> None:
        call.go_on()
        with self._changed:
            if not self._running:
                self._changed.notify_all()
            self._running.add(call)
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="s3-deadlines", daemon=True)
                self._watcher.start()

    def _leave(self, call: Call) -> None:
        call.stand_still()
        with self._changed:
            self._running.discard(call)

    def _watch(self) -> None:
        """End what is over its time; ends itself when there was nothing to look at for a while."""
        with self._changed:
            while not self._closed.is_set():
                now = time.monotonic()
                for call in self._running:
                    call.look(now, self._stall_s)
                if not self._changed.wait(LOOK_S if self._running else IDLE_S) and not self._running:
                    break
            self._watcher = None
