"""A proxy that speaks HTTP in front of a real S3 server, and spoils what the test asks it to spoil.

It answers `Expect: 100-continue` itself, keeps connections alive, and passes chunked bodies on. What goes through is
counted: requests and bytes of bodies, by method.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Literal
from urllib.parse import unquote, urlsplit

from support.ports import free_port

PIECE, BUFFER = 16 << 10, 64 << 10
Kind = Literal[
    "answer",  # with `status` and `code`, before anything reached the server
    "lost-reply",  # the server has done it; the client gets `status` and `code`, or with status 0 a broken connection
    "black-hole",  # nothing comes back, ever
    "delay",  # of `seconds` before it goes on
    "throttle",  # bodies pass at `rate` bytes a second
    "reset-up",  # a connection reset behind `at` bytes of the request's body
    "reset-down",  # … of the response's body
    "stall-up",  # nothing more is read behind `at` bytes
    "stall-down",  # nothing more is sent behind `at` bytes
    "flip-up",  # the bits of byte `at` are turned
    "flip-down",
]


@dataclass(slots=True)
class Request:
    method: str
    target: str
    headers: dict[str, str]
    head: bytes

    @property
    def is_conditional(self) -> bool:
        return "if-none-match" in self.headers

    @property
    def name(self) -> str:
        """The object's name in its bucket."""
        return unquote(urlsplit(self.target).path).lstrip("/").partition("/")[2]


@dataclass(slots=True)
class Fault:
    """What is to happen to the next `times` requests that `hits` picks."""

    kind: Kind
    times: float = float("inf")
    hits: Callable[[Request], bool] = lambda _: True
    status: int = 503
    code: str = "SlowDown"
    headers: tuple[tuple[str, str], ...] = ()
    at: int = 0
    seconds: float = 0.0
    rate: float = 30_000.0
    met: int = 0  # requests that it has hit


def method(*names: str) -> Callable[[Request], bool]:
    return lambda request: request.method in names


def is_object(request: Request) -> bool:
    """Neither a listing nor a bucket's own request."""
    path = urlsplit(request.target).path
    return path.count("/") > 1 and not path.endswith("/")


class _Reset(Exception):
    """The connection is to be reset."""


@dataclass(slots=True)
class Exchange:
    """One request: the object's name (or nothing, for a listing), and bytes of both bodies as far as they passed."""

    method: str
    name: str
    up: int = 0
    down: int = 0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class _Counts:
    requests: Counter[str] = field(default_factory=Counter)
    bytes_up: Counter[str] = field(default_factory=Counter)
    bytes_down: Counter[str] = field(default_factory=Counter)
    log: list[Exchange] = field(default_factory=list)

    def named(self, prefix: str, *methods: str) -> list[Exchange]:
        """The requests for objects whose names begin so."""
        return [e for e in self.log if e.name.startswith(prefix) and (not methods or e.method in methods)]


