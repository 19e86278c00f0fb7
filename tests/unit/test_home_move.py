"""A home that is moved: at every moment one of the two folders is the home, and whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from torpor.client.blob_access import SharedFiles
from torpor.daemon.mounts import is_network, refuse_network_home
from torpor.state.crash_points import MOVE_POINTS, no_checkpoint
from torpor.state.errors import BadInput, Conflict, FileDamaged, NetworkHome, StoreFailed, UnsafeHome
from torpor.store import move
from torpor.store.home import Home
from torpor.store.move import MARK, PLACES, change_places, move_home, settle
from torpor.store.moved import NOTE, follow
from torpor.store.staging import Staging, writers


class Killed(Exception):
    """What a crash point raises here: nothing behind it is done."""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "old")
    home.create()
    for number in range(30):
        name = f"{number:02x}" + "0" * 62
        (home.store / "blobs" / name[:2] / name).write_bytes(os.urandom(1000 + number))
    (home.store / "manifests" / "one.qwnbak").write_bytes(b"manifest")
    (home.store / "trash" / "aa").mkdir()
    (home.store / "trash" / "aa" / "thrown").write_bytes(b"away")
    home.index.write_bytes(b"index")
    home.token.write_bytes(b"token")
    (home.root / "config.toml").write_text("port = 1\n")
    return home


@pytest.fixture(params=["renamed", "copied"])
def elsewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder that is not there yet: on the same file system, or on another one."""
    if request.param == "renamed":
        yield tmp_path / "new"
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder) / "new"


