"""Somebody else has the index open: another process that writes to it, or one that reads for long."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.faulty_world import World
from torpor.db import engine
from torpor.state.errors import StoreFailed


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A running home whose patience is short."""
    monkeypatch.setattr(engine, "BUSY_TIMEOUT_S", 0.2)
    world = World(home)
    with world.opened():
        world.save()
        world.save()
        world.pin()
        yield world


@pytest.fixture
def other(world: World) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(world.home.index, isolation_level=None, check_same_thread=False)) as connection:
        yield connection


@pytest.mark.parametrize("operation", ["save", "save_group", "remove", "pin", "stay"])
def test_a_locked_index_is_a_typed_error_and_changes_nothing(
    world: World, other: sqlite3.Connection, operation: str
) -> None:
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFailed, match="locked") as caught:
        getattr(world, operation)()
    assert caught.value.retryable
    world.verify()
    world.restore()
    other.execute("ROLLBACK")
    getattr(world, operation)()
    world.verify()


def test_a_lock_that_goes_in_time_is_waited_for(world: World, other: sqlite3.Connection) -> None:
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.05, lambda: other.execute("ROLLBACK"))
    timer.start()
    world.save()
    timer.join()
    world.verify()


def test_who_only_reads_stops_nobody(world: World, other: sqlite3.Connection) -> None:
    other.execute("BEGIN")
    before = other.execute("SELECT count(*) FROM backups").fetchone()
    for operation in (world.save, world.remove, world.save_group, world.save):
        operation()
    assert other.execute("SELECT count(*) FROM backups").fetchone() == before
    other.execute("COMMIT")
    world.verify()


def test_a_locked_index_at_the_start_is_a_typed_error(world: World, other: sqlite3.Connection) -> None:
    world.close()
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreFailed, match="locked"):
        world.open()
    other.execute("ROLLBACK")
    other.close()
    world.open()
    world.verify()