class FaultProxy:
    """Use as a context manager. `endpoint` stays the same through `refuse` and `accept`."""

    def __init__(self, upstream: str, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        parts = urlsplit(upstream)
        assert parts.hostname is not None
        self._upstream = (parts.hostname, parts.port or 80)
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._stopped = threading.Event()
        self._listener: socket.socket | None = None
        self._hanging = 0
        self.counts = _Counts()
        self.port = free_port()
        self.accept()

    @property
    def endpoint(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def is_hanging(self) -> bool:
        """Tell whether some request was ever held for good."""
        return self._hanging > 0

    def add(self, *faults: Fault) -> None:
        with self._lock:
            self._faults += faults

    def clear(self) -> None:
        """Let everything pass again; what hangs in a black hole stays there."""
        with self._lock:
            self._faults.clear()

    @contextlib.contextmanager
    def fault(self, *faults: Fault) -> Iterator[None]:
        self.add(*faults)
        try:
            yield
        finally:
            self.clear()

    def reset_counts(self) -> None:
        self.counts = _Counts()

    def refuse(self) -> None:
        """Refuse connections, and reset those that are open."""
        assert self._listener is not None
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = None
        self.break_all()

    def break_all(self) -> None:
        """Reset the connections that are open."""
        with self._lock:
            for sock in self._open:
                _break(sock)

    def accept(self) -> None:
        """Take connections (again), at the same port."""
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)  # a slow line is felt, not hidden by buffers
        listener.bind(("127.0.0.1", self.port))
        listener.listen(64)
        self._listener, self.port = listener, listener.getsockname()[1]
        self._spawn(self._listen, listener)

    def __enter__(self) -> FaultProxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        if self._listener is not None:
            self.refuse()
        for thread in list(self._threads):
            thread.join(10)
            assert not thread.is_alive()

    def _spawn(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()] + [thread]
        thread.start()

    def _listen(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        try:
            client = self._secured(client)
            with self._held(client):
                server = socket.create_connection(self._upstream, 30)
                lines = _Line(client), _Line(server)
                with self._held(server):
                    while self._exchange(*lines):
                        pass
        except _Reset:
            _reset(client)
        except OSError:
            pass
        finally:
            client.close()
            if server is not None:
                server.close()

    def _secured(self, client: socket.socket) -> socket.socket:
        if self._tls is None:
            return client
        client.settimeout(10)
        secured = self._tls.wrap_socket(client, server_side=True)
        secured.settimeout(None)
        return secured

    @contextlib.contextmanager
    def _held(self, sock: socket.socket) -> Iterator[None]:
        with self._lock:
            self._open.add(sock)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(sock)

    def _exchange(self, client: _Line, server: _Line) -> bool:
        """Pass one request and its answer; return whether the connection lives on."""
        head = client.head()
        if not head:
            return False
        request = _parse(head)
        fault = self._fault_for(request)
        counts, exchange = self.counts, Exchange(request.method, request.name, headers=request.headers)
        counts.requests[request.method] += 1
        counts.log.append(exchange)
        if fault is not None and fault.kind == "delay":
            self._stopped.wait(fault.seconds)
        if fault is not None and fault.kind == "black-hole":
            self._hang(client)
        if fault is not None and fault.kind == "answer":
            if "expect" not in request.headers:
                self._pass(client.body(request.headers), None, exchange, "up", None)
            client.send(_answer(fault, request))
            return "expect" not in request.headers
        server.send(_without(head, b"expect"))
        if "expect" in request.headers:
            client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._pass(client.body(request.headers), server, exchange, "up", fault)
        return self._answer(client, server, request, exchange, fault)

    def _answer(self, client: _Line, server: _Line, request: Request, exchange: Exchange, fault: Fault | None) -> bool:
        head = server.head()
        while head.startswith(b"HTTP/1.1 100"):
            head = server.head()
        if not head:
            return False
        answer = _parse(head)
        status = int(head.split(None, 2)[1])
        has_body = request.method != "HEAD" and status not in (204, 304)
        body = server.body(answer.headers, is_answer=True) if has_body else iter(())
        if fault is not None and fault.kind == "lost-reply":
            self._pass(body, None, exchange, "", None)
            if not fault.status:
                raise _Reset
            client.send(_answer(fault, request))
            return True
        client.send(head)
        self._pass(body, client, exchange, "down", fault)
        return answer.headers.get("connection", "").lower() != "close"

    def _pass(
        self, body: Iterator[tuple[bytes, bytes]], to: _Line | None, exchange: Exchange, way: str, fault: Fault | None
    ) -> None:
        """Pass a body on; each piece is (frame before it, its bytes)."""
        kind = fault.kind if fault is not None else ""
        at = 0
        for frame, data in body:
            if fault is not None and kind.endswith("-" + way) and way and data:
                data = self._spoil(fault, kind, at, data, to)
            at += len(data)
            if way:
                counted = self.counts.bytes_up if way == "up" else self.counts.bytes_down
                counted[exchange.method] += len(data)
                exchange.up += len(data) if way == "up" else 0
                exchange.down += len(data) if way == "down" else 0
            if to is not None:
                self._send(to, frame + data, fault.rate if fault is not None and kind == "throttle" else None)

    def _send(self, to: _Line, data: bytes, rate: float | None) -> None:
        step = len(data) if rate is None else max(1, int(rate / 20))
        for at in range(0, len(data), max(1, step)):
            to.send(data[at : at + step])
            if rate is not None:
                self._stopped.wait(step / rate)

    def _spoil(self, fault: Fault, kind: str, at: int, data: bytes, to: _Line | None) -> bytes:
        if at + len(data) <= fault.at:
            return data
        cut = max(0, fault.at - at)
        if kind.startswith("flip"):
            return data if at > fault.at else data[:cut] + bytes([data[cut] ^ 0xFF]) + data[cut + 1 :]
        if to is not None:
            to.send(data[:cut])
        if kind.startswith("reset"):
            self._stopped.wait(fault.seconds)  # what was sent may arrive: a reset drops what was not read yet
            raise _Reset
        self._hang(to)
        return b""

    def _hang(self, _: object) -> None:
        """Hold the connection without a byte until the proxy ends, or somebody breaks it."""
        with self._lock:
            self._hanging += 1
        self._stopped.wait()
        raise _Reset

    def _fault_for(self, request: Request) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and fault.hits(request):
                    fault.times -= 1
                    fault.met += 1
                    return fault
        return None


class _Line:
    """One side of a connection, read with what was buffered before."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def head(self) -> bytes:
        """Read up to the blank line; nothing at the end of the connection."""
        while b"\r\n\r\n" not in self._buffer:
            data = self._sock.recv(PIECE)
            if not data:
                return b""
            self._buffer += data
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def body(self, headers: dict[str, str], *, is_answer: bool = False) -> Iterator[tuple[bytes, bytes]]:
        if "chunked" in headers.get("transfer-encoding", ""):
            yield from self._chunks()
        elif "content-length" in headers:
            yield from ((b"", data) for data in self._exactly(int(headers["content-length"])))
        elif is_answer:
            while data := self._some(PIECE):
                yield b"", data

    def _exactly(self, left: int) -> Iterator[bytes]:
        while left:
            data = self._some(min(left, PIECE))
            if not data:
                raise OSError("ended early")
            left -= len(data)
            yield data

    def _chunks(self) -> Iterator[tuple[bytes, bytes]]:
        while True:
            line = self._line()
            size = int(line.split(b";")[0], 16)
            frame = line
            for data in self._exactly(size):
                yield frame, data
                frame = b""
            end = self._line()
            yield frame + end, b""
            if not size:
                return

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            data = self._sock.recv(PIECE)
            if not data:
                raise OSError("ended early")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line + b"\r\n"

    def _some(self, most: int) -> bytes:
        if self._buffer:
            data, self._buffer = self._buffer[:most], self._buffer[most:]
            return data
        return self._sock.recv(most)


def _parse(head: bytes) -> Request:
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method_name, target, *_ = [*first.split(" "), ""]
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    return Request(method_name, target, headers, head)


def _without(head: bytes, name: bytes) -> bytes:
    lines = head.split(b"\r\n")
    return b"\r\n".join(line for line in lines if not line.lower().startswith(name + b":"))


def _answer(fault: Fault, request: Request) -> bytes:
    body = f"<Error><Code>{fault.code}</Code><Message>as the test asked</Message></Error>".encode()
    fields = [("Date", formatdate(time.time(), usegmt=True)), ("Content-Type", "application/xml")]
    fields += [("Content-Length", str(len(body))), *fault.headers]
    if "expect" in request.headers:
        fields.append(("Connection", "close"))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"HTTP/1.1 {fault.status} X\r\n{head}\r\n".encode() + (b"" if request.method == "HEAD" else body)


def _break(sock: socket.socket) -> None:
    """Wake whoever reads or writes it; the thread that owns it closes it."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)


def _reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
