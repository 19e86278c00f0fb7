"""A double click on a file, by the programs that desktops do it with: a preview in the dashboard, and two buttons."""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.browser import axe_violations, new_tab
from support.commands import as_json, run
from support.daemon import Daemon
from support.desktop_bus import desktop_bus
from support.forked import clean_environment, start
from support.waiting import until
from torpor.client import connect
from torpor.desktop import registration
from torpor.state.errors import FileChanged

if TYPE_CHECKING:
    from playwright.sync_api import Browser

V1 = Path(__file__).parents[1] / "fixtures" / "v1"
TORPOR = (sys.executable, "-m", "torpor.cli.entry")
ODD_NAME = "--json 50% $(touch x) 'Tōkyō \"trip.qwnbak"
LONG_NAME = f"{'Ausflug-' * 12}.qwnbak"


class Desk:
    """A user's desktop without a screen: a folder of applications, and a browser that notes what it is to open."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.opened = folder, folder / "opened"
        browser = folder / "browser"
        browser.write_text(f'#!/bin/sh\nprintf "%s\\n" "$1" >> {shlex.quote(str(self.opened))}\n')
        browser.chmod(0o700)
        self.environ = clean_environment() | {
            "HOME": str(folder),
            "XDG_DATA_HOME": str(folder / "data"),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "XDG_RUNTIME_DIR": str(folder),
            "XDG_CURRENT_DESKTOP": "X-Generic",
            "DISPLAY": ":none",
            "BROWSER": str(browser),
            "TORPOR_HOME": str(home),
            "TORPOR_PORT": "0",
        }
        self.entry = registration.install(TORPOR, self.environ)[0]

    def open(self, *command: str | Path) -> list[str]:
        """Open files; return the links that the browser was given by then."""
        before = len(self.links())
        done = subprocess.run(command, env=self.environ, cwd=self.folder, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        until(lambda: len(self.links()) > before, "the browser")
        return self.links()[before:]

    def links(self) -> list[str]:
        return self.opened.read_text().splitlines() if self.opened.exists() else []

    def file(self, fixture: str, name: str) -> Path:
        path = self.folder / name
        path.write_bytes((V1 / fixture).read_bytes())
        return path


@pytest.fixture(scope="module")
def desk(shared_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(tmp_path_factory.mktemp("desk"), shared_daemon.home)


def test_a_double_click_shows_what_it_is_and_a_click_imports_it(
    desk: Desk, shared_daemon: Daemon, chromium: Browser
) -> None:
    from playwright.sync_api import expect

    good, bad = desk.file("code-8b.qwnbak", ODD_NAME), desk.file("bad-truncated.qwnbak", "torn.qwnbak")
    (link,) = desk.open("gio", "launch", desk.entry, good, bad)
    with new_tab(chromium, viewport={"width": 1280, "height": 900}, reduced_motion="reduce") as page:
        page.goto(link)
        card = page.locator(".card", has=page.get_by_role("heading", name=ODD_NAME))
        expect(card.get_by_role("status")).to_have_text("not imported yet")
        for words in (
            "qwen3-vl-8b-instruct",
            "3 messages, 1 image, 2 tensors",
            "总额为 42.00 欧元",
            "every byte is sound",
        ):
            expect(card).to_contain_text(words)
        torn = page.locator(".card", has=page.get_by_role("heading", name="torn.qwnbak"))
        expect(torn.get_by_role("alert")).to_contain_text("The file was cut short or altered")
        expect(torn.get_by_role("button")).to_have_count(0)
        assert axe_violations(page) == []
        session = "json-50-"
        before = shared_daemon.request("GET", "/v1/backups", params={"limit": 1000}).json()["backups"]
        assert not [each for each in before if session in each["session_id"]]
        card.get_by_role("button", name=f"Import {ODD_NAME}").click()
        expect(card.get_by_role("status")).to_have_text("imported")
        card.get_by_role("link", name="Open").click()
        page.wait_for_url("**/#/sessions/*/*")
        after = shared_daemon.request("GET", "/v1/backups", params={"limit": 1000}).json()["backups"]
        assert [each["model_name"] for each in after if session in each["session_id"]] == ["qwen3-vl-8b-instruct"]
    assert good.read_bytes() == (V1 / "code-8b.qwnbak").read_bytes()
    assert not (desk.folder / "x").exists()


def test_it_is_discarded_in_chinese_on_a_phone(desk: Desk, shared_daemon: Daemon, chromium: Browser) -> None:
    from playwright.sync_api import expect

    path = desk.file("spec-8b.qwnbak", LONG_NAME)
    before = shared_daemon.request("GET", "/v1/backups", params={"limit": 1000}).json()
    (link,) = desk.open("xdg-open", path)
    narrow = {"viewport": {"width": 360, "height": 800}, "color_scheme": "dark", "locale": "zh-CN"}
    with new_tab(chromium, reduced_motion="reduce", **narrow) as page:
        page.goto(link)
        card = page.locator(".card", has=page.get_by_role("heading", name=LONG_NAME))
        expect(card.get_by_role("status")).to_have_text("尚未导入")
        assert axe_violations(page) == []
        page.wait_for_function("document.documentElement.scrollWidth <= innerWidth")
        card.get_by_role("button", name=f"放弃 {LONG_NAME}").click()
        expect(card.get_by_role("status")).to_have_text("已放弃")
    assert shared_daemon.request("GET", "/v1/backups", params={"limit": 1000}).json() == before
    assert path.exists()


def test_a_double_click_starts_the_daemon_that_does_not_run(tmp_path: Path, home: Path) -> None:
    desk = Desk(tmp_path, home)
    (link,) = desk.open("gio", "open", desk.file("text-only.qwnbak", "a.qwnbak"))
    with connect(home=home) as keeper:
        try:
            assert link.startswith(keeper.api.status()["url"])
            assert [each["name"] for each in keeper.api.json("GET", "/v1/imports")["imports"]] == ["a.qwnbak"]
        finally:
            os.kill(keeper.api.status()["pid"], signal.SIGTERM)
    until(lambda: not (home / "daemon.json").exists(), "the end of the daemon")


def test_without_a_terminal_or_a_screen_nothing_is_imported(
    shared_daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "seen.qwnbak"
    path.write_bytes((V1 / "spec-8b.qwnbak").read_bytes())
    said = run(shared_daemon.home, "open", path)
    assert "every byte is sound" in said
    assert "Not imported" in said
    (value,) = as_json(shared_daemon.home, "inspect", path)["files"]
    assert (value["preview"]["shelf"]["standing"], value["preview"]["session_id"]) == ("new", "seen")
    (value,) = as_json(shared_daemon.home, "open", path, "--yes", "--session", "mine")["files"]
    assert (value["imported"]["session_id"], value["imported"]["known"]) == ("mine", False)
    found = as_json(shared_daemon.home, "inspect", path, V1 / "bad-bomb.qwnbak", "--session", "mine", status=2)["files"]
    assert found[0]["preview"]["shelf"]["standing"] == "known"
    assert found[1]["problem"]["code"] == "too-large"
    gone = tmp_path / "gone.qwnbak"
    both = as_json(shared_daemon.home, "open", "--dashboard", path, gone, status=2)
    assert [each["name"] for each in both["imports"]] == ["seen.qwnbak"]
    assert [(each["path"], each["problem"]["code"]) for each in both["failed"]] == [(str(gone), "bad-input")]
    link = run(shared_daemon.home, "open", "--print", path).strip()
    assert link.startswith(f"{shared_daemon.url}/#login=")
    assert "&to=%2Fopen%2F" in link


def test_files_are_inspected_without_a_daemon(home: Path) -> None:
    said = run(home, "inspect", V1 / "code-8b.qwnbak")
    assert "3 messages, 1 image, 2 tensors" in said
    assert "the daemon does not run" in said
    assert not home.exists()


def test_a_terminal_is_asked_of_each_file(shared_daemon: Daemon, tmp_path: Path) -> None:
    paths = [tmp_path / "refused.qwnbak", tmp_path / "changed.qwnbak", tmp_path / "wanted.qwnbak"]
    for path in paths:
        path.write_bytes((V1 / "text-only.qwnbak").read_bytes())
    ours, theirs = pty.openpty()
    environ = clean_environment() | {"TORPOR_HOME": str(shared_daemon.home), "TERM": "dumb"}
    command = subprocess.Popen([*TORPOR, "open", *paths], env=environ, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = b""
    for number, answer in enumerate((b"n", b"y", b"y")):
        while said.count(b"[y/N]") < 1 + number:
            said += os.read(ours, 4096)
        if number == 1:  # the answer is for what was shown
            paths[1].write_bytes((V1 / "spec-8b.qwnbak").read_bytes())
        os.write(ours, answer + b"\n")
    with contextlib.suppress(OSError):  # Linux says so that the last writer has gone
        while data := os.read(ours, 4096):
            said += data
    os.close(ours)
    assert command.wait(60) == FileChanged.exit_code, said
    found = shared_daemon.request("GET", "/v1/backups", params={"limit": 1000}).json()["backups"]
    assert {"refused", "changed", "wanted"} & {each["session_id"] for each in found} == {"wanted"}


def test_what_nobody_sees_in_a_terminal_is_a_notification(desk: Desk) -> None:
    path = desk.folder / "<b>gone & away"
    with desktop_bus() as bus:
        server = bus.notifications()
        environ = desk.environ | {"DBUS_SESSION_BUS_ADDRESS": bus.environment["DBUS_SESSION_BUS_ADDRESS"]}
        with tempfile.TemporaryFile() as errors:
            assert start(["open", "--", str(path)], environ, stdout=errors, stderr=errors).wait(60) == 2
        (shown,) = server.shown
    assert (shown.app, shown.title) == ("Torpor", "Torpor")
    assert "there is no file" in shown.body
    assert "&lt;b&gt;gone &amp; away" in shown.body  # a server may read markup
