"""Watched folders: real files, real inotify, a real index; the import worker is a stand-in (support)."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from support.waiting import until
from support.watching import QUICK, Watching, whole
from torpor.daemon.importer import Importer
from torpor.daemon.watch_scan import Tree
from torpor.state.errors import BadInput, Conflict, NotFound
from torpor.state.watching import Signature
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, InotifyFD, Mask, WatchDescriptor

OVERFLOW = InotifyEvent(WatchDescriptor(-1), Mask(InotifyConstants.IN_Q_OVERFLOW), 0, b"")


def reader(watching: Watching) -> InotifyFD:
    found = watching.watches._notifier._reader
    assert found is not None
    return found


def test_a_dropped_file_is_imported_once(watching: Watching) -> None:
    (watching.drop / "a.pt").write_bytes(whole(1))
    assert watching.outcomes(1) == [("a.pt", "imported")]
    status = watching.status()
    assert (status["mode"], status["files"], status["failing"], status["problem"]) == ("inotify", 1, [], None)
    (event,) = watching.events("imported")
    assert (event["level"], event["session_id"], event["detail"]) == ("info", "s-a", str(watching.drop / "a.pt"))
    assert event["backup_id"]


def test_what_was_there_before_is_imported_too(idle: Watching) -> None:
    (idle.drop / "sub").mkdir()
    (idle.drop / "sub" / "a.qwnbak").write_bytes(whole(1))
    idle.watch()
    assert idle.outcomes(1) == [("sub/a.qwnbak", "imported")]


def test_a_file_that_is_written_in_pieces_is_read_only_whole(watching: Watching) -> None:
    data = whole(7, 2000)
    with open(watching.drop / "slow.qwnbak", "wb", buffering=0) as file:
        for start in range(0, len(data), 200):
            file.write(data[start : start + 200])
            until(lambda: watching.status()["waiting"] == 1, "the file is seen")
            time.sleep(QUICK.settle_s / 4)  # the writer's own pace
    assert watching.outcomes(1) == [("slow.qwnbak", "imported")]


def test_other_names_are_left_alone(watching: Watching) -> None:
    for name in ("a.txt", ".hidden.pt", "a.pt.part", "a.qwnbak.tmp"):
        (watching.drop / name).write_bytes(whole(1))
    (watching.drop / ".git").mkdir()
    (watching.drop / ".git" / "a.pt").write_bytes(whole(1))
    os.mkfifo(watching.drop / "pipe.pt")
    (watching.drop / "folder.pt").mkdir()
    (watching.drop / "z.pt").write_bytes(whole(2))
    watching.outcomes(1)
    watching.look()
    assert watching.asked() == [("z.pt", "imported")]


def test_a_file_that_changes_while_others_are_imported_has_to_settle_again(
    idle: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("a.pt", "b.pt")):
        (idle.drop / name).write_bytes(whole(number))
        os.utime(idle.drop / name, (number, number))
    asked: list[tuple[str, int]] = []
    real = Importer.ask

    def ask(importer: Importer, path: str, expected: Signature) -> Any:
        if not asked:
            (idle.drop / "b.pt").write_bytes(whole(5, size=500))
        asked.append((os.path.basename(path), expected.size_bytes))
        return real(importer, path, expected)

    monkeypatch.setattr(Importer, "ask", ask)
    idle.watch()
    idle.outcomes(2)
    assert asked == [("a.pt", len(whole(0))), ("b.pt", len(whole(5, size=500)))]


def test_a_rename_over_an_existing_name_is_noticed(watching: Watching) -> None:
    (watching.drop / "a.pt").write_bytes(whole(1))
    watching.outcomes(1)
    (watching.drop / "a.pt.tmp").write_bytes(whole(2))
    os.replace(watching.drop / "a.pt.tmp", watching.drop / "a.pt")
    assert watching.outcomes(2) == [("a.pt", "imported"), ("a.pt", "imported")]
    (watching.drop.parent / "elsewhere.pt").write_bytes(whole(3))
    os.replace(watching.drop.parent / "elsewhere.pt", watching.drop / "a.pt")
    assert watching.outcomes(3)[2] == ("a.pt", "imported")


def test_a_rewrite_in_place_is_noticed(watching: Watching) -> None:
    for number in (1, 2):
        (watching.drop / "a.pt").write_bytes(whole(number))
        assert watching.outcomes(number)[-1] == ("a.pt", "imported")


def test_the_same_content_touched_is_known(watching: Watching) -> None:
    (watching.drop / "a.pt").write_bytes(whole(1))
    watching.outcomes(1)
    os.utime(watching.drop / "a.pt")
    assert watching.outcomes(2)[1] == ("a.pt", "known")
    assert len(watching.events("imported")) == 1


def test_permissions_and_links_of_an_imported_file_are_no_change(watching: Watching) -> None:
    (watching.drop / "a.pt").write_bytes(whole(1))
    watching.outcomes(1)
    os.chmod(watching.drop / "a.pt", 0o644)
    os.link(watching.drop / "a.pt", watching.drop.parent / "link")
    watching.look()
    watching.settled()
    assert len(watching.asked()) == 1


def test_links_are_not_followed(idle: Watching, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.pt").write_bytes(whole(1))
    (idle.drop / "file.pt").symlink_to(outside / "secret.pt")
    (idle.drop / "folder").symlink_to(outside)
    (idle.drop / "inside.pt").write_bytes(whole(2))
    (idle.drop / "again.pt").symlink_to(idle.drop / "inside.pt")
    (idle.drop / "round").symlink_to(idle.drop)
    idle.watch()
    assert idle.outcomes(1) == [("inside.pt", "imported")]
    (outside / "later.pt").write_bytes(whole(3))
    (idle.drop / "last.pt").write_bytes(whole(4))
    assert idle.outcomes(2)[1:] == [("last.pt", "imported")]


def test_a_file_that_becomes_a_link_is_dropped(watching: Watching, tmp_path: Path) -> None:
    (tmp_path / "secret.pt").write_bytes(whole(1))
    (watching.drop / "a.pt").write_bytes(whole(2))
    watching.outcomes(1)
    os.unlink(watching.drop / "a.pt")
    (watching.drop / "a.pt").symlink_to(tmp_path / "secret.pt")
    until(lambda: watching.status()["files"] == 0, "the file is forgotten")
    assert len(watching.asked()) == 1


def test_a_folder_on_the_way_that_becomes_a_link_leads_nowhere(idle: Watching, tmp_path: Path) -> None:
    """An event tells of a folder that was moved, and a link has its name by then."""
    inside, outside = idle.drop / "sub" / "deep", tmp_path / "outside" / "deep"
    for number, folder in enumerate((inside, outside)):
        folder.mkdir(parents=True)
        (folder / "a.pt").write_bytes(whole(number))
    tree = Tree(str(idle.drop))
    assert tree.look_at(str(inside / "a.pt")) is not None
    assert list(tree.list_folder(str(inside))) == [str(inside / "a.pt")]
    (idle.drop / "sub").rename(tmp_path / "moved")
    (idle.drop / "sub").symlink_to(tmp_path / "outside")
    assert tree.look_at(str(inside / "a.pt")) is None
    with pytest.raises(OSError, match="ot a directory"):
        tree.list_folder(str(inside))
    assert not tree.list_all(lambda *_: None).files


def test_the_added_folder_may_be_a_link_itself(idle: Watching, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(idle.drop)
    assert idle.watches.add(str(tmp_path / "link"))["folder"] == str(idle.drop)
    assert idle.watches.add(str(idle.drop / ".." / "link"))["folder"] == str(idle.drop)
    assert len(idle.watches.describe()) == 1
    (idle.drop / "a.pt").write_bytes(whole(1))
    assert idle.outcomes(1) == [("a.pt", "imported")]
    idle.watches.remove(str(tmp_path / "link"))
    assert idle.watches.describe() == []


def test_folders_made_later_are_watched(watching: Watching) -> None:
    deep = watching.drop / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "a.pt").write_bytes(whole(1))
    assert watching.outcomes(1) == [("a/b/c/a.pt", "imported")]
    (deep / "b.pt").write_bytes(whole(2))
    assert watching.outcomes(2)[1] == ("a/b/c/b.pt", "imported")


def test_a_folder_that_is_moved_in_brings_its_files(watching: Watching, tmp_path: Path) -> None:
    (tmp_path / "new" / "sub").mkdir(parents=True)
    (tmp_path / "new" / "sub" / "a.pt").write_bytes(whole(1))
    os.rename(tmp_path / "new", watching.drop / "new")
    assert watching.outcomes(1) == [("new/sub/a.pt", "imported")]
    os.rename(watching.drop / "new", watching.drop / "renamed")
    assert watching.outcomes(2)[1] == ("renamed/sub/a.pt", "known")
    assert watching.status()["files"] == 1
    os.rename(watching.drop / "renamed", tmp_path / "new")
    until(lambda: watching.status()["files"] == 0, "the folder is gone")
    (tmp_path / "new" / "sub" / "b.pt").write_bytes(whole(2))
    watching.look()
    assert len(watching.asked()) == 2
    assert len(watching.folder()._subscription._watches) == 1
    assert len(reader(watching)._watch_for_wd) == 1


def test_folders_that_come_and_go_leave_no_watch_behind(watching: Watching) -> None:
    for number in range(20):  # a new folder often gets the inode of the one before
        (watching.drop / "sub").mkdir()
        (watching.drop / "sub" / "a.pt").write_bytes(whole(number))
        assert watching.outcomes(number + 1)[-1] == ("sub/a.pt", "imported")
        shutil.rmtree(watching.drop / "sub")
        until(lambda: watching.status()["files"] == 0, "the file is forgotten")
    until(lambda: len(watching.folder()._subscription._watches) == 1, "one watch is left")
    until(lambda: len(reader(watching)._watch_for_wd) == 1, "one watch is left in the kernel")


def test_what_changed_while_nobody_looked_is_found_at_the_start(tmp_path: Path) -> None:
    watching = Watching(tmp_path).start().watch()
    for name in ("same.pt", "new-content.pt", "removed.pt"):
        (watching.drop / name).write_bytes(whole(len(name)))
    (watching.drop / "bad.pt").write_bytes(b"nothing")
    watching.outcomes(4)
    watching.stop()
    (watching.drop / "new-content.pt").write_bytes(whole(99))
    (watching.drop / "removed.pt").unlink()
    (watching.drop / "added.pt").write_bytes(whole(100))
    watching.start()
    assert sorted(watching.outcomes(6)[4:]) == [("added.pt", "imported"), ("new-content.pt", "imported")]
    assert watching.status()["files"] == 3
    assert [file["path"] for file in watching.status()["failing"]] == [str(watching.drop / "bad.pt")]
    assert len(watching.events("import-failed")) == 1
    watching.stop()


def test_a_watch_that_the_kernel_ended_is_forgotten(deaf: Watching) -> None:
    """Another folder may get the inode of the one that went, and must be watched anew."""
    (deaf.drop / "sub").mkdir()
    deaf.look()
    assert len(deaf.folder()._subscription._watches) == 2
    (deaf.drop / "sub").rmdir()
    until(lambda: len(deaf.folder()._subscription._watches) == 1, "the watch is forgotten")


def test_events_that_never_came_are_healed_by_a_look_at_everything(deaf: Watching) -> None:
    (deaf.drop / "sub").mkdir()
    (deaf.drop / "sub" / "a.pt").write_bytes(whole(1))
    deaf.look()
    assert deaf.outcomes(1) == [("sub/a.pt", "imported")]


def test_a_look_at_everything_comes_by_itself(tmp_path: Path) -> None:
    pace = {"pace": QUICK.__class__(settle_s=0.1, poll_s=600.0, rescan_s=0.3, tick_s=0.1)}
    watching = Watching(tmp_path, **pace).start().watch()
    watching.folder()._subscription._on_change = lambda folder: None
    (watching.drop / "a.pt").write_bytes(whole(1))
    assert watching.outcomes(1) == [("a.pt", "imported")]
    watching.stop()


def test_an_overflow_of_the_queue_is_healed(watching: Watching, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel dropped events: what they told of is found all the same."""
    folder = watching.folder()
    lost: list[Any] = []
    with monkeypatch.context() as patch:
        patch.setattr(folder._subscription, "on_event", lost.append)
        (watching.drop / "sub").mkdir()
        (watching.drop / "sub" / "a.pt").write_bytes(whole(1))
        until(lambda: lost, "an event that is lost")
    assert watching.status()["waiting"] == 0
    reader(watching).handle_event(OVERFLOW)
    assert watching.outcomes(1) == [("sub/a.pt", "imported")]
    (watching.drop / "sub" / "b.pt").write_bytes(whole(2))
    assert watching.outcomes(2)[1] == ("sub/b.pt", "imported")


