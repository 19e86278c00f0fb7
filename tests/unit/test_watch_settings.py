"""The folders to watch, in the settings and in `watch.json`; and what the index remembers of their files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from torpor.daemon.settings import load_settings
from torpor.db.index import Index
from torpor.db.watched import WatchedFiles
from torpor.state.errors import InvalidSettings
from torpor.state.watching import Signature, WatchedFile
from torpor.store.watch_list import read_watch_list, write_watch_list


@pytest.mark.parametrize(
    ("text", "folders"),
    [
        ("/a", ["/a"]),
        (f"/a{os.pathsep}/b c", ["/a", "/b c"]),
        ('["/a", "/b:c"]', ["/a", "/b:c"]),
        ("", []),
        (":/a:", ["/a"]),
    ],
)
def test_folders_of_the_environment(text: str, folders: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORPOR_WATCH", text)
    assert load_settings().watch == folders


def test_folders_of_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home.mkdir()
    (home / "config.toml").write_text('watch = ["/a", "~/b"]\n')
    monkeypatch.setenv("TORPOR_HOME", str(home))
    monkeypatch.setenv("HOME", "/home/me")
    assert load_settings().watch == ["/a", "/home/me/b"]


@pytest.mark.parametrize("text", ["relative", '["/a"', "[1]", '[["/a"]]', '["/a\\u0000b"]'])
def test_folders_that_are_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORPOR_WATCH", text)
    with pytest.raises(InvalidSettings, match="watch"):
        load_settings()


def test_the_list_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "watch.json"
    assert read_watch_list(path) == []
    write_watch_list(path, ["/ä b", "/c"])
    assert read_watch_list(path) == ["/ä b", "/c"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"folders": "/a"}', '{"folders": ["a"]}', '{"folders": [1]}'])
def test_a_list_that_is_none_is_told_with_the_way_out(text: str, tmp_path: Path) -> None:
    (tmp_path / "watch.json").write_text(text)
    with pytest.raises(InvalidSettings) as caught:
        read_watch_list(tmp_path / "watch.json")
    assert "torpor watch add" in caught.value.hint


def file(path: str, **changes: object) -> WatchedFile:
    values: dict[str, object] = {
        "path": path, "folder": "/f", "signature": Signature(1, -(1 << 63), (1 << 63) - 1), "ctime_ns": -5,
        "state": "ok", "code": None, "detail": None, "backup_id": "b", "at": 2.0,
    }  # fmt: skip
    return WatchedFile(**values | changes)  # type: ignore[arg-type]


def test_files_are_remembered_with_their_event_or_not_at_all(tmp_path: Path) -> None:
    index = Index(tmp_path / "i")
    files = WatchedFiles(index)
    one, odd = file("/f/a.pt"), file("/f/\udcff.pt")
    event = {"at": 1.0, "level": "info", "kind": "imported", "detail": "x", "session_id": None, "backup_id": "b"}
    files.note(one, event)
    files.note(odd, None)
    files.note(file("/g/a.pt", folder="/g"), None)
    assert files.of("/f") == {one.path: one, odd.path: odd}
    assert [e["kind"] for e in index.recent_events()] == ["imported"]
    changed = file("/f/a.pt", state="failed", code="bad-input", detail="no", backup_id=None)
    with pytest.raises(Exception, match="level"):
        files.note(changed, event | {"level": None})
    assert files.of("/f")[one.path] == one
    files.note(changed, None)
    assert files.of("/f")[one.path] == changed
    files.forget([f"/f/{number}.pt" for number in range(1200)] + [odd.path])
    assert list(files.of("/f")) == [one.path]
    files.forget_folder("/f")
    assert files.of("/f") == {}
    assert len(files.of("/g")) == 1
    index.close()
