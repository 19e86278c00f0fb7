"""The index is deleted, cut, overwritten, its log too: behind the next start everything is listed as before."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.commands import as_json, run
from support.manifests import manifest
from torpor.daemon.catalog import Catalog
from torpor.daemon.checkup import Patient
from torpor.daemon.compose import compose
from torpor.daemon.doctor_index import check_sidecars
from torpor.daemon.index_care import ASIDE, Rebuilt, set_aside, set_aside_if_damaged, settle_index
from torpor.daemon.index_rebuild import rebuild_index
from torpor.daemon.instance import InstanceLock
from torpor.daemon.reconcile import reconcile
from torpor.daemon.settings import load_settings
from torpor.db.derive import derive
from torpor.db.engine import connect, journal_of
from torpor.db.soundness import check_index
from torpor.state.errors import DaemonAlreadyRunning, NewerIndex, StoreFailed
from torpor.state.manifest import Manifest
from torpor.store.home import Home
from torpor.store.sidecars import Sidecar, SidecarStore
from ulid import ULID

NOW = float(int(time.time()))
SESSIONS, EACH = 5, 12
Hurt = Callable[[Home], None]


def opened(home: Home, stack: ExitStack) -> tuple[Catalog, Rebuilt | None]:
    """What a start does, up to where the daemon listens."""
    aside = set_aside_if_damaged(home, NOW)
    catalog = compose(home, load_settings(), stack)
    return catalog, settle_index(catalog, aside, reconcile(catalog))


def made(session: int, count: int) -> Manifest:
    created_at = NOW - 40.0 * (session * EACH + count + 1)
    words = {"metadata": {"model_name": f"model {session}"}, "text_context": {"n": count}}
    backup_id = str(ULID.from_timestamp(created_at))
    return manifest(id=backup_id, session_id=f"s{session}", created_at=created_at, layers=words, kv_cache=None)


def fill(catalog: Catalog) -> None:
    """Sessions with everything that a user may say of one; something waits for the bucket, something leaves it."""
    catalog.queue_with(lambda: None)
    saved = [[made(session, count) for count in range(EACH)] for session in range(SESSIONS)]
    catalog.sidecars.write(Sidecar("s3", ttl_s=3600.0, keep_newest=4, expires_at={saved[3][1].id: NOW + 5}))
    catalog.sidecars.write(Sidecar("s4", dropped_at={saved[4][2].id: NOW - 3}))
    catalog.commit_all([one for session in saved for one in session])
    catalog.set_title("s0", "a title, 標題")
    catalog.set_pinned(saved[0][3].id, True)
    catalog.set_pinned(saved[1][0].id, True)
    catalog.set_pinned(saved[1][0].id, False)
    catalog.set_no_sync("s2", True)
    settle_index(catalog, None, reconcile(catalog))
    catalog.remove(saved[4][0].id, purge=True)


def listing(catalog: Catalog) -> dict[str, Any]:
    """Everything that is shown of what is kept."""
    with catalog.index.reading() as connection:
        sessions = connection.exec_driver_sql("SELECT * FROM sessions ORDER BY id").all()
        columns = "kind, backup_id, session_id, stage, size_bytes, state"
        queue = connection.exec_driver_sql(f"SELECT {columns} FROM outbox ORDER BY 1, 2, 4").all()
    shown = [asdict(each) for each in catalog.index.list_backups(limit=1000)]
    return {"backups": shown, "sessions": [tuple(row) for row in sessions], "queue": [tuple(row) for row in queue]}


@pytest.fixture(scope="module")
def stopped() -> Iterator[tuple[Home, dict[str, Any]]]:
    """A home whose daemon was stopped, and one whose daemon was killed: with a log that nobody has read back."""
    with tempfile.TemporaryDirectory(prefix="torpor-") as folder:
        home = Home(Path(folder) / "home")
        home.create()
        with ExitStack() as stack:
            catalog, rebuilt = opened(home, stack)
            assert rebuilt is None
            fill(catalog)
            shutil.copytree(home.root, Path(folder) / "killed")
            before = listing(catalog)
        yield home, before


def copy_of(home: Home, to: Path, *, killed: bool) -> Home:
    ignored = shutil.ignore_patterns("blobs", "daemon.lock")  # there are none, in 256 folders
    shutil.copytree(home.root.with_name("killed") if killed else home.root, to, ignore=ignored)
    return Home(to)


def overwrite(path: Path, seed: int, share: float) -> None:
    """Put noise into pages of a file."""
    noise, raw = random.Random(seed), bytearray(path.read_bytes())
    for at in range(0, len(raw), 4096):
        if noise.random() < share:
            raw[at : at + 4096] = noise.randbytes(len(raw[at : at + 4096]))
    path.write_bytes(raw)


def wal(home: Home) -> Path:
    return home.index.with_name("index.sqlite-wal")


def delete_all(home: Home) -> None:
    for path in home.root.glob("index.sqlite*"):
        path.unlink()


def cut(share: float) -> Hurt:
    return lambda home: os.truncate(home.index, int(home.index.stat().st_size * share))


def cut_log(share: float) -> Hurt:
    return lambda home: os.truncate(wal(home), int(wal(home).stat().st_size * share))


def other_database(home: Home) -> None:
    delete_all(home)
    with closing(sqlite3.connect(home.index)) as connection:
        connection.execute("CREATE TABLE something (else_ TEXT)")


def drop_table(home: Home) -> None:
    with closing(sqlite3.connect(home.index)) as connection:
        connection.execute("DROP TABLE backup_blobs")


def both(home: Home) -> None:
    overwrite(wal(home), 4, 0.5)
    overwrite(home.index, 5, 1.0)


HURTS: dict[str, tuple[bool, Hurt]] = {
    "deleted": (False, delete_all),
    "deleted, its log left": (True, lambda home: home.index.unlink()),
    "emptied": (False, cut(0)),
    "emptied, its log left": (True, cut(0)),
    "cut to a part of a page": (False, lambda home: os.truncate(home.index, 100)),
    "cut to one page": (False, cut(0.02)),
    "cut in half": (False, cut(0.5)),
    "cut at its end": (False, cut(0.95)),
    "garbage": (False, lambda home: home.index.write_bytes(b"not a database" * 4000) and None),
    "another database": (False, other_database),
    "a table is gone": (False, drop_table),
    "garbage in some pages": (False, lambda home: overwrite(home.index, 1, 0.2)),
    "garbage in many pages": (False, lambda home: overwrite(home.index, 2, 0.8)),
    "its log is deleted": (True, lambda home: wal(home).unlink()),
    "its log is garbage": (True, lambda home: wal(home).write_bytes(os.urandom(200_000)) and None),
    "its log is cut": (True, cut_log(0.6)),
    "garbage in its log": (True, lambda home: overwrite(wal(home), 3, 0.5)),
    "both are garbage": (True, both),
    "nothing but a kill": (True, lambda home: None),
}


@pytest.mark.parametrize("hurt", HURTS)
def test_the_listing_is_the_same_behind_the_next_start(
    stopped: tuple[Home, dict[str, Any]], tmp_path: Path, hurt: str
) -> None:
    home, before = stopped
    killed, act = HURTS[hurt]
    mine = copy_of(home, tmp_path / "home", killed=killed)
    act(mine)
    with ExitStack() as stack:
        catalog, rebuilt = opened(mine, stack)
        derive(catalog.index, "m", NOW)
        after = listing(catalog)
        kinds = {event["kind"] for event in catalog.index.recent_events()}
    assert after["backups"] == before["backups"]
    assert [row[0] for row in after["sessions"]] == [row[0] for row in before["sessions"]]
    assert [(row[1], *row[4:]) for row in after["sessions"]] == [(row[1], *row[4:]) for row in before["sessions"]]
    assert [row for row in after["queue"] if row[0] == "push"] == [row for row in before["queue"] if row[0] == "push"]
    assert ("index-rebuilt" in kinds) == (rebuilt is not None)
    if rebuilt is not None and rebuilt.aside is not None:
        assert Path(rebuilt.aside).exists() or Path(rebuilt.aside + "-wal").exists()
        assert rebuilt.aside in str(catalog_event(mine))


def catalog_event(home: Home) -> str:
    with closing(sqlite3.connect(home.index)) as connection:
        return str(connection.execute("SELECT detail FROM events WHERE kind = 'index-rebuilt'").fetchone()[0])


def test_damage_is_seen_and_what_is_sound_is_left(stopped: tuple[Home, dict[str, Any]], tmp_path: Path) -> None:
    """The table above must not pass because nothing was found."""
    seen = set()
    for count, (name, (killed, act)) in enumerate(HURTS.items()):
        mine = copy_of(stopped[0], tmp_path / str(count), killed=killed)
        act(mine)
        if check_index(mine.index, 60).faults:
            seen.add(name)
    unseen = {"deleted", "emptied", "nothing but a kill", "its log is deleted", "its log is garbage", "its log is cut"}
    assert set(HURTS) - seen - {"garbage in its log"} == unseen
    assert check_index(stopped[0].index, 60).finished
    times = iter((0.0, 2.0, 4.0))
    assert not check_index(stopped[0].index, 1.0, lambda: next(times, 9.0)).finished


def test_removals_that_waited_for_the_bucket_are_salvaged(stopped: tuple[Home, dict[str, Any]], tmp_path: Path) -> None:
    mine = copy_of(stopped[0], tmp_path / "home", killed=False)
    rebuilt = rebuild_index(mine, load_settings(), NOW)
    assert (rebuilt.backups, rebuilt.removals, rebuilt.unusable) == (SESSIONS * EACH - 1, 1, 0)
    with ExitStack() as stack:
        catalog, again = opened(mine, stack)
        assert again is None
        derive(catalog.index, "m", NOW)
        assert listing(catalog)["queue"] == stopped[1]["queue"]


def test_a_sidecar_that_is_damaged_is_made_again_from_the_index(
    stopped: tuple[Home, dict[str, Any]], tmp_path: Path
) -> None:
    mine = copy_of(stopped[0], tmp_path / "home", killed=False)
    (mine.store / "sessions" / "0.json").write_bytes(b"{}")
    with ExitStack() as stack:
        catalog, _ = opened(mine, stack)
        hurt = [catalog.sidecars.path(name) for name in ("s0", "s3")]
        hurt[0].write_bytes(b'{"session_id": "s0", "pin')
        hurt[1].write_bytes(orjson.dumps({"session_id": "s0"}))  # another session's
    with ExitStack() as stack:
        catalog, _ = opened(mine, stack)
        assert listing(catalog)["backups"] == stopped[1]["backups"]
        assert catalog.sidecars.read("s0").title == "a title, 標題"
        assert catalog.sidecars.read("s3").keep_newest == 4
        assert len(list((mine.store / "sessions").glob("*.damaged"))) == 3
    delete_all(mine)
    with ExitStack() as stack:
        assert listing(opened(mine, stack)[0])["backups"] == stopped[1]["backups"]


def test_nothing_leaves_or_goes_when_index_and_sidecar_are_lost_together(tmp_path: Path) -> None:
    """Nobody knows then that a session was to stay on this machine, or that it was pinned."""
    home = Home(tmp_path / "home")
    home.create()
    with ExitStack() as stack:
        catalog, _ = opened(home, stack)
        private, other = made(0, 0), made(1, 0)
        catalog.commit_all([private, other])
        catalog.set_no_sync("s0", True)
        catalog.set_pinned(private.id, True)
        catalog.sidecars.path("s0").write_bytes(b"garbage")
    delete_all(home)
    with ExitStack() as stack:
        catalog, _ = opened(home, stack)
        derive(catalog.index, "m", NOW)
        assert {row[2] for row in listing(catalog)["queue"]} == {"s1"}
        assert catalog.sidecars.read("s0").no_sync
        assert (catalog.index.backup(private.id).expires_at or 0) >= catalog.now() + catalog.ttl_s - 60
        assert "s0" in next(e["detail"] for e in catalog.index.recent_events() if e["kind"] == "sidecars-mended")


def test_a_rebuild_that_was_cut_off_is_still_one_at_the_next_start(
    stopped: tuple[Home, dict[str, Any]], tmp_path: Path
) -> None:
    """Else removals that wait for the bucket are forgotten, and a damaged sidecar is made of what nobody knows."""
    mine = copy_of(stopped[0], tmp_path / "home", killed=False)
    with ExitStack() as stack:
        SidecarStore(mine.store / "sessions").path("s2").write_bytes(b"garbage")
        set_aside(mine, "a test", NOW)
        reconcile(compose(mine, load_settings(), stack))  # and then it is killed
    with ExitStack() as stack:
        catalog, rebuilt = opened(mine, stack)
        assert rebuilt is not None
        assert (rebuilt.reason, rebuilt.removals) == ("a test", 1)
        assert catalog.index.stays_here("s2")
    with ExitStack() as stack:
        assert opened(mine, stack)[1] is None


def test_the_doctor_vouches_for_nothing_that_a_new_index_does_not_know(
    stopped: tuple[Home, dict[str, Any]], tmp_path: Path
) -> None:
    mine = copy_of(stopped[0], tmp_path / "home", killed=False)
    SidecarStore(mine.store / "sessions").path("s2").write_bytes(b"garbage")
    delete_all(mine)
    patient = Patient(mine, {}, NOW)
    for check in check_sidecars(patient):
        assert check.fix is not None
        check.fix()
    with ExitStack() as stack:
        assert opened(mine, stack)[0].index.stays_here("s2")


def test_a_sidecar_that_was_written_over_a_damaged_one_sends_nothing_away(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create()
    with ExitStack() as stack:
        catalog, _ = opened(home, stack)
        private = made(0, 0)
        catalog.commit_all([private])
        catalog.set_no_sync("s0", True)
        catalog.sidecars.path("s0").write_bytes(b"garbage")
        catalog.set_pinned(private.id, True)
    with ExitStack() as stack:
        catalog, _ = opened(home, stack)
        assert catalog.index.stays_here("s0")
        assert catalog.sidecars.read("s0").no_sync


@pytest.mark.parametrize(("code", "is_damage"), [(errno.EMFILE, False), (errno.EACCES, False), (errno.EIO, True)])
def test_a_sidecar_that_cannot_be_opened_for_now_is_not_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, is_damage: bool
) -> None:
    store = SidecarStore(tmp_path)
    store.write(Sidecar("s0", no_sync=True))

    def fail(path: Path) -> bytes:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "read_bytes", fail)
    if is_damage:
        assert store.unreadable() == [store.path("s0")]
        return
    with pytest.raises(StoreFailed):
        store.unreadable()


def test_an_index_is_moved_aside_each_time_under_a_name_of_its_own(
    stopped: tuple[Home, dict[str, Any]], tmp_path: Path
) -> None:
    mine = copy_of(stopped[0], tmp_path / "home", killed=True)
    whole, log = mine.index.read_bytes(), wal(mine).read_bytes()
    first = set_aside(mine, "a test", NOW)
    mine.index.write_bytes(b"second")
    second = set_aside(mine, "a test", NOW)
    assert first.path is not None
    assert second.path is not None
    assert (Path(first.path).read_bytes(), Path(first.path + "-wal").read_bytes()) == (whole, log)
    assert Path(second.path).read_bytes() == b"second"
    assert len(list(mine.root.glob(ASIDE + "*.sqlite"))) == 2


def test_a_newer_index_is_refused_and_untouched_even_when_it_is_damaged(
    stopped: tuple[Home, dict[str, Any]], tmp_path: Path
) -> None:
    mine = copy_of(stopped[0], tmp_path / "home", killed=False)
    with closing(sqlite3.connect(mine.index, isolation_level=None)) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    raw = mine.index.read_bytes()
    with ExitStack() as stack, pytest.raises(NewerIndex):
        opened(mine, stack)
    assert mine.index.read_bytes() == raw


def test_the_command_makes_the_index_again_and_a_daemon_keeps_it_from_that(
    stopped: tuple[Home, dict[str, Any]], tmp_path: Path
) -> None:
    mine = copy_of(stopped[0], tmp_path / "home", killed=False)
    found = as_json(mine.root, "index", "rebuild")
    assert found["backups"] == SESSIONS * EACH - 1
    assert Path(found["aside"]).exists()
    lock = InstanceLock(mine)
    try:
        assert "Stop the daemon" in run(mine.root, "index", "rebuild", "--from", "files", status=6)
        with pytest.raises(DaemonAlreadyRunning):
            rebuild_index(mine, load_settings(), NOW)
    finally:
        lock.close()


def test_a_title_of_a_session_outlives_its_emptied_sidecar(tmp_path: Path) -> None:
    """What was taken back stays taken back, also when the log that said so is lost."""
    home = Home(tmp_path / "home")
    home.create()
    with ExitStack() as stack:
        catalog, _ = opened(home, stack)
        one = made(0, 0)
        catalog.commit_all([one])
        catalog.set_pinned(one.id, True)
        old = home.index.read_bytes(), wal(home).read_bytes()
        catalog.set_pinned(one.id, False)
    home.index.write_bytes(old[0])
    wal(home).write_bytes(old[1])
    with ExitStack() as stack:
        catalog, _ = opened(home, stack)
        assert not catalog.index.backup(one.id).pinned
        catalog.remove(one.id)
        assert not catalog.sidecars.path("s0").exists()
        assert replace(catalog.sidecars.read("s0"), title="x").title == "x"


def hot_journal(home: Home, to: Path) -> Home:
    """A copy of a home whose power went while a transaction was half written, with a journal that takes it back."""
    copy = copy_of(home, to, killed=False)
    with closing(sqlite3.connect(copy.index, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DELETE FROM backups")
        connection.execute("UPDATE events SET detail = hex(randomblob(4000))")
        connection.execute("INSERT INTO remembered SELECT 'x', hex(randomblob(2000)), '1', 0 FROM sqlite_master")
        half = {path.name: path.read_bytes() for path in (copy.index, journal_of(copy.index))}
        connection.execute("ROLLBACK")
    for name, content in half.items():
        (copy.root / name).write_bytes(content)
    return copy


def test_a_transaction_that_a_power_cut_left_half_written_is_taken_back(
    stopped: tuple[Home, dict[str, Any]], tmp_path: Path
) -> None:
    home = hot_journal(stopped[0], tmp_path / "cut")
    with pytest.raises(sqlite3.OperationalError), closing(connect(home.index, read_only=True)) as connection:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # who only reads cannot
    assert check_index(home.index, 5.0).faults == ()
    with ExitStack() as stack:
        catalog, rebuilt = opened(home, stack)
        assert rebuilt is None
        assert listing(catalog) == stopped[1]


def test_a_journal_goes_aside_with_its_index(stopped: tuple[Home, dict[str, Any]], tmp_path: Path) -> None:
    home = hot_journal(stopped[0], tmp_path / "aside")
    assert set_aside(home, "a test", 1.0).path is not None
    assert sorted(path.name for path in home.root.glob("index*")) == [
        "index.damaged-19700101T000001Z.sqlite", "index.damaged-19700101T000001Z.sqlite-journal", "index.rebuilding",
    ]  # fmt: skip