def test_a_jump_of_the_clock_is_a_reason_to_look(tmp_path: Path) -> None:
    slept_s = [0.0]
    pace = QUICK.__class__(settle_s=0.1, poll_s=600.0, rescan_s=600.0, tick_s=0.05)
    watching = Watching(tmp_path, pace=pace, wall=lambda: time.time() + slept_s[0]).start().watch()
    watching.folder()._subscription._on_change = lambda folder: None
    (watching.drop / "a.pt").write_bytes(whole(1))
    slept_s[0] = 3600.0
    assert watching.outcomes(1) == [("a.pt", "imported")]
    watching.stop()


def test_a_folder_that_disappears_is_told_and_found_again(watching: Watching) -> None:
    (watching.drop / "a.pt").write_bytes(whole(1))
    watching.outcomes(1)
    told: list[int] = []
    watching.watches.tell(lambda: told.append(1))
    os.rename(watching.drop, watching.drop.with_name("away"))
    problem = until(lambda: watching.status()["problem"], "the report")
    assert problem["code"] == "unavailable"
    assert "No such file" in problem["detail"]
    until(lambda: watching.events("watch-problem"), "the event")
    assert len(watching.events("watch-problem")) == 1
    assert watching.folder()._subscription._watches == {}
    (watching.drop.with_name("away") / "b.pt").write_bytes(whole(2))
    os.rename(watching.drop.with_name("away"), watching.drop)
    until(lambda: watching.status()["problem"] is None, "the folder is back")
    until(lambda: len(told) == 2, "who shows the trouble hears that it came, and that it is over")
    assert watching.outcomes(2) == [("a.pt", "imported"), ("b.pt", "imported")]
    (watching.drop / "c.pt").write_bytes(whole(3))
    assert watching.outcomes(3)[2] == ("c.pt", "imported")


