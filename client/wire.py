"""Questions to a daemon on this machine, in the clear, with the standard library's HTTP/1.1.

httpx takes 0.6 ms of CPU for a question, the standard library 0.2: a save of a message is one question, and most of its
time was that; and it takes 54 ms to import. TLS, streams and bodies that are read from files are httpx's all the same
(client/over_httpx.py), and what fails is said there by the same two exceptions.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, urlencode

ADDRESS_HINT = "TORPOR_URL looks like http://127.0.0.1:7717; TORPOR_TOKEN is what the file `token` holds."
AT_ONCE_BYTES = 64 << 10  # head and body of a question that go in one piece: each piece wakes the daemon
MOST_LINES = 100  # at once, as httpx has: the daemon has places for 256, and sends away whoever comes behind them
MOST_IDLE = 20  # that are kept: the daemon closes its side of an idle one, and ours stays until somebody looks
_SAFE = "/?=&%:@!$'()*+,;~"  # what stands for itself in a path with a query


class NoAnswer(Exception):  # noqa: N818 - what a question came to; whoever asked makes an error of it, or asks again
    """Nothing that is an answer came: nobody listens, or a connection broke, or what it said is no HTTP."""


class NoAnswerInTime(NoAnswer):
    """No answer came in time, or no connection, or there was no place for one more question."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited for a connection, and for all else: each part of a question, of an answer, and a place."""

    answer_s: float
    connect_s: float

    @classmethod
    def of(cls, seconds: float) -> Patience:
        """Wait so long for everything."""
        return cls(seconds, seconds)


class Headers(Protocol):
    """Headers, by their names in any case."""

    def get(self, name: str, /) -> str | None:
        """Return a header's value, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as a whole."""

    status_code: int
    headers: Headers
    content: bytes

    @property
    def is_success(self) -> bool:
        """Tell whether what was asked for was done."""
        return 200 <= self.status_code < 300


def target_of(path: str, params: Mapping[str, Any] | None) -> str:
    """Return what is asked for: a path, with a query or without, and further parameters."""
    target = quote(path, safe=_SAFE)
    if not params:
        return target
    query = urlencode({name: _text(value) for name, value in params.items()})
    return f"{target}{'&' if '?' in target else '?'}{query}"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def to_json(value: Any) -> bytes:
    """Return a body, as httpx writes it. Raises: ValueError, TypeError."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


class _Line(http.client.HTTPConnection):
    """One connection, of TCP or of a Unix socket."""

    def __init__(self, host: str, port: int | None, path: str | None) -> None:
        super().__init__(host, port)
        self._path = path
        self._pieces: list[bytes] | None = None
        self._taken = True

    def connect(self) -> None:
        if self._path is None:
            super().connect()
            return
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)

    def is_open(self) -> bool:
        """Tell whether it may be used once more: a daemon that has closed it, or says something unasked, has not."""
        if self.sock is None:
            return False
        look = select.poll()
        look.register(self.sock, select.POLLIN)
        return not look.poll(0)

    def send(self, data: Any) -> None:
        if self._pieces is None:
            super().send(data)
        else:
            self._pieces.append(data)

    def put(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], patience: Patience) -> None:
        """Send a question as a whole."""
        self._pieces = pieces = list[bytes]()
        try:
            self.request(method, target, body, dict(headers))
        finally:
            self._pieces = None
        if self.sock is None:
            self.timeout = patience.connect_s
            self.connect()
        self.sock.settimeout(patience.answer_s)
        self._taken = self._give(_joined(pieces))

    def answer(self) -> Answer:
        """Read what was answered to the question that was sent last."""
        response = self.getresponse()
        content = response.read()
        if not self._taken:
            self.close()
        return Answer(response.status, response.headers, content)

    def _give(self, pieces: list[bytes]) -> bool:
        """Send; False when the daemon takes no more, as it does once it has refused a body: its answer may be there."""
        with suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                for at in range(0, len(piece), AT_ONCE_BYTES):  # a timeout is one of all that a call sends
                    super().send(memoryview(piece)[at : at + AT_ONCE_BYTES])
            return True
        return False


def _joined(pieces: list[bytes]) -> list[bytes]:
    return [b"".join(pieces)] if sum(map(len, pieces)) <= AT_ONCE_BYTES else pieces


@contextmanager
def _told(line: _Line) -> Iterator[None]:
    """Close a connection that fails, and say why. Raises: NoAnswer."""
    try:
        yield
    except BaseException as error:
        line.close()
        if isinstance(error, TimeoutError):
            raise NoAnswerInTime(str(error)) from error
        if isinstance(error, (OSError, http.client.HTTPException, ValueError)):  # the last: a header that is none
            raise NoAnswer(str(error) or type(error).__name__) from error
        raise


class Question:
    """A question that was sent. It is answered once, or dropped; until then it has a connection for itself."""

    def __init__(self, line: _Line, keep: Callable[[_Line], None], leave: Callable[[], None]) -> None:
        self._line, self._keep, self._leave = line, keep, leave
        self._open = True

    def answer(self) -> Answer:
        """Wait for the answer. Raises: NoAnswer."""
        self._open = False
        try:
            with _told(self._line):
                answer = self._line.answer()
            self._keep(self._line)
            return answer
        finally:
            self._leave()

    def drop(self) -> None:
        """Close the connection of a question whose answer nobody has read."""
        if self._open:
            self._open = False
            self._line.close()
            self._leave()


class Wire:
    """Connections to one daemon, each for one question at a time. Safe to use from several threads."""

    def __init__(self, host: str, port: int | None, path: str | None, headers: Mapping[str, str]) -> None:
        """Take a host and port for TCP, or the path of a Unix socket; `headers` go with each question."""
        self._host, self._port, self._path, self._headers = host, port, path, dict(headers)
        self._closed = False
        self._begin()

    def _begin(self) -> None:
        self._idle, self._places = deque[_Line](), threading.Semaphore(MOST_LINES)
        self._process = os.getpid()

    def ask(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], patience: Patience
    ) -> Answer:
        """Ask, and return the whole answer. Raises: NoAnswer, RuntimeError once it is closed."""
        return self.put(method, target, body, headers, patience).answer()

    def put(
        self, method: str, target: str, body: bytes | None, headers: Mapping[str, str], patience: Patience
    ) -> Question:
        """Send a question, whose answer is read later, or never: then it is dropped. Raises: as `ask`."""
        if self._closed:
            raise RuntimeError("Cannot send a request, as the client has been closed.")
        if self._process != os.getpid():  # forked: what is open is the parent's, and so are its answers
            self._begin()
        places = self._places
        if not places.acquire(timeout=patience.answer_s):
            raise NoAnswerInTime(f"{MOST_LINES} questions wait for an answer")
        try:
            line = self._line()
            with _told(line):
                line.put(method, target, body, self._headers | dict(headers), patience)
        except BaseException:
            places.release()
            raise
        return Question(line, self._keep, places.release)

    def _keep(self, line: _Line) -> None:
        if len(self._idle) < MOST_IDLE:
            self._idle.append(line)
        else:
            line.close()
        if self._closed:
            self.close()

    def _line(self) -> _Line:
        while self._idle:
            try:
                line = self._idle.pop()
            except IndexError:  # another thread was quicker
                break
            if line.is_open():
                return line
            line.close()
        return _Line(self._host, self._port, self._path)

    def close(self) -> None:
        """Close what nobody uses, now and from now on."""
        self._closed = True
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                break
