"""What requests may hold in memory together, and what is left of it to the owner."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from torpor.daemon.security import Gate
from torpor.daemon.tokens import Tokens
from torpor.state.errors import Unavailable

HELD, PIECE = 1000, 100
OWNER = "owner-token"


class Sending:
    """A client that sends as long as it is taken, and then waits for its answer."""

    def __init__(self, gate: Gate, token: str, path: str, method: str = "PUT") -> None:
        self.taken, self.refused, self.over = 0, False, asyncio.Event()
        headers = [(b"host", b"localhost"), (b"authorization", b"Bearer " + token.encode())]
        self._scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
                       "headers": headers, "server": ("socket", None), "client": self}  # fmt: skip
        self.task = asyncio.create_task(gate(self._scope, self._receive, self._send))

    async def _receive(self) -> Any:
        return {"type": "http.request", "body": bytes(PIECE), "more_body": True}

    async def _send(self, message: Any) -> None:
        raise AssertionError(message)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Hold what comes: 2,000 bytes, or what is taken of them."""
    client: Sending = scope["client"]
    try:
        while client.taken < 2 * HELD:
            client.taken += len((await receive())["body"])
    except Unavailable:
        client.refused = True
    await client.over.wait()


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens.json", OWNER, lambda: 1.0)


def test_a_token_with_scopes_leaves_the_owner_half(tokens: Tokens) -> None:
    _, page = tokens.new("container", ["save"])
    backup = "/v1/backups/01M81P35719XNDZ4R57NMV6DYZ"

    async def talk() -> None:
        gate = Gate(application, tokens=tokens, hosts=frozenset(), held_bytes=HELD)
        clients = []
        for token, path, taken in (
            (page, backup, HELD // 2),
            (page, "/v1/backups/01M81P35719XNDZ4R57NMV6DYY", 0),
            (OWNER, backup, HELD // 2),
            (page, "/v1/blobs/" + "0" * 64, 2 * HELD),  # goes to the disk as it comes
        ):
            clients.append(client := Sending(gate, token, path))
            for _ in range(100):
                await asyncio.sleep(0)
            assert (client.taken, client.refused) == (taken, taken < 2 * HELD)
        for client in clients:
            client.over.set()
            await client.task
        again = Sending(gate, OWNER, backup)
        again.over.set()
        await again.task
        assert again.taken == HELD  # what ended holds nothing

    asyncio.run(talk())
