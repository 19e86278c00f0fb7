"""What a save of text alone asks of the machine, counted: syncs, statements, questions to the daemon, writes."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon
from support.manifests import manifest
from support.traced import traced
from torpor.adapters.plain import PlainSession
from torpor.client import wire
from torpor.codec import manifest_file
from torpor.daemon.compose import compose
from torpor.daemon.gathered import MAX_GATHERED_BYTES, GatheredTransport
from torpor.daemon.settings import Settings
from torpor.store.home import Home

TEXT = {"text_context": {"conversation": [{"role": "user", "content": "hello"}]}}
FIRST, SECOND = "01M81P35719XNDZ4R57NMV0001", "01M81P35719XNDZ4R57NMV0002"


def test_a_commit_is_one_file_and_one_transaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the floor has it: a file's sync, its folder's, and the one of SQLite's log at COMMIT."""
    synced: list[int] = []
    real = os.fsync

    def count(fd: int) -> None:
        synced.append(fd)
        real(fd)

    with ExitStack() as stack:
        home = Home.at(tmp_path / "home")
        home.create()
        catalog = compose(home, Settings(), stack)
        now = catalog.now()
        made = [
            manifest(id=each, layers=TEXT, kv_cache=None, created_at=now, parent_id=parent)
            for each, parent in ((FIRST, None), (SECOND, FIRST))
        ]
        catalog.commit(FIRST, manifest_file.dump(made[0]))
        catalog.set_title(made[0].session_id, "a title")
        monkeypatch.setattr(os, "fsync", count)
        with traced(catalog.index) as seen:
            answer = catalog.commit(SECOND, manifest_file.dump(made[1]))
        assert answer == catalog.index.backup(SECOND)
        assert answer.title == "a title"
    assert len(synced) == 2
    begun = seen.index("BEGIN IMMEDIATE")
    assert [each.split()[0] for each in seen[begun : seen.index("COMMIT", begun) + 1]] == [
        "BEGIN",
        "SELECT",  # whether it is there
        *["INSERT"] * 3,  # session, backup, preview
        "COMMIT",
    ]
    assert sum(each.startswith("SELECT") for each in seen) == 1  # nothing is asked beside it


def test_a_save_is_one_question_in_one_piece(shared_daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    sent: list[int] = []
    put, send = wire._Line.put, wire.http.client.HTTPConnection.send

    def asking(self: Any, method: str, target: str, *rest: Any) -> None:
        asked.append(f"{method} {target.rpartition('/')[0]}")
        put(self, method, target, *rest)

    def sending(self: Any, data: Any) -> None:
        sent.append(len(data))
        send(self, data)

    with shared_daemon.keeper() as keeper:
        session = PlainSession(TEXT)
        keeper.save("counted", session).wait()
        monkeypatch.setattr(wire._Line, "put", asking)
        monkeypatch.setattr(wire.http.client.HTTPConnection, "send", sending)
        keeper.save("counted", session).wait()
        assert asked == ["PUT /v1/backups"]
        assert len(sent) == 1
        assert not keeper._threads._threads  # nothing was handed to the threads that write blobs


class Sent(asyncio.Transport):
    """A transport that notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.pieces.append(bytes(data))

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


def test_an_answer_is_one_write() -> None:
    async def answer() -> list[bytes]:
        sent = Sent()
        gathered = GatheredTransport(sent, asyncio.get_running_loop())
        for piece in (b"head", b"body", b""):
            gathered.write(piece)
        assert sent.pieces == []
        await asyncio.sleep(0)
        gathered.write(b"last")
        gathered.close()
        await asyncio.sleep(0)
        return sent.pieces

    assert asyncio.run(answer()) == [b"headbody", b"last"]


def test_what_is_large_is_not_kept_back_nor_put_before_what_came_first() -> None:
    async def answer() -> None:
        sent = Sent()
        gathered = GatheredTransport(sent, asyncio.get_running_loop())
        gathered.write(b"head")
        gathered.write(bytes(MAX_GATHERED_BYTES))
        assert list(map(len, sent.pieces)) == [4, MAX_GATHERED_BYTES]
        gathered.write(b"more")
        gathered.abort()
        await asyncio.sleep(0)
        assert len(sent.pieces) == 2

    asyncio.run(answer())


def test_what_was_written_may_be_used_again() -> None:
    async def answer() -> list[bytes]:
        sent, buffer = Sent(), bytearray(b"first")
        GatheredTransport(sent, asyncio.get_running_loop()).write(buffer)
        buffer[:] = b"other"
        await asyncio.sleep(0)
        return sent.pieces

    assert asyncio.run(answer()) == [b"first"]
