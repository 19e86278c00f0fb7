"""What is changed on the screen, and how: less is more on a bus, and macOS wants it in its main thread."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torpor.client.api import Api
from torpor.state.errors import DaemonNotRunning, TorporError, Unauthorized
from torpor.state.summary import Facts, summarise
from torpor.tray import app, surroundings
from torpor.tray.backend import load
from torpor.tray.choice import Choice
from torpor.tray.deeds import Scene, World, do
from torpor.tray.instance import Instance
from torpor.tray.link import Away, Link, Word
from torpor.tray.model import Model, Session
from torpor.tray.notices import Notice
from torpor.tray.running import on_main_of
from torpor.tray.screen import LONGEST_TITLE, Screen
from torpor.tray.view import Deed, view

NOW = 1_800_000_000.0
THERE = Model(link="there", summary=summarise(Facts(sessions=2, last_backup_at=NOW, sync="idle")))


class PlainIcon:
    """What pystray has on Windows and macOS: no more than its own properties. It notes what is set."""

    def __init__(self) -> None:
        object.__setattr__(self, "changes", [])

    def __setattr__(self, name: str, value: Any) -> None:
        self.changes.append((name, value))

    def stop(self) -> None:
        self.changes.append(("stop", None))


class Posts:
    def __init__(self) -> None:
        self.posted: list[tuple[Any, ...]] = []

    def post(self, *what: Any) -> None:
        self.posted.append(what)


@pytest.fixture(scope="module", autouse=True)
def _pystray() -> None:
    load(Choice("bus"))  # it is imported by the backend, without a display


def test_only_what_is_other_than_before_is_changed() -> None:
    icon, clicked = PlainIcon(), list[Deed]()
    screen = Screen(icon, Posts(), clicked.append)
    screen.show(view(THERE, NOW), "any")
    assert [name for name, _ in icon.changes] == ["icon", "title", "menu"]
    screen.show(view(THERE, NOW), "any")
    assert len(icon.changes) == 3
    screen.show(view(replace(THERE, sessions=(Session("a", None, "01"),)), NOW), "any")
    assert [name for name, _ in icon.changes[3:]] == ["menu"]
    screen.show(view(replace(THERE, sessions=(Session("a", None, "01"),)), NOW), "dark")
    assert [name for name, _ in icon.changes[4:]] == ["icon", "title"]
    menu = icon.changes[3][1]
    [settings] = [item for item in menu if item.text == "Settings"]
    settings(icon)
    assert clicked == [("open", "/settings")]


def test_one_image_and_a_short_title_where_more_is_not_taken() -> None:
    icon = PlainIcon()
    facts = Facts(asking=("https://" + "long-" * 40 + ".example",))
    Screen(icon, Posts(), lambda _: None).show(view(Model(link="there", summary=summarise(facts)), NOW), "dark")
    found = dict(icon.changes)
    assert found["icon"].size == (32, 32)
    assert len(found["title"]) == LONGEST_TITLE


def test_on_macos_the_main_thread_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[Callable[[], None]] = []
    helper = ModuleType("PyObjCTools.AppHelper")
    helper.callAfter = waiting.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "PyObjCTools", ModuleType("PyObjCTools"))
    monkeypatch.setitem(sys.modules, "PyObjCTools.AppHelper", helper)
    icon, posts = PlainIcon(), Posts()
    screen = Screen(icon, posts, lambda _: None, on_main_of("darwin"))
    screen.show(view(THERE, NOW), "any")
    screen.post(Notice("a", "A", "b"))
    screen.stop()
    assert (icon.changes, posts.posted) == ([], [])
    for work in waiting:
        work()
    assert [name for name, _ in icon.changes] == ["icon", "title", "menu", "stop"]
    assert posts.posted == [("a", "A", "b", "normal", {}, None)]
    on_main_of("win32")(lambda: icon.stop())
    assert icon.changes[-2:] == [("stop", None)] * 2


def test_a_button_of_a_notification_is_a_click() -> None:
    posts, clicked = Posts(), list[Deed]()
    Screen(PlainIcon(), posts, clicked.append).post(
        Notice("k", "Title", "body", "critical", (("Look at it", ("open", "/health")),))
    )
    [(*what, actions, on_action)] = posts.posted
    assert what == ["k", "Title", "body", "critical"]
    assert actions == {"open /health": "Look at it"}
    on_action("open /health")
    assert clicked == [("open", "/health")]


def test_the_link_tries_again_and_tells_of_each_failure() -> None:
    heard, times = list[Word](), threading.Semaphore(0)

    def connect() -> Api:
        times.release()
        raise DaemonNotRunning("nobody is there") if len(heard) < 2 else Unauthorized("another token")

    link = Link(connect, heard.append)
    link.start()
    for _ in range(3):
        assert times.acquire(timeout=60)
        link.retry()
    link.stop()
    assert [type(each.error) for each in heard[:3] if isinstance(each, Away)][:2] == [DaemonNotRunning] * 2
    assert all(isinstance(each, Away) for each in heard)


def test_what_fails_is_told_with_what_to_do(tmp_path: Path) -> None:
    ended = list[int]()
    world = World({"XDG_CONFIG_HOME": str(tmp_path / "file" / "x")}, print, lambda: lambda: None, ended.append)
    (tmp_path / "file").write_text("")
    scene = Scene(world, Model(), None, lambda _: False)
    for deed in (("back-up",), ("restore", "a"), ("open", "/"), ("stop",), ("deny", "482-193")):
        notice = do(deed, scene)
        assert notice is not None
        assert notice.title == DaemonNotRunning.title
        assert DaemonNotRunning.default_hint in notice.body
    refused = do(("at-login", "on"), scene)
    assert refused is not None
    assert refused.title == "That did not work"
    about = do(("about",), scene)
    assert about is not None
    assert "No daemon runs" in about.body
    assert ended == []


def test_a_daemon_that_ends_while_it_starts_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "own_command", lambda *_: ("/bin/sh", "-c", "echo 'error: no  disk'; exit 4"))
    home = tmp_path / "new" / "home"
    environ = {"TORPOR_HOME": str(home), "XDG_CONFIG_HOME": str(tmp_path), "PATH": ""}
    world = World(environ, print, lambda: surroundings.start_daemon(environ), print)
    found = do(("start",), Scene(world, Model(), None, threading.Event().wait))
    assert found is not None
    assert (found.title, found.body) == ("The daemon did not start", "error: no disk")
    assert do(("start",), Scene(world, Model(), None, lambda _: True)) is None
    modes = [path.stat().st_mode & 0o777 for path in (home, home / "logs", home / "logs" / "start.log")]
    assert modes == [0o700, 0o700, 0o600]


def test_a_lock_is_one_homes_and_ends_with_its_holder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    first, other = Instance("/a", environ), Instance("/b", environ)
    assert (first.take(), other.take()) == (True, True)
    second = Instance("/a", environ)
    assert (second.take(), second.pid) == (False, os.getpid())
    for each in (first, other, second):
        each.close()
    again = Instance("/a", environ)
    assert again.pid is None
    again.close()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    bare = Instance("/a", {})
    bare.close()
    [made] = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert made.stat().st_mode & 0o777 == 0o700


def test_an_icon_that_a_former_desktop_left_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    left = Instance("/a", environ | {"DBUS_SESSION_BUS_ADDRESS": "unix:abstract=1"})
    assert left.take()
    ended: list[tuple[int, int]] = []

    def kill(pid: int, number: int) -> None:
        ended.append((pid, number))
        left.close()

    monkeypatch.setattr(os, "kill", kill)
    new = Instance("/a", environ | {"DBUS_SESSION_BUS_ADDRESS": "unix:abstract=2"})
    assert new.take()
    assert ended == [(os.getpid(), signal.SIGTERM)]
    third = Instance("/a", environ | {"DBUS_SESSION_BUS_ADDRESS": "unix:abstract=2"})
    assert not third.take()
    assert len(ended) == 1
    for each in (new, third):
        each.close()


def test_a_defect_does_not_end_the_icon(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tried = threading.Semaphore(0)

    def connect() -> Api:
        tried.release()
        raise ZeroDivisionError

    icon = PlainIcon()
    tray = app.Tray(connect, World({"XDG_CONFIG_HOME": str(tmp_path)}, print, lambda: lambda: None, print))
    tray.screen = Screen(icon, Posts(), lambda _: None)
    tray.start()
    for _ in range(2):
        assert tried.acquire(timeout=60)
    tray.quit()
    tray.join()
    titles = [value for name, value in icon.changes if name == "title"]
    assert titles == ["Torpor: Connecting…", f"Torpor: {TorporError.title}"]
    assert icon.changes[-1] == ("stop", None)
    assert "cannot be listened to" in caplog.text
