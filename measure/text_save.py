"""A save of each message of a conversation, text alone, against the least that such a save has to do on this disk.

The floor is one durable file of as many bytes as the save wrote (created, written, synced, renamed, its folder synced)
and one durable insert into a SQLite database of its own. Both sides take turns within a message, so that each pair of
times has seen the same disk. There is a pause before each: messages come seconds apart, and what the daemon does behind
a commit (it reads the text for the search) is over by then, for us and for the floor.
"""

from __future__ import annotations

import os
import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ..adapters.plain import PlainSession
from ..client import Keeper
from .figures import Figure
from .rig import keeper_in, scratch, timed_s
from .rounds import console
from .settings import Settings

MESSAGES = 50
CONVERSATIONS, FEW_CONVERSATIONS = 5, 2
WARM_UP = 5  # saves before those that count: connected, the thread runs, the daemon has taken the way once
PAUSE_S = 0.03
AT_MOST = 3.0
FLOOR = "one durable file + one durable SQLite insert"
WORDS = 100  # of a message
LETTERS = "eeeeettttaaaooiinnsshhrrddlcumwfgypbvk"  # about as often as in English, so that text compresses as text does


@dataclass(slots=True)
class Floor:
    """Durable files in a folder, and durable rows in a database."""

    folder: Path
    database: sqlite3.Connection

    def file(self, name: str, data: bytes) -> None:
        """Write a new file so that it is there after a power loss."""
        temporary = self.folder / f".{name}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, self.folder / name)
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def row(self, name: str) -> None:
        """Insert a row so that it is there after a power loss."""
        self.database.execute("INSERT INTO saves VALUES (?, ?, ?)", (name, time.time(), "a session"))
        self.database.commit()


@contextmanager
def floor_in(folder: Path) -> Iterator[Floor]:
    """Make a folder and a database for a floor. WAL with full synchronisation: each commit is one sync of the log."""
    folder.mkdir()
    with closing(sqlite3.connect(folder / "index.db")) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        database.execute("CREATE TABLE saves (id TEXT PRIMARY KEY, at REAL, session TEXT)")
        database.commit()
        yield Floor(folder, database)


@dataclass(slots=True)
class Samples:
    """One number a message."""

    save_s: list[float] = field(default_factory=list)
    file_s: list[float] = field(default_factory=list)
    row_s: list[float] = field(default_factory=list)
    stall_s: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)


def measure(settings: Settings) -> list[Figure]:
    """Save some conversations message by message."""
    samples, conversations = Samples(), settings.rounds(CONVERSATIONS, FEW_CONVERSATIONS)
    with scratch(settings.folder) as folder, keeper_in(folder) as keeper, floor_in(folder / "floor") as floor:
        converse(keeper, floor, "warm-up", WARM_UP, Samples())
        for number in range(conversations):
            with console.status(f"text-only saves: conversation {number + 1} of {conversations}"):
                converse(keeper, floor, f"conversation-{number}", MESSAGES, samples)
    return figures(samples)


def converse(keeper: Keeper, floor: Floor, session_id: str, messages: int, samples: Samples) -> None:
    """Save a conversation after each of its messages, and do the least beside it; who comes first alternates."""
    turns: list[str] = []
    size_bytes = WORDS
    for number in range(messages):
        turns.append(_message())
        state = {"metadata": {"session": session_id}, "text_context": {"conversation": list(turns)}}
        if number % 2:
            size_bytes = _save(keeper, session_id, PlainSession(state), samples)
        _least(floor, f"{session_id}-{number}", size_bytes, samples)
        if not number % 2:
            size_bytes = _save(keeper, session_id, PlainSession(state), samples)


def _message() -> str:
    return " ".join("".join(random.choices(LETTERS, k=random.randint(2, 9))) for _ in range(WORDS))


def _least(floor: Floor, name: str, size_bytes: int, samples: Samples) -> None:
    data = os.urandom(size_bytes)
    time.sleep(PAUSE_S)
    samples.file_s.append(timed_s(lambda: floor.file(name, data)))
    samples.row_s.append(timed_s(lambda: floor.row(name)))


def _save(keeper: Keeper, session_id: str, session: PlainSession, samples: Samples) -> int:
    """Save once; return how many bytes of files that wrote."""
    time.sleep(PAUSE_S)
    started = time.perf_counter()
    handle = keeper.save(session_id, session)
    backup = handle.wait()
    samples.save_s.append(time.perf_counter() - started)
    samples.stall_s.append(handle.stall_s)
    samples.written.append(backup.bytes_written)
    return backup.bytes_written


def figures(samples: Samples) -> list[Figure]:
    """Return the figures of some samples."""
    both = [file_s + row_s for file_s, row_s in zip(samples.file_s, samples.row_s, strict=True)]
    what, group = f"text-only save, each of {MESSAGES} messages", "text_save"
    return [
        Figure(group, what, "s", samples.save_s, FLOOR, both, AT_MOST),
        Figure(group, what, "s", samples.save_s, "the durable file alone", samples.file_s),
        Figure(group, what, "s", samples.save_s, "the durable insert alone", samples.row_s),
        Figure(group, "text-only save: caller held", "s", samples.stall_s),
        Figure(group, "text-only save: bytes of blobs and manifest", "B", samples.written),
    ]
