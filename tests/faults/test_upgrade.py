"""Another version's store: an older one migrates, whatever happens meanwhile; a newer one is refused, untouched."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.faulty_world import World
from support.old_indexes import REVISIONS, age, dump
from torpor.db.schema import REVISION
from torpor.state.errors import NewerIndex


def files(home: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in home.rglob("*")
        if path.is_file() and not path.name.endswith(("-shm", "-wal"))
    }


@pytest.fixture
def world(home: Path) -> World:
    """A closed home with backups, a pin and a title in it."""
    world = World(home)
    with world.opened():
        for session in "aab":
            world.save(session)
        world.save_group()
        world.pin()
    return world


@pytest.mark.parametrize("revision", REVISIONS)
def test_an_older_store_migrates_and_lists_the_same(world: World, revision: str) -> None:
    index = world.home.index
    with world.opened():
        before = world.listed()
    age(index, revision)
    old = dump(index)
    with world.opened() as catalog:
        assert catalog.index.migrated
        world.verify()
        if revision >= "0003":  # before, groups were not in the index
            assert world.listed() == before
        world.save()
        world.verify()
    copy = index.with_name(f"{index.name}.before-{REVISION}")
    assert dump(copy) == old, "the copy is not the older index"
    assert not list(index.parent.glob("*.tmp"))


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_newer_store_is_refused_and_untouched(world: World, mode: str) -> None:
    with closing(sqlite3.connect(world.home.index)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        connection.execute("ALTER TABLE backups ADD COLUMN colour TEXT")
        connection.commit()
        connection.execute(f"PRAGMA journal_mode = {mode}")
    before = files(world.home.root)
    with pytest.raises(NewerIndex, match="9999"):
        world.open()
    world.close()
    assert files(world.home.root) == before


def test_an_older_version_that_was_back_meanwhile_is_migrated_again(world: World) -> None:
    """Up, down by the copy, and up again: what was saved in between is imported from its manifests."""
    age(world.home.index, "0004")
    with world.opened():
        world.save()
    copy = world.home.index.with_name(f"{world.home.index.name}.before-{REVISION}")
    copy.replace(world.home.index)
    with world.opened() as catalog:
        assert catalog.index.migrated
        world.verify()
