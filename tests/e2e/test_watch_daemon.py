"""Watched folders of a running daemon: the API, `torpor watch`, `torpor status`, and what it costs when idle."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon
from support.waiting import until
from test_cli import as_json, run


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    folder = tmp_path / "drop [bold]"  # what looks like markup is shown as it is
    folder.mkdir()
    return folder


def watches(daemon: Daemon) -> list[dict[str, Any]]:
    return list(daemon.request("GET", "/v1/status").json()["watches"])


def test_watch_add_ls_rescan_remove(daemon: Daemon, drop: Path) -> None:
    assert as_json(daemon.home, "watch", "ls") == {"watches": []}
    assert "torpor watch add" in run(daemon.home, "watch", "ls")
    added = as_json(daemon.home, "watch", "add", str(drop))
    assert (added["folder"], added["mode"], added["problem"], added["files"]) == (str(drop), "inotify", None, 0)
    assert as_json(daemon.home, "watch", "add", str(drop)) == added
    assert as_json(daemon.home, "watch", "ls") == {"watches": [added]}
    assert as_json(daemon.home, "watch", "rescan")["watches"][0]["folder"] == str(drop)
    for command in (["watch", "ls"], ["status"]):
        assert "drop [bold]" in run(daemon.home, *command).replace("\n", "")
    daemon.stop()
    with Daemon(daemon.home) as again:
        assert [watch["folder"] for watch in watches(again)] == [str(drop)]
        assert as_json(again.home, "watch", "remove", str(drop))["folder"] == str(drop)
        assert as_json(again.home, "watch", "remove", str(drop), status=3)["hint"]
        assert watches(again) == []


def test_what_cannot_be_watched_is_a_problem_with_a_hint(daemon: Daemon, drop: Path) -> None:
    run(daemon.home, "watch", "add", str(drop))
    (drop / "sub").mkdir()
    for folder, status in ((daemon.home, 2), (drop.parent / "none", 3), (drop / "sub", 4)):
        assert as_json(daemon.home, "watch", "add", str(folder), status=status)["hint"]
    for body in ({"folder": "relative"}, {"folder": ""}, {"folder": "/a\0b"}, {}, {"folder": 3}, {"folder": "\udcff"}):
        content = __import__("json").dumps(body).encode()
        answer = daemon.request("POST", "/v1/watches", content=content, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (422, "bad-input"), body
    assert daemon.request("DELETE", "/v1/watches").status_code == 422
    assert daemon.request("DELETE", "/v1/watches", params={"folder": "/a\0b"}).status_code in (404, 422)


def test_a_file_that_is_no_backup_is_told_by_status_once(home: Path, drop: Path) -> None:
    with Daemon(home, watch=str(drop)) as daemon:
        (drop / "garbage.qwnbak").write_bytes(b"this is no backup")
        (watch,) = until(lambda: [w for w in watches(daemon) if w["failing"]], "the report")
        assert watch["source"] == "settings"
        assert watch["failing"][0]["path"] == str(drop / "garbage.qwnbak")
        assert "garbage.qwnbak" in run(home, "status").replace("\n", "")
        assert "garbage.qwnbak" in run(home, "watch", "ls").replace("\n", "")
        assert as_json(home, "watch", "remove", str(drop), status=4)["code"] == "conflict"
        assert daemon.stop() == 0
    with Daemon(home, watch=str(drop)) as daemon:
        assert watches(daemon)[0]["failing_count"] == 1
        events = daemon.request("GET", "/v1/events").json()["events"]
        assert [event["kind"] for event in events].count("import-failed") == 1
    assert (drop / "garbage.qwnbak").read_bytes() == b"this is no backup"


def test_a_folder_of_the_settings_that_cannot_be_taken_does_not_stop_the_daemon(home: Path, drop: Path) -> None:
    with Daemon(home, watch=f"{home}{os.pathsep}{drop}{os.pathsep}/nowhere/yet") as daemon:
        modes = {watch["folder"]: (watch["mode"], bool(watch["problem"])) for watch in watches(daemon)}
        assert modes[str(home)] == ("off", True)
        assert modes[str(drop)][0] == "inotify"
        until(lambda: all(w["problem"] for w in watches(daemon) if w["folder"] == "/nowhere/yet"), "the report")
        assert "neither lies in" in run(home, "status").replace("\n", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_watching_daemon_ends_with_status_0(home: Path, drop: Path, number: int) -> None:
    with Daemon(home, watch=str(drop)) as daemon:
        assert daemon.signal(number) == 0
    assert not (home / "daemon.json").exists()
