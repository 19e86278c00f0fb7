"""Files that wait for a word: for how long, how many, and what is left of those that are let go of."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from support.bucket_daemon import BucketDaemon
from support.waiting import until
from torpor.daemon.importer import Importer
from torpor.daemon.imports import KEPT, MOST_READY, READY_S, Import, Imports
from torpor.state.errors import Conflict, NotFound
from torpor.state.watching import Answer, Signature


class Worker:
    """Finds every file sound; while `going` is clear, it is still reading."""

    def __init__(self) -> None:
        self.going = threading.Event()
        self.going.set()

    def ask(self, path: str, expected: Signature, *, preview: bool, **more: Any) -> Answer:
        self.going.wait(60)
        if preview:
            return Answer("previewed", expected, preview={"path": path, "digest": ""})
        return Answer("imported", expected, "B" * 26, "s")

    def close(self) -> None: ...

    stop = close


class Waiting:
    """Files of a home that wait, at a time that the test says."""

    def __init__(self, folder: Path) -> None:
        self.daemon, self.worker, self.now, self.names = BucketDaemon(folder), Worker(), 1e9, itertools.count()
        self.daemon.catalog._clock = lambda: self.now
        ids = (f"{number:026d}" for number in itertools.count())
        worker = cast(Importer, self.worker)
        self.imports = Imports(worker, self.daemon.catalog, self.daemon.room, lambda: next(ids))

    def add(self, *, hold: bool = True) -> Import:
        path = self.daemon.catalog.staging.new_path()
        path.write_bytes(b"x" * 1000)
        return self.imports.add(path, f"{next(self.names)}.qwnbak", None, 1000, hold=hold)

    def settled(self, *files: Import) -> list[str]:
        def look() -> list[str] | None:
            states = [self.imports.find(each.id).state for each in files]
            return None if {"waiting", "running"} & set(states) else cast("list[str]", states)

        found = until(look, "the files")
        assert isinstance(found, list)
        return found

    def staged(self) -> int:
        return len(list((self.daemon.home.store / "staging").rglob("*.tmp")))


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Waiting]:
    made = Waiting(tmp_path / "home")
    yield made
    made.imports.stop()
    made.daemon.close()


def test_a_file_that_nobody_decides_on_is_let_go_of_after_an_hour(waiting: Waiting) -> None:
    early = waiting.add()
    waiting.now += READY_S / 2
    late = waiting.add()
    assert waiting.settled(early, late) == ["ready", "ready"]
    waiting.now += READY_S / 2 + 1
    waiting.imports.let_go()
    assert waiting.settled(early, late) == ["discarded", "ready"]
    assert waiting.staged() == 1
    with pytest.raises(Conflict):
        waiting.imports.accept(early.id)


def test_a_word_in_the_last_moment_counts(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    late, newest = waiting.add(), waiting.imports.newest
    waiting.settled(late)

    def and_meanwhile(limit: int) -> list[Import]:
        found = newest(limit)
        waiting.imports.accept(late.id)
        return found

    monkeypatch.setattr(waiting.imports, "newest", and_meanwhile)
    waiting.now += READY_S + 1
    waiting.imports.let_go()
    assert waiting.settled(late) == ["done"]


def test_the_newest_of_many_wait_and_what_ended_is_forgotten_in_the_end(waiting: Waiting) -> None:
    files = []
    for _ in range(MOST_READY + 3):
        files.append(waiting.add())
        waiting.settled(files[-1])
    assert waiting.settled(*files) == ["discarded"] * 3 + ["ready"] * MOST_READY
    assert waiting.staged() == MOST_READY
    done = [waiting.add(hold=False) for _ in range(40)]
    waiting.settled(*done)
    for _ in range(KEPT // 40):
        more = [waiting.add(hold=False) for _ in range(40)]
        waiting.settled(*more)
    assert len(waiting.imports.newest(10_000)) == KEPT
    with pytest.raises(NotFound):
        waiting.imports.find(files[0].id)
    assert waiting.settled(*files[3:]) == ["ready"] * MOST_READY  # none that waits is forgotten for them


def test_a_file_is_left_while_it_is_read(waiting: Waiting) -> None:
    waiting.worker.going.clear()
    running, behind = waiting.add(), waiting.add()
    until(lambda: waiting.imports.find(running.id).state == "running", "the worker")
    with pytest.raises(Conflict):
        waiting.imports.accept(running.id)
    assert [waiting.imports.discard(each.id).state for each in (running, behind)] == ["discarded"] * 2
    waiting.worker.going.set()
    until(lambda: waiting.staged() == 0, "the end of both files")
    assert waiting.settled(running, behind) == ["discarded"] * 2


def test_a_file_that_lies_elsewhere_is_never_removed(waiting: Waiting, tmp_path: Path) -> None:
    path = tmp_path / "mine.qwnbak"
    path.write_bytes(b"mine")
    status = os.stat(path)
    seen = Signature.of(status.st_size, status.st_mtime_ns, status.st_ino)
    named = [waiting.imports.add_named(path, seen, None, hold=True) for _ in range(2)]
    assert waiting.settled(*named) == ["ready", "ready"]
    waiting.imports.discard(named[0].id)
    waiting.imports.accept(named[1].id)
    assert waiting.settled(*named) == ["discarded", "done"]
    assert path.read_bytes() == b"mine"