def content(root: Path) -> dict[str, tuple[bytes, int]]:
    left_out = {NOTE, MARK, PLACES}
    files = [p for p in root.rglob("*") if p.is_file() and p.name not in left_out]
    return {str(p.relative_to(root)): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


def test_everything_moves_and_the_old_place_leads_there(home: Home, elsewhere: Path) -> None:
    before = content(home.root)
    moved = move_home(home, elsewhere)
    assert moved.way == ("copied" if str(elsewhere).startswith("/dev/shm") else "renamed")
    assert content(elsewhere) == before
    assert [p.name for p in home.root.iterdir()] == [NOTE]
    assert Home.at(home.root).root == elsewhere
    assert not (elsewhere / MARK).exists()
    assert elsewhere.stat().st_mode & 0o777 == 0o700
    assert {p.stat().st_mode & 0o077 for p in elsewhere.rglob("*")} == {0} or moved.way == "renamed"


@pytest.mark.parametrize("point", MOVE_POINTS)
def test_a_crash_leaves_one_whole_home_and_it_can_be_done_again(home: Home, elsewhere: Path, point: str) -> None:
    passed = []

    def crash(name: str) -> None:
        passed.append(name)
        if name == point:
            raise Killed

    before = content(home.root)
    try:
        move_home(home, elsewhere, checkpoint=crash)
    except Killed:
        pass
    else:
        assert point not in passed
        return
    now = Home.at(home.root)
    settle(now)  # as at a start
    assert content(now.root) == before
    if now.root != elsewhere:
        if (elsewhere / MARK).exists():
            with pytest.raises(UnsafeHome):
                settle(Home(elsewhere))
        move_home(now, elsewhere)
    assert content(elsewhere) == before
    assert Home.at(home.root).root == elsewhere
    assert [p.name for p in home.root.iterdir()] == [NOTE]


@pytest.mark.parametrize("point", MOVE_POINTS)
@pytest.mark.parametrize("at_once", [True, False])
def test_on_its_way_back_it_is_never_a_fresh_home(home: Home, tmp_path: Path, point: str, at_once: bool) -> None:
    """The first place leads to the second until it is the home again: a start in between must not make another one."""

    def crash(name: str) -> None:
        if name == point:
            raise Killed

    before, place, exchange = content(home.root), home.root, None if at_once else lambda one, other: False
    move_home(home, tmp_path / "new")
    with suppress(Killed):
        move_home(Home(tmp_path / "new"), place, exchange=exchange, checkpoint=crash)
    for named in (place, tmp_path / "new"):
        found = Home.at(named)
        try:
            settle(found)
        except UnsafeHome:  # it says where the home is
            continue
        assert content(found.root) == before
    now = next(each for each in (tmp_path / "new", place) if (each / "store" / "manifests" / "one.qwnbak").exists())
    if now != place:
        move_home(Home(now), place)
    assert content(place) == before
    assert Home.at(tmp_path / "new").root == place
    move_home(Home(place), tmp_path / "new")
    assert content(tmp_path / "new") == before


def test_who_has_the_old_place_open_makes_no_store_there(home: Home, elsewhere: Path) -> None:
    opened = SharedFiles(home, no_checkpoint)
    move_home(home, elsewhere)
    with pytest.raises(StoreFailed, match="no store"):
        opened.put([memoryview(b"of a session that goes on")])
    assert [p.name for p in home.root.iterdir()] == [NOTE]


def test_what_an_earlier_try_copied_and_the_home_lost_since_does_not_come_along(home: Home, elsewhere: Path) -> None:
    """Else backups that were removed in between are back, and an old log of SQLite is applied to a newer index."""

    def crash(name: str) -> None:
        if name == "move.copied":
            raise Killed

    log, manifest = home.root / "index.sqlite-wal", home.store / "manifests" / "one.qwnbak"
    log.write_bytes(b"written before")
    with pytest.raises(Killed):
        move_home(home, elsewhere, exchange=lambda one, other: False, checkpoint=crash)
    log.unlink()
    manifest.unlink()
    shutil.rmtree(home.store / "trash" / "aa")
    after = content(home.root)
    move_home(home, elsewhere)
    assert content(elsewhere) == after
    assert not (elsewhere / "store" / "trash" / "aa").exists()


def test_a_copy_that_came_out_otherwise_is_noticed(
    home: Home, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = move._copy_file

    def falsely(source: Path, made: Path, status: os.stat_result) -> None:
        real(source, made, status)
        if source.name == "one.qwnbak":
            made.write_bytes(b"manifesT")
            os.utime(made, ns=(status.st_atime_ns, status.st_mtime_ns))

    before = content(home.root)
    monkeypatch.setattr(move, "_copy_file", falsely)
    with pytest.raises(FileDamaged):
        move_home(home, elsewhere, exchange=lambda one, other: False)
    assert content(home.root) == before
    assert Home.at(home.root) == home
    monkeypatch.undo()
    told: list[tuple[int, int]] = []
    moved = move_home(home, elsewhere, lambda done, total: told.append((done, total)))
    assert moved.way == "copied"  # it goes on with what is there
    assert told[-1][0] == told[-1][1] == 2 * moved.copied_bytes
    assert content(elsewhere) == before


def test_what_cannot_be_a_home_is_refused_and_nothing_is_changed(home: Home, tmp_path: Path) -> None:
    full, link = tmp_path / "full", tmp_path / "link"
    full.mkdir()
    (full / "file").write_text("mine")
    link.symlink_to(full)
    for target, error in (
        (home.root, BadInput),
        (home.root / "store" / "in", BadInput),
        (tmp_path, BadInput),
        (full, BadInput),
        (full / "file", UnsafeHome),
        (link, UnsafeHome),
    ):
        with pytest.raises(error):
            move_home(home, target)
    with pytest.raises(BadInput, match="holds no store"):
        move_home(Home(tmp_path / "nothing"), tmp_path / "new")
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / MARK).write_bytes(b"/somewhere/else\n")
    with pytest.raises(Conflict):
        move_home(home, unfinished)
    (home.store / "blobs" / "00" / "planted").symlink_to("/etc/passwd")
    with pytest.raises(UnsafeHome, match="planted"):
        move_home(home, tmp_path / "new", exchange=lambda one, other: False)
    assert Home.at(home.root) == home


def test_all_earlier_places_lead_to_the_last(home: Home, tmp_path: Path) -> None:
    before = content(home.root)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        between = Path(folder) / "between"
        move_home(home, between)
        move_home(Home(between), tmp_path / "last")
    assert Home.at(home.root).root == tmp_path / "last"
    move_home(Home(tmp_path / "last"), home.root)  # and back
    assert content(home.root) == before
    assert Home.at(home.root) == home == Home.at(tmp_path / "last")


def test_a_note_is_followed_only_where_it_is_ours(tmp_path: Path) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for folder in (one, two, three):
        folder.mkdir()
    (one / NOTE).write_text(f"{two}\n")
    (two / NOTE).write_text(f"{three}\n")
    (one / NOTE).chmod(0o600)
    (two / NOTE).chmod(0o600)
    assert follow(one) == three
    (three / NOTE).write_text(f"{one}\n")
    (three / NOTE).chmod(0o600)
    with pytest.raises(UnsafeHome, match="circle"):
        follow(one)
    (three / NOTE).chmod(0o666)
    with pytest.raises(UnsafeHome, match="only you"):
        follow(three)
    (three / NOTE).unlink()
    (three / NOTE).symlink_to(two / NOTE)
    with pytest.raises(StoreFailed):
        follow(three)
    (three / NOTE).unlink()
    (three / NOTE).write_text("relative\n")
    (three / NOTE).chmod(0o600)
    with pytest.raises(UnsafeHome, match="absolute"):
        follow(three)


def test_folders_change_places_in_one_step(tmp_path: Path) -> None:
    (tmp_path / "a" / "in-a").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    assert change_places(tmp_path / "a", tmp_path / "b")
    assert [p.name for p in (tmp_path / "b").iterdir()] == ["in-a"]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        assert not change_places(tmp_path / "a", Path(other))


def test_who_holds_the_store_open_is_known(home: Home) -> None:
    assert writers(home.store / "staging") == []
    staging = Staging(home.store / "staging")
    assert writers(home.store / "staging") == [str(os.getpid())]
    staging.close()
    assert writers(home.store / "staging") == []


@pytest.mark.parametrize(
    "fs_type", ["nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "fuse.rclone", "ceph", "virtiofs"]
)
def test_a_network_file_system_is_no_place_for_a_home(fs_type: str, tmp_path: Path) -> None:
    assert is_network(fs_type)
    with pytest.raises(NetworkHome, match=fs_type) as caught:
        refuse_network_home(tmp_path, lambda path: fs_type)
    assert "TORPOR_HOME" in caught.value.hint


@pytest.mark.parametrize(
    "fs_type", ["ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuseblk", "fuse.gocryptfs", "zfs", ""]
)
def test_a_disk_of_this_machine_is_one(fs_type: str, tmp_path: Path) -> None:
    refuse_network_home(tmp_path, lambda path: fs_type)
    shutil.rmtree(tmp_path)
