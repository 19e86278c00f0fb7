"""No question that is asked of the index while somebody waits walks over all blobs or links, however many there are."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.manifests import manifest
from support.traced import traced
from torpor.db import block_keys, marks, search
from torpor.db.drawing import details, draw_session
from torpor.db.index import Index
from torpor.db.presence import blob_sizes, note_present
from torpor.db.records import record_of
from torpor.db.sessions import list_sessions
from torpor.state.manifest import manifest_blobs

BLOBS = manifest_blobs(manifest())
# An index of the few that are damaged may be walked over.
WALKS = re.compile(r"SCAN (blobs|backup_blobs|block_keys|every|theirs|mine|child)\b(?!.*INDEX ix_blobs_damaged)")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path / "index.sqlite")
    commit(opened, 0)
    commit(opened, 1)
    with opened.writing() as connection:  # nothing is free of charge because nothing is absent
        note_present(connection, [next(iter(BLOBS))], present=False)
    yield opened
    opened.close()


def commit(index: Index, number: int) -> None:
    made = manifest(id=f"01M81P35719XNDZ4R57NMV{number:04d}")
    record = record_of(made, manifest_digest="d" * 64, manifest_bytes=1, pinned=False, expires_at=None)
    index.commit_backup(record, BLOBS, now=5.0, enqueue=True)


ID = "01M81P35719XNDZ4R57NMV0001"


def read(ask: Callable[..., Any], *arguments: Any) -> Callable[[Index], None]:
    def run(index: Index) -> None:
        with index.reading() as connection:
            ask(connection, *arguments)

    return run


ASKED: dict[str, Callable[[Index], Any]] = {
    "newest": lambda index: index.list_backups(limit=50),
    "before": lambda index: index.list_backups(limit=50, before=ID),
    "session": lambda index: index.list_backups(session_id="s"),
    "timeline": lambda index: index.timeline("s", limit=50),
    "one": lambda index: index.backup(ID),
    "newest of a session": lambda index: index.newest("s"),
    "short id": lambda index: index.ending_with("0001", 6),
    "totals": lambda index: index.totals(),
    "sharing": lambda index: index.sharing(ID),
    "commit": lambda index: commit(index, 2),
    "remove": lambda index: index.remove_backup(ID),
    "forget": lambda index: index.forget_backups([ID]),
    "a shard": read(marks.of_shard, 0xAA),
    "the last shard": read(marks.of_shard, 255),
    "needed": read(blob_sizes, list(BLOBS)),
    "prefix": read(block_keys.deepest, ["a" * 64]),
    "holders": read(block_keys.holders, "a" * 64, 4),
    "sessions": read(list_sessions, 50),
    "sessions before": read(list_sessions, 50, "s"),
    "drawing": read(draw_session, "s"),
    "details": read(details, "s", [ID]),
    "search": read(search.search, "a word", 20, 3),
    "what to search": read(search.target_of, "s"),
}


@pytest.mark.parametrize("name", ASKED)
def test_no_question_walks_over_blobs_or_links(name: str, index: Index) -> None:
    plans = explained(index, ASKED[name])
    assert plans
    assert [line for line in plans if WALKS.search(line)] == []


@pytest.mark.parametrize("name", ["newest", "before", "session", "sessions", "sessions before", "what to search"])
def test_a_listing_follows_an_index(name: str, index: Index) -> None:
    assert [line for line in explained(index, ASKED[name]) if "ORDER BY" in line] == []


def explained(index: Index, ask: Callable[[Index], Any]) -> list[str]:
    """Return the plan of every statement that a question runs."""
    with traced(index) as seen:
        ask(index)
    asked = [each for each in seen if not each.startswith(("BEGIN", "COMMIT", "ROLLBACK", "PRAGMA"))]
    with index.reading() as connection:
        driver: Any = connection.connection.driver_connection
        return [str(row[3]) for each in asked for row in driver.execute(f"EXPLAIN QUERY PLAN {each}")]
