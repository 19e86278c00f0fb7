"""Connections with deadlines, over real sockets to a small application."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import uvicorn
from torpor.client.discover import listener_is_ours
from torpor.daemon import http_protocol
from torpor.daemon.http_protocol import patient
from uvicorn.server import ServerState

PATIENCE_S = 0.1
LARGE = 8 << 20
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the body's length; `/large` with much, and `/deaf` without having read."""
    size, more = 0, scope["path"] != "/deaf"
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = bytes(LARGE) if scope["path"] == "/large" else b"%d" % size
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[Any]]


class Server:
    """A server in the loop that asks."""

    def __init__(self) -> None:
        self.config = uvicorn.Config(application, http=patient(PATIENCE_S), ws="none", lifespan="off", log_config=None)
        self.config.load()
        self.state = ServerState()
        self.sock = socket.create_server(("127.0.0.1", 0))

    async def open(self) -> asyncio.Server:
        made = self.config.http_protocol_class
        return await asyncio.get_running_loop().create_server(
            lambda: made(config=self.config, server_state=self.state, app_state={}),  # type: ignore[call-arg]
            sock=self.sock,
        )

    def talk(self, *talks: Talk) -> list[Any]:
        async def all_of_it() -> list[Any]:
            server = await self.open()
            try:
                return [await asyncio.wait_for(self.one(each), 10) for each in talks]
            finally:
                server.close()

        return asyncio.run(all_of_it())

    async def one(self, talk: Talk) -> Any:
        reader, writer = await asyncio.open_connection(*self.sock.getsockname())
        try:
            return await talk(reader, writer)
        finally:
            writer.close()


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.sock.close()


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionResetError:
        return b"reset"


@pytest.mark.parametrize("sent", [b"", b"GET", HEAD, HEAD + b"X: y\r\n", HEAD + b"Content-Length: 5\r\n\r\nab"])
def test_what_does_not_go_on_is_closed(server: Server, sent: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(sent)
        return await until_closed(reader)

    assert server.talk(talk) in ([b""], [b"reset"])


def test_a_head_in_drops_is_closed_although_it_goes_on(server: Server) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        end, sent = asyncio.ensure_future(until_closed(reader)), 0
        while not end.done():
            writer.write(b"x")
            sent += 1
            await asyncio.wait([end], timeout=PATIENCE_S / 10)
        return sent

    assert server.talk(talk)[0] < 100


def test_a_body_that_goes_on_is_waited_for(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "BODY_BYTES", 10)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        pieces = 30
        writer.write(HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % (20 * pieces))
        for _ in range(pieces):
            writer.write(bytes(20))
            await asyncio.sleep(PATIENCE_S / 10)  # thirty of them are three times its patience
        return await until_closed(reader)

    assert server.talk(talk)[0].endswith(b"600")


def test_a_client_that_takes_nothing_of_its_answer_is_let_go(server: Server) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        while not server.state.connections:
            await asyncio.sleep(0)
        while server.state.connections:
            await asyncio.sleep(PATIENCE_S / 10)
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        return len(await until_closed(reader))

    assert server.talk(talk)[0] < LARGE


def test_a_connection_serves_again_when_a_body_that_nobody_read_has_come(server: Server) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[bytes]:
        writer.write(b"POST /deaf HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n")
        first = await reader.readuntil(b"\r\n\r\n0")
        writer.write(b"body" + HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\nab")
        return [first, await until_closed(reader)]

    first, second = server.talk(talk)[0]
    assert first.startswith(b"HTTP/1.1 200")
    assert second.endswith(b"\r\n\r\n2")


def test_a_body_that_nobody_reads_ends_soon(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "LINGER_S", PATIENCE_S)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"POST /deaf HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
        end = asyncio.ensure_future(until_closed(reader))
        while not end.done():
            writer.write(bytes(20_000))  # more than enough not to be slow
            await asyncio.wait([end], timeout=PATIENCE_S / 10)
        return await end

    assert server.talk(talk)[0][:12] in (b"HTTP/1.1 200", b"reset")


def test_the_connection_that_waits_longest_makes_room(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "MAX_CONNECTIONS", 3)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[bool]:
        others = [await asyncio.open_connection(*server.sock.getsockname()) for _ in range(3)]
        first = await until_closed(reader)
        writers = [each for _, each in others]
        for each in writers:
            each.write(HEAD + b"Connection: close\r\nContent-Length: 0\r\n\r\n")
        answers = [await until_closed(each) for each, _ in others]
        for each in writers:
            each.close()
        return [first in (b"", b"reset"), *(b"200 OK" in answer for answer in answers)]

    assert server.talk(talk) == [[True] * 4]


def test_the_token_is_not_sent_to_another_user_who_took_the_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as ours:
        port = ours.getsockname()[1]
        with open("/proc/net/tcp", encoding="ascii") as file:
            table = file.read()
        assert listener_is_ours(f"http://127.0.0.1:{port}", table)
    row = "   0: {}:{:04X} 00000000:0000 {} 00000000:00000000 00:00000000 00000000 {} 0 1 1 0 100 0 0 10 0"
    head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
    url = "http://127.0.0.1:7717"
    assert not listener_is_ours(url, head + row.format("0100007F", 7717, "0A", 65534))
    assert not listener_is_ours(url, head + row.format("00000000", 7717, "0A", 65534))
    assert listener_is_ours(url, head + row.format("0100007F", 7717, "01", 65534))  # a client's end
    assert listener_is_ours(url, head + row.format("0100007F", 7718, "0A", 65534))
    assert listener_is_ours(url, None)


@pytest.mark.parametrize("address", ["0" * 32, "0000000000000000FFFF00000100007F", "0000000000000000FFFF000000000000"])
def test_a_listener_by_ipv6_takes_connections_to_127_0_0_1_as_well(address: str) -> None:
    row = f"   0: {address}:1E25 {'0' * 32}:0000 0A 00000000:00000000 00:00000000 00000000 65534 0 1 1 0 100 0 0 10 0"
    assert not listener_is_ours("http://127.0.0.1:7717", "  sl  local_address remote_address st tx_queue\n" + row)
    ours = row.replace("65534", str(os.geteuid()))
    assert listener_is_ours("http://127.0.0.1:7717", ours)
    assert not listener_is_ours("http://127.0.0.1:7717", f"{ours}\n{row}")  # whoever of them gets the connection
