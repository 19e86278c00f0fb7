"""Watched folders: files that cannot be read, and what they do to the process that reads them."""

from __future__ import annotations

import os
from pathlib import Path

from support.waiting import until
from support.watching import Watching, whole


def test_a_file_that_cannot_be_read_is_reported_once_and_tried_when_it_changes(watching: Watching) -> None:
    path = watching.drop / "bad.qwnbak"
    path.write_bytes(b"half of it")
    assert watching.outcomes(1) == [("bad.qwnbak", "failed")]
    (failing,) = watching.status()["failing"]
    assert (failing["path"], failing["code"]) == (str(path), "invalid-manifest")
    (event,) = watching.events("import-failed")
    assert event["level"] == "warning"
    assert str(path) in event["detail"]
    watching.folder()._on_change(None)
    (watching.drop / "good.pt").write_bytes(whole(1))
    assert watching.outcomes(2)[1] == ("good.pt", "imported")
    assert path.read_bytes() == b"half of it"
    os.chmod(path, 0o640)
    assert watching.outcomes(3)[2] == ("bad.qwnbak", "failed")
    assert len(watching.events("import-failed")) == 1
    path.write_bytes(whole(2))
    assert watching.outcomes(4)[3] == ("bad.qwnbak", "imported")
    assert watching.status()["failing"] == []
    assert len(watching.events("import-failed")) == 1


def test_a_file_is_tried_again_when_it_may_be_read(watching: Watching) -> None:
    path = watching.drop / "closed.pt"
    (watching.drop / "tmp").write_bytes(whole(1))
    os.chmod(watching.drop / "tmp", 0)
    os.rename(watching.drop / "tmp", path)
    assert watching.outcomes(1) == [("closed.pt", "failed")]
    assert "Permission denied" in watching.status()["failing"][0]["detail"]
    os.chmod(path, 0o600)
    assert watching.outcomes(2)[1] == ("closed.pt", "imported")


def test_a_rescan_tries_what_failed_again(watching: Watching) -> None:
    (watching.drop / "bad.pt").write_bytes(b"half")
    watching.outcomes(1)
    watching.watches.rescan()
    assert watching.outcomes(2)[1] == ("bad.pt", "failed")


def test_a_name_that_is_not_utf8_is_reported_and_hurts_nobody(watching: Watching) -> None:
    Path(os.fsdecode(os.fsencode(watching.drop) + b"/\xff.pt")).write_bytes(whole(1))
    (watching.drop / "ä b.pt").write_bytes(whole(2))
    until(lambda: watching.status()["failing_count"], "the report")
    assert watching.outcomes(1) == [("ä b.pt", "imported")]
    (failing,) = watching.status()["failing"]
    assert failing["path"].endswith("\\xff.pt")
    assert len(watching.events("import-failed")) == 1
    watching.stop()
    watching.start()
    watching.look()
    assert watching.status()["failing_count"] == 1


def test_a_worker_that_dies_fails_its_file_and_no_other(watching: Watching) -> None:
    (watching.drop / "a.pt").write_bytes(b"DIE")
    (watching.drop / "b.pt").write_bytes(whole(1))
    assert watching.outcomes(1) == [("b.pt", "imported")]
    (failing,) = until(lambda: watching.status()["failing"], "the report")
    assert failing["code"] == "bad-input"
    assert "signal 9" in failing["detail"]


def test_a_worker_that_hangs_is_killed_at_the_deadline(tmp_path: Path) -> None:
    watching = Watching(tmp_path, deadline_s=0.5).start()
    (watching.drop / "a.pt").write_bytes(b"HANG")
    (watching.drop / "b.pt").write_bytes(whole(1))
    watching.watch()
    assert watching.outcomes(1) == [("b.pt", "imported")]
    assert "no end" in until(lambda: watching.status()["failing"], "the report")[0]["detail"]
    watching.stop()


def test_a_worker_that_talks_nonsense_is_not_believed(watching: Watching) -> None:
    (watching.drop / "junk.pt").write_bytes(b"")
    assert watching.outcomes(1) == [("junk.pt", "junk")]
    assert "cannot be understood" in watching.status()["failing"][0]["detail"]


def test_a_worker_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    watching = Watching(tmp_path)
    right = watching.options["command"]
    watching.options["command"] = ["/nowhere/python"]
    (watching.drop / "a.pt").write_bytes(whole(1))
    watching.start().watch()
    assert until(lambda: watching.status()["failing"], "the report")[0]["code"] == "unavailable"
    watching.folder()._importer._command = right
    assert watching.outcomes(1) == [("a.pt", "imported")]
    assert watching.status()["failing"] == []
    watching.stop()


def test_the_worker_ends_when_there_is_no_work(watching: Watching) -> None:
    assert watching.folder()._importer._process is None
    (watching.drop / "a.pt").write_bytes(whole(1))
    watching.outcomes(1)
    until(lambda: watching.folder()._importer._process is None, "the worker is gone")


def test_a_failure_that_may_pass_is_tried_again_and_told_once(watching: Watching) -> None:
    (watching.drop / "a.pt").write_bytes(b"FULL END")
    until(lambda: len(watching.asked()) >= 2, "a second try")
    assert watching.status()["failing"][0]["code"] == "store-full"
    assert len(watching.events("import-failed")) == 1
    (watching.notes / "room").touch()
    until(lambda: watching.asked()[-1] == ("a.pt", "imported"), "the import")
    watching.settled()
    assert watching.status()["failing"] == []


def test_a_file_that_somebody_has_open_waits_for_its_close(watching: Watching) -> None:
    with open(watching.drop / "a.pt", "wb") as file:
        file.write(b"BUSY END")
        file.flush()
        until(lambda: ("a.pt", "busy") in watching.asked(), "a first try")
        (watching.notes / "closed").touch()
    until(lambda: watching.asked()[-1] == ("a.pt", "imported"), "the import")
    assert watching.events("import-failed") == []
