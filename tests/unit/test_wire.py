"""Questions over the standard library's HTTP: what a daemon may do to a connection, and what a client makes of it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import pytest
from torpor.client.wire import AT_ONCE_BYTES, MOST_IDLE, MOST_LINES, NoAnswer, Patience, Wire

PATIENT = Patience.of(20.0)
REFUSED = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@contextmanager
def listening(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[Wire]:
    """Serve each connection in a thread of its own, and yield what asks there."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(2 * MOST_LINES)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        wire = Wire("localhost", None, str(path), {"X-Token": "t"})
        try:
            yield wire
        finally:
            wire.close()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def head_of(connection: socket.socket) -> bytes:
    """Take the head of a question, and what came with it; empty where there is none."""
    head = b""
    while b"\r\n\r\n" not in head:
        if not (more := connection.recv(4096)):
            return b""
        head += more
    return head


def ask(wire: Wire, body: bytes | None = None) -> int:
    return wire.ask("PUT", "/v1/x", body, {}, PATIENT).status_code


def test_an_answer_that_comes_before_the_body_was_taken_is_read(tmp_path: Path) -> None:
    """A daemon says that a token or a size is wrong, and closes: that is no daemon which is not there."""

    def serve(connection: socket.socket) -> None:
        with connection:
            head_of(connection)
            connection.sendall(REFUSED)

    with listening(tmp_path / "s", serve) as wire:
        assert [ask(wire, bytes(8 << 20)), ask(wire, bytes(8 << 20))] == [413, 413]


def test_a_large_body_goes_in_parts_each_with_its_timeout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`sendall` has one timeout for all that it is given, and a tunnel to a daemon elsewhere may be slow."""
    sent: list[int] = []
    real = HTTPConnection.send

    def note(line: HTTPConnection, data: memoryview) -> None:
        sent.append(len(data))
        real(line, data)

    def serve(connection: socket.socket) -> None:
        with connection:
            head, _, begun = head_of(connection).partition(b"\r\n\r\n")
            missing = int(head.lower().partition(b"content-length: ")[2].split()[0]) - len(begun)
            while missing:
                missing -= len(connection.recv(min(missing, 64 << 10)))
            connection.sendall(FINE)

    monkeypatch.setattr(HTTPConnection, "send", note)
    with listening(tmp_path / "s", serve) as wire:
        assert ask(wire, bytes(1 << 20)) == 200
    assert max(sent) <= AT_ONCE_BYTES
    assert sum(sent) > 1 << 20


def test_a_connection_that_was_closed_meanwhile_is_not_used_again(tmp_path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        with connection:
            head_of(connection)
            connection.sendall(FINE)
        closed.release()  # only now: the answer alone does not say that the connection ends

    closed = threading.Semaphore(0)
    with listening(tmp_path / "s", serve) as wire:
        for _ in range(5):
            assert ask(wire) == 200
            closed.acquire()


def test_many_threads_wait_for_a_place_and_leave_few_connections(tmp_path: Path) -> None:
    """More than the daemon has places for would be sent away; those that nobody uses would stay for good."""
    open_now, most = set[int](), [0]

    def serve(connection: socket.socket) -> None:
        with connection:
            open_now.add(id(connection))
            most[0] = max(most[0], len(open_now))
            while head_of(connection):
                connection.sendall(FINE)
            open_now.discard(id(connection))

    with listening(tmp_path / "s", serve) as wire, ThreadPoolExecutor(2 * MOST_LINES) as threads:
        assert set(threads.map(lambda _: ask(wire), range(6 * MOST_LINES))) == {200}
        assert len(wire._idle) <= MOST_IDLE + 1
        assert most[0] <= MOST_LINES + MOST_IDLE + 1


def test_a_forked_process_has_connections_of_its_own(tmp_path: Path) -> None:
    """Two processes on one connection would read each other's answers."""
    connections: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        connections.append(connection)
        with connection:
            while head_of(connection):
                connection.sendall(FINE)

    with listening(tmp_path / "s", serve) as wire:
        assert ask(wire) == 200
        child = os.fork()
        if not child:
            os._exit(0 if ask(wire) == 200 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert ask(wire) == 200
    assert len(connections) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 70_000 + b"\r\n\r\n",
    ],
)
def test_an_answer_that_is_none_breaks_the_connection(tmp_path: Path, answer: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        with connection:
            head_of(connection)
            connection.sendall(answer)

    with listening(tmp_path / "s", serve) as wire:
        with pytest.raises(NoAnswer):
            ask(wire)
        assert not wire._idle


def test_chunked_answers_and_those_without_a_length_are_read_whole(tmp_path: Path) -> None:
    answers = [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + FINE,
        b"HTTP/1.0 200 OK\r\n\r\n{}",
    ]

    def serve(connection: socket.socket) -> None:
        with connection:
            while head_of(connection):
                connection.sendall(answers.pop(0))
                if not answers:
                    return

    with listening(tmp_path / "s", serve) as wire:
        for _ in range(3):
            assert wire.ask("GET", "/", None, {}, PATIENT).content == b"{}"


def test_no_header_can_be_smuggled_in(tmp_path: Path) -> None:
    with listening(tmp_path / "s", lambda _: None) as wire, pytest.raises(NoAnswer):
        wire.ask("GET", "/", None, {"A": "b\r\nC: d"}, PATIENT)
