"""The index: migrations, one transaction a change, and what its errors become."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.manifests import manifest
from torpor.db.index import EVENTS_KEPT, Index
from torpor.db.presence import blob_sizes
from torpor.db.records import NewBackup, record_of
from torpor.db.schema import REVISION
from torpor.db.watched import WatchedFiles
from torpor.state.backup import Backup
from torpor.state.errors import BackupNotFound, Conflict, NewerIndex, SessionNotFound, StoreFull
from torpor.state.manifest import manifest_blobs


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path / "index.sqlite")
    yield opened
    opened.close()


def record(number: int = 0, session: str = "s", at: float = 1.0) -> Backup:
    made = manifest(id=f"01M81P35719XNDZ4R57NMV{number:04d}", session_id=session, created_at=at)
    return record_of(made, manifest_digest="d" * 64, manifest_bytes=100, pinned=False, expires_at=at + 10)


BLOBS = manifest_blobs(manifest())


def needed(index: Index) -> set[str]:
    with index.reading() as connection:
        return set(blob_sizes(connection, BLOBS))


def test_the_migrations_make_the_schema(tmp_path: Path) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from torpor.db.engine import writer_engine
    from torpor.db.migrate import MIGRATIONS
    from torpor.db.schema import metadata

    Index(tmp_path / "i").close()
    engine = writer_engine(tmp_path / "i")
    with engine.connect() as connection:
        ours = {"include_name": lambda name, kind, _: kind != "table" or not name.startswith("words")}  # FTS5's own
        assert compare_metadata(MigrationContext.configure(connection, opts=ours), metadata) == []
    engine.dispose()
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_heads() == [REVISION]


def test_an_up_to_date_index_is_not_migrated(tmp_path: Path) -> None:
    first = Index(tmp_path / "i")
    first.close()
    second = Index(tmp_path / "i")
    second.close()
    assert (first.migrated, second.migrated) == (True, False)


def test_an_older_index_is_copied_and_migrated_with_what_it_holds(tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config
    from torpor.db.engine import writer_engine
    from torpor.db.migrate import MIGRATIONS

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    engine = writer_engine(tmp_path / "i")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.exec_driver_sql("INSERT INTO sessions VALUES ('s', 'a title', 1.0, 2.0)")
        connection.exec_driver_sql("INSERT INTO events VALUES (1, 1.0, 'info', 'k', NULL, NULL, 'an event')")
    engine.dispose()
    index = Index(tmp_path / "i")
    assert index.migrated
    assert index.totals().sessions == 1
    assert [e["detail"] for e in index.recent_events()] == ["an event"]
    assert WatchedFiles(index).of("/f") == {}
    index.commit_backup(record(), BLOBS, now=5.0, enqueue=False)
    index.close()
    with sqlite3.connect(tmp_path / f"i.before-{REVISION}") as copy:
        assert copy.execute("SELECT version_num FROM alembic_version").fetchall() == [("0001",)]
        assert copy.execute("SELECT title FROM sessions").fetchall() == [("a title",)]
    copy.close()


def test_an_index_of_an_unknown_version_is_refused_uncopied(tmp_path: Path) -> None:
    Index(tmp_path / "i").close()
    with sqlite3.connect(tmp_path / "i") as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'future'")
    connection.close()
    with pytest.raises(NewerIndex, match="future"):
        Index(tmp_path / "i")
    assert [p.name for p in tmp_path.iterdir() if "before" in p.name] == []


def test_a_commit_is_there_once(index: Index) -> None:
    assert index.commit_backup(record(), BLOBS, now=5.0, enqueue=False)
    assert not index.commit_backup(record(), BLOBS, now=6.0, enqueue=False)
    assert index.backup(record().id) == record()
    totals = index.totals()
    assert (totals.backups, totals.sessions, totals.blobs) == (1, 1, 3)
    assert totals.blob_bytes == sum(size for size, _ in BLOBS.values())
    with pytest.raises(Conflict):
        index.commit_backup(replace(record(), manifest_digest="e" * 64), BLOBS, now=5.0, enqueue=False)


def test_the_outbox_is_filled_in_the_same_transaction(tmp_path: Path) -> None:
    points: list[str] = []

    def fail(name: str) -> None:
        points.append(name)
        if name == "index.inserted":
            raise Conflict("stopped by the test")

    index = Index(tmp_path / "i", fail)
    with pytest.raises(Conflict):
        index.commit_backup(record(), BLOBS, now=5.0, enqueue=True)
    assert index.totals().backups == index.totals().outbox_waiting == index.totals().blobs == 0
    index.close()
    assert points == ["index.begun", "index.inserted"]


def test_text_goes_before_vision_before_kv(index: Index, tmp_path: Path) -> None:
    blobs = BLOBS | {"9" * 64: (1 << 20, "media"), "8" * 64: (1 << 20, "vision_cache")}
    index.commit_backup(record(), blobs, now=5.0, enqueue=True)
    with sqlite3.connect(tmp_path / "index.sqlite") as connection:
        rows = connection.execute("SELECT stage, size_bytes FROM outbox ORDER BY priority, id").fetchall()
    connection.close()
    assert [stage for stage, _ in rows] == ["text", "media", "vision", "kv"]
    assert sum(size for _, size in rows) == sum(size for size, _ in blobs.values())
    assert index.totals().outbox_waiting == 4


def test_removal_keeps_what_others_share(index: Index) -> None:
    shared = dict(list(BLOBS.items())[:2])
    index.commit_backup(record(1), BLOBS, now=5.0, enqueue=True)
    index.commit_backup(record(2), shared, now=5.0, enqueue=False)
    index.remove_backup(record(1).id)
    assert needed(index) == set(shared)
    assert index.totals().outbox_waiting == 0
    index.remove_backup(record(2).id)
    assert index.totals().sessions == 0
    with pytest.raises(BackupNotFound):
        index.remove_backup(record(2).id)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5)), max_size=12))
def test_listing_is_newest_first_and_pages_without_gaps(rows: list[tuple[str, int]]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        index = Index(Path(folder) / "i")
        made = [record(i, session, float(at)) for i, (session, at) in enumerate(rows)]
        for each in made:
            index.commit_backup(each, {}, now=0.0, enqueue=False)
        expected = [r.id for r in sorted(made, key=lambda r: (r.created_at, r.id), reverse=True)]
        paged: list[str] = []
        while page := index.list_backups(limit=2, before=paged[-1] if paged else None):
            paged += [r.id for r in page]
        assert paged == expected
        for session in "abc":
            own = [r.id for r in index.list_backups(session_id=session, limit=100)]
            assert own == [i for i in expected if i in {r.id for r in made if r.session_id == session}]
            if own:
                assert index.newest(session).id == own[0]
            else:
                with pytest.raises(SessionNotFound):
                    index.newest(session)
        index.close()


@given(st.lists(st.sets(st.integers(0, 9), max_size=10), min_size=1, max_size=9), st.integers(1, 3))
def test_sharing_is_counted_by_blobs_and_bytes(named: list[set[int]], limit: int) -> None:
    import tempfile

    size = {i: (1 << i, "kv_cache") for i in range(10)}
    with tempfile.TemporaryDirectory() as folder:
        index = Index(Path(folder) / "i")
        made = [record(i, "ab"[i % 2], float(i)) for i in range(len(named))]
        for each, blobs in zip(made, named, strict=True):
            index.commit_backup(each, {f"{i:064x}": size[i] for i in blobs}, now=0.0, enqueue=False)
        users, found = index.sharing(made[0].id, limit)
        index.close()
    assert users == {f"{i:064x}": sum(i in blobs for blobs in named[1:]) for i in named[0]}
    common = [(named[0] & blobs, other) for other, blobs in zip(made[1:], named[1:], strict=True)]
    expected = sorted(
        ((sum(1 << i for i in same), other.id, len(same), other.session_id) for same, other in common if same),
        reverse=True,
    )
    assert [(s.bytes, s.id, s.blobs, s.session_id) for s in found.backups] == expected[:limit]
    assert found.others == len(expected)
    assert found.shared_bytes == sum(1 << i for i in named[0] if users[f"{i:064x}"])
    assert found.shared_bytes + found.own_bytes == sum(1 << i for i in named[0])


def test_readers_cannot_write(index: Index) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection = index._reader.raw_connection()
        try:
            connection.cursor().execute("DELETE FROM backups")
        finally:
            connection.close()


def test_durability_settings(index: Index) -> None:
    cursor = index._writer.raw_connection().cursor()
    values = [
        cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous", "foreign_keys")
    ]
    assert values == ["wal", 2, 1]


def test_old_events_go(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EVENTS_KEPT >= 1000
    monkeypatch.setattr("torpor.db.index.EVENTS_KEPT", 5)
    for i in range(9):
        index.add_event(at=float(i), level="info", kind="k", detail=str(i))
    assert [e["detail"] for e in index.recent_events()] == ["8", "7", "6", "5", "4"]
    assert {type(name) for e in index.recent_events() for name in e} == {str}  # orjson refuses its subclasses


def related(index: Index, number: int, session: str, parent: int | None, **changes: object) -> str:
    made = record(number, session, at=float(number))
    linked = replace(made, parent_id=None if parent is None else record(parent).id, **changes)  # type: ignore[arg-type]
    index.commit_backup(linked, BLOBS, now=1.0, enqueue=False)
    return linked.id


def test_a_timeline_names_parents_and_forks(index: Index) -> None:
    for number, session, parent in (
        (1, "t", None), (2, "s", 1), (3, "s", 2), (4, "s", 2), (5, "s", 99), (6, "u", 3), (7, "u", 6), (8, "v", 3),
    ):  # fmt: skip
        related(index, number, session, parent)
    found = index.timeline("s", limit=10)
    assert [b.created_at for b in found.backups] == [5.0, 4.0, 3.0, 2.0]
    assert (found.total, [b.id for b in found.parents]) == (4, [record(1).id])
    assert [(f.session_id, f.parent_id) for f in found.forks] == [("v", record(3).id), ("u", record(3).id)]
    page = index.timeline("s", limit=2)
    assert (page.total, [b.created_at for b in page.backups]) == (4, [5.0, 4.0])
    assert [(b.id, b.session_id) for b in page.parents] == [(record(2).id, "s")]
    rest = index.timeline("s", limit=10, before=page.backups[-1].id)
    assert [b.created_at for b in rest.backups] == [3.0, 2.0]
    with pytest.raises(SessionNotFound):
        index.timeline("none", limit=1)


def test_ids_by_their_end(index: Index) -> None:
    for number in (1, 2, 12):
        related(index, number, "s", None)
    assert index.ending_with("MV0012", 5) == [record(12).id]
    assert index.ending_with("57NMV0002", 5) == [record(2).id]
    assert index.ending_with("2", 5) == [record(12).id, record(2).id]
    assert index.ending_with("2", 1) == [record(12).id]
    assert index.ending_with("%", 5) == index.ending_with("_0002", 5) == []


def test_a_title_stays_until_it_is_changed(index: Index) -> None:
    related(index, 1, "s", None, title="first")
    related(index, 2, "s", None)
    assert index.newest("s").title == "first"
    index.set_title("s", "second")
    assert index.timeline("s", limit=1).title == index.newest("s").title == "second"
    related(index, 3, "s", None, title="third")  # as its sidecar says after a crash before the index knew
    assert index.newest("s").title == "third"
    index.set_title("s", None)
    assert index.newest("s").title is None
    with pytest.raises(SessionNotFound):
        index.set_title("none", "x")


def test_a_commit_that_fails_in_the_middle_leaves_nothing_and_the_next_one_works(index: Index) -> None:
    first = record(1, "s")
    index.commit_backup(first, BLOBS, now=1.0, enqueue=False)
    other = replace(first, manifest_digest="f" * 64)
    with pytest.raises(Conflict):
        index.commit_backups([NewBackup(record(2, "s"), BLOBS), NewBackup(other, BLOBS)], now=1.0, enqueue=True)
    assert not index._driver.in_transaction
    assert (index.all_ids(), index.generation) == ({first.id}, 1)
    assert index.commit_backup(record(3, "s"), BLOBS, now=1.0, enqueue=True)
    index.add_event(at=0.0, level="info", kind="k", detail="SQLAlchemy's way is free, too")


def test_a_full_disk_is_told_by_its_name(index: Index) -> None:
    pages = index._driver.execute("PRAGMA page_count").fetchone()[0]
    index._driver.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreFull, match="the index cannot grow"):
        for number in range(1, 100):
            index.commit_backup(record(number, "s"), BLOBS, now=1.0, enqueue=True)
    there = index.all_ids()
    index._driver.execute(f"PRAGMA max_page_count = {pages + 1000}")
    assert index.commit_backup(record(101, "s"), BLOBS, now=1.0, enqueue=True)
    assert index.all_ids() - there == {record(101).id}
