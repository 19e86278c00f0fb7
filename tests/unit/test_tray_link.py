"""The tray's connection where the daemon is no help: it hangs, or ends each stream as soon as it was opened."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.waiting import until
from torpor.client import api as client_api
from torpor.client.api import Api
from torpor.client.discover import Endpoint
from torpor.client.event_stream import EventStream
from torpor.state.errors import Timeout
from torpor.tray.link import Away, Link, There, Word

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


class Server:
    """Listens like a daemon; `meet` is what it does with each connection, which it then keeps."""

    def __init__(self, path: Path, meet: Callable[[socket.socket], None]) -> None:
        self.path, self.meet, self.met = str(path), meet, list[socket.socket]()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.met.append(connection)
            self.meet(connection)

    def api(self) -> Api:
        return Api(lambda: Endpoint("http://localhost", "token", self.path, None))

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join()
        for connection in self.met:
            connection.close()


@contextmanager
def server(path: Path, meet: Callable[[socket.socket], None]) -> Iterator[Server]:
    made = Server(path, meet)
    try:
        yield made
    finally:
        made.close()


def ended_stream(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(STREAM + b"content-length: 0\r\nconnection: close\r\n\r\n")
    connection.close()


def test_a_daemon_that_hangs_keeps_no_tray_from_ending(tmp_path: Path) -> None:
    with server(tmp_path / "socket", lambda _: None) as hung:
        link = Link(hung.api, lambda _: None)
        link.start()
        until(lambda: hung.met, "nobody asked")
        ending = threading.Thread(target=link.stop, daemon=True)
        ending.start()
        ending.join(20)
        assert not ending.is_alive()


def test_a_daemon_that_hangs_is_noticed_before_the_first_beat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_api, "TIMEOUT", client_api.Patience.of(0.1))
    with server(tmp_path / "socket", lambda _: None) as hung, pytest.raises(Timeout):
        EventStream(hung.api())


def test_an_open_stream_may_be_silent_for_longer_than_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meet(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(STREAM + b"content-length: 100\r\n\r\n")
        time.sleep(0.3)  # of the silence that is tested
        connection.sendall(b'data: {"id": 7}\n\n')

    monkeypatch.setattr(client_api, "TIMEOUT", client_api.Patience.of(0.2))
    with server(tmp_path / "socket", meet) as silent:
        stream = EventStream(silent.api())
        assert next(iter(stream)) == {"id": 7}
        stream.close()


def test_streams_that_end_at_once_are_opened_ever_more_seldom(tmp_path: Path) -> None:
    rests, heard = list[float | None](), list[Word]()

    class Hurried(threading.Event):
        """Waits for no time, and notes for how long it was to be."""

        def wait(self, timeout: float | None = None) -> bool:
            rests.append(timeout)
            link._stopped = len(rests) == 9
            return False

    with server(tmp_path / "socket", ended_stream) as ending:
        link = Link(ending.api, heard.append)
        link._again = Hurried()
        link.start()
        until(lambda: len(rests) == 9, lambda: str(heard))
        link.stop()
    assert [type(each) for each in heard[:4]] == [There, Away] * 2
    assert rests == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