def test_a_folder_that_becomes_a_link_is_not_followed(watching: Watching, tmp_path: Path) -> None:
    os.rename(watching.drop, tmp_path / "away")
    (tmp_path / "away" / "a.pt").write_bytes(whole(1))
    watching.drop.symlink_to(tmp_path / "away")
    watching.look()
    assert until(lambda: watching.status()["problem"], "the report")["code"] == "unavailable"
    watching.look()
    assert watching.asked() == []


def test_another_folder_under_the_same_name_is_watched_instead(watching: Watching) -> None:
    os.rename(watching.drop, watching.drop.with_name("away"))
    watching.drop.mkdir()
    (watching.drop / "a.pt").write_bytes(whole(1))
    assert watching.outcomes(1) == [("a.pt", "imported")]
    (watching.drop.with_name("away") / "b.pt").write_bytes(whole(2))
    (watching.drop / "c.pt").write_bytes(whole(3))
    assert watching.outcomes(2)[1] == ("c.pt", "imported")


def test_a_folder_inside_that_cannot_be_read_is_told_and_its_files_are_kept(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    (watching.drop / "sub").mkdir()
    (watching.drop / "sub" / "a.pt").write_bytes(whole(1))
    watching.outcomes(1)
    real = os.open

    def denying(path: Any, *rest: Any, **options: Any) -> int:
        if os.path.basename(path) == "sub":
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr("torpor.daemon.watch_scan.os.open", denying)
        watching.look()
        assert str(watching.drop / "sub") in watching.status()["problem"]["detail"]
        assert watching.status()["files"] == 1
    watching.look()
    assert (watching.status()["problem"], len(watching.asked())) == (None, 1)


def test_a_stop_in_the_middle_of_an_import_kills_the_worker(watching: Watching) -> None:
    (watching.drop / "a.pt").write_bytes(b"HANG")
    process = until(lambda: watching.folder()._importer._process, "the worker")
    assert os.getsid(process.pid) != os.getsid(0)  # Ctrl-C is for the daemon, which ends the worker in its own way
    folder = watching.folder()
    watching.watches.stop()
    assert process.poll() is not None
    assert folder.join(0)
    watching.start()
    assert watching.status()["failing"] == []


def test_folders_that_cannot_be_watched_are_refused(watching: Watching, tmp_path: Path) -> None:
    (watching.drop / "sub").mkdir()
    (tmp_path / "file").touch()
    home = watching.home.root
    for folder, error in [
        (home, BadInput), (home / "store", BadInput), (tmp_path, BadInput), (Path("/"), BadInput),
        (tmp_path / "none", NotFound), (tmp_path / "file", BadInput), (Path("relative"), BadInput),
        (Path("/a\0b"), BadInput), (watching.drop / "sub", Conflict), (Path("/\udcff"), BadInput),
    ]:  # fmt: skip
        with pytest.raises(error) as caught:
            watching.watches.add(str(folder))
        assert caught.value.hint
    (tmp_path / "sneaky").symlink_to(home / "store")
    with pytest.raises(BadInput):
        watching.watches.add(str(tmp_path / "sneaky"))
    assert len(watching.watches.describe()) == 1


def test_added_folders_outlive_a_restart_and_removed_ones_do_not(watching: Watching) -> None:
    (watching.drop / "a.pt").write_bytes(whole(1))
    watching.outcomes(1)
    watching.stop()
    watching.start()
    assert watching.status()["source"] == "added"
    watching.watches.remove(str(watching.drop) + "/")
    assert (watching.drop / "a.pt").exists()
    with pytest.raises(NotFound):
        watching.watches.remove(str(watching.drop))
    watching.stop()
    watching.start()
    assert watching.watches.describe() == []
    watching.watch()
    assert watching.outcomes(2)[1] == ("a.pt", "known")


def test_folders_of_the_settings(tmp_path: Path) -> None:
    watching = Watching(tmp_path)
    (tmp_path / "later").mkdir()
    watching.start(watching.drop, tmp_path / "later", watching.home.root, watching.drop / "sub")
    (tmp_path / "later").rmdir()
    (watching.drop / "a.pt").write_bytes(whole(1))
    assert watching.outcomes(1) == [("a.pt", "imported")]
    found = {os.path.relpath(w["folder"], tmp_path): w for w in watching.watches.describe()}
    assert {name: w["source"] for name, w in found.items()} == dict.fromkeys(found, "settings")
    assert found["home"]["problem"]["code"] == "bad-input"
    assert found["drop/sub"]["problem"]["code"] == "conflict"
    assert found["home"]["mode"] == "off"
    with pytest.raises(Conflict, match="settings"):
        watching.watches.remove(str(watching.drop))
    watching.stop()
