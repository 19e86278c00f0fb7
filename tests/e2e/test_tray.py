"""The tray as a process of its own: a real bus on one side of it, a real daemon on the other, and clicks in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import orjson
import pytest
from dbus_fast import Variant
from dbus_fast.annotations import DBusSignature, DBusStr
from dbus_fast.service import ServiceInterface, dbus_method, dbus_signal
from support.commands import as_json
from support.daemon import Daemon
from support.desktop_bus import DesktopBus, Entry, NotificationServer, Shown, desktop_bus
from support.forked import clean_environment
from support.ports import free_port
from support.waiting import until
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.client.provider import SessionTable
from torpor.desktop import autostart
from torpor.tray.colour_scheme import ASKED, PORTAL, PORTAL_PATH, SETTINGS
from torpor.tray.drawing import Panel, State, icons

MOST_KIB = 45 * 1024
BROWSER = '#!/bin/sh\nprintf %s "$1" > "$TORPOR_LINK.new" && mv "$TORPOR_LINK.new" "$TORPOR_LINK"\n'


class Portal(ServiceInterface):
    """What says whether the desktop is dark."""

    def __init__(self, scheme: int) -> None:
        super().__init__(SETTINGS)
        self.scheme = scheme

    @dbus_method()
    def Read(self, area: DBusStr, name: DBusStr) -> Annotated[Variant, DBusSignature("v")]:
        assert (area, name) == ASKED
        return Variant("v", Variant("u", self.scheme))

    @dbus_signal()
    def SettingChanged(self, change: list[Any]) -> Annotated[list[Any], DBusSignature("ssv")]:
        return change


@dataclass
class World:
    """A desktop with a tray icon, and its daemon, whose bucket cannot be reached."""

    folder: Path
    desk: DesktopBus
    daemon: Daemon
    server: NotificationServer
    process: subprocess.Popen[bytes]
    environment: dict[str, str]
    item: str = ""

    def menu(self) -> Entry:
        return self.desk.menu(self.item)

    def labels(self) -> list[str]:
        return [each.label for each in self.menu().all()]

    def sees(self, label: str, *, enabled: bool = True) -> Entry:
        """Wait for an entry."""

        def look() -> Entry | None:
            found = [each for each in self.menu().all() if each.label.startswith(label)]
            return next((each for each in found if each.properties.get("enabled", True) is enabled), None)

        return until(look, lambda: (label, self.labels()))

    def click(self, label: str) -> None:
        self.desk.event(self.item, self.sees(label).number)

    def shows(self, state: State, panel: Panel = "any") -> None:
        """Wait for the icon of a state."""
        drawn = tuple((image.width, image.height, pixels(image)) for image in icons(state, panel))
        until(lambda: icon_of(self) == drawn, lambda: (state, self.desk.item(self.item, "Title")))

    def told(self, title: str) -> Shown:
        """Wait for a notification."""
        return until(
            lambda: next((each for each in reversed(self.server.shown) if each.title == title), None),
            lambda: (title, [each.title for each in self.server.shown]),
        )

    def link(self) -> str:
        """Wait for what a browser was opened with."""
        where = self.folder / "link"
        until(where.exists, "no browser was opened")
        text = where.read_text()
        where.unlink()
        return text


def icon_of(world: World) -> tuple[tuple[int, int, bytes], ...]:
    return tuple((width, height, bytes(data)) for width, height, data in world.desk.item(world.item, "IconPixmap"))


def pixels(image: Any) -> bytes:
    """ARGB in network order, as StatusNotifierItem has it."""
    red, green, blue, alpha = image.split()
    return b"".join(bytes(each) for each in zip(*(band.tobytes() for band in (alpha, red, green, blue)), strict=True))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    nowhere = f"http://127.0.0.1:{free_port()}"
    keys = {"S3_ACCESS_KEY": "a", "S3_SECRET_KEY": "b", "S3_BUCKET": "c"}
    settings = {"PERSISTENCE_BACKEND": "s3", "S3_ENDPOINT": nowhere, "TORPOR_PORT": str(free_port()), **keys}
    with tempfile.TemporaryDirectory(prefix="torpor-") as name, desktop_bus() as desk:
        folder = Path(name)
        (folder / "browser").write_text(BROWSER)
        (folder / "browser").chmod(0o700)
        (folder / "run").mkdir(mode=0o700)
        with Daemon(folder / "home", settings=settings) as daemon:
            environment = clean_environment() | settings | desk.environment
            environment |= {"TORPOR_HOME": str(daemon.home), "XDG_CONFIG_HOME": str(folder / "config")}
            environment |= {"XDG_RUNTIME_DIR": str(folder / "run"), "TORPOR_LINK": str(folder / "link")}
            environment |= {"BROWSER": str(folder / "browser"), "MALLOC_ARENA_MAX": "1", "XDG_CURRENT_DESKTOP": "KDE"}
            watcher, server = desk.watch(), desk.notifications()
            process = subprocess.Popen([sys.executable, "-m", "torpor.tray"], env=environment, cwd="/")
            try:
                found = World(folder, desk, daemon, server, process, environment)
                found.item = desk.registered(watcher)
                yield found
            finally:
                process.kill()
                process.wait()


def test_it_says_what_the_daemon_says(world: World) -> None:
    with world.daemon.keeper() as keeper:
        for number in range(10):
            keeper.save(f"chat_{number}", PlainSession({"metadata": {}})).wait(60)
    world.daemon.request("PATCH", "/v1/sessions/chat_9", json={"title": "Hiking & _Yunnan_"})
    world.sees("Hiking & _Yunnan_")
    world.sees("Offline, 10 backups wait", enabled=False)
    assert world.menu().children[0].label == world.daemon.request("GET", "/v1/status").json()["summary"]["sentence"]
    assert world.desk.item(world.item, "Title") == "Torpor: Offline, 10 backups wait"
    recent = world.menu().find("Recent sessions")
    assert [each.label for each in recent.children] == ["Hiking & _Yunnan_", *(f"chat_{n}" for n in range(8, 1, -1))]
    world.sees("Back up now (no model is attached)", enabled=False)
    world.shows("offline")


def test_sync_is_paused_and_resumed(world: World) -> None:
    world.click("For 30 minutes")
    world.sees("Resume sync")
    assert world.daemon.request("GET", "/v1/sync").json()["state"] == "paused"
    world.sees("Sync is paused until", enabled=False)
    world.shows("paused")
    assert "Pause sync" not in world.labels()
    world.click("Resume sync")
    world.sees("Pause sync")
    world.shows("offline")


def test_what_somebody_else_restores_and_what_is_damaged_is_told(world: World) -> None:
    text = "what was said " * 4000  # more than a manifest holds: a blob
    with world.daemon.keeper() as keeper:
        saved = keeper.save("hurt", PlainSession({"text_context": {"messages": [text]}})).wait(60)
    world.sees("hurt")
    seen = {"mode": "full", "seconds": 0.25, "backup_id": saved.id}
    assert world.daemon.request("POST", "/v1/restored", json=seen).status_code == 204
    assert world.told("Restored elsewhere").body.startswith("hurt was woken (full in 0.25 s)")
    [blob] = world.daemon.blob_files()
    blob.chmod(0o600)
    blob.write_bytes(b"\0" * blob.stat().st_size)
    assert world.daemon.request("POST", "/v1/verify", json={"ref": saved.id}).status_code < 300
    notice = world.told("Backups are damaged")
    assert notice.hints["urgency"] == 2
    assert notice.body.startswith("1 backup is damaged.")
    world.shows("attention")
    world.desk.press(world.server, notice.number, "open /health")
    assert world.link().endswith("&to=%2Fhealth")
    assert world.daemon.request("DELETE", f"/v1/backups/{saved.id}").status_code == 204
    world.shows("offline")


def test_the_attached_process_saves_and_wakes(world: World) -> None:
    table = SessionTable(PlainTarget)
    table["awake"] = PlainSession({"metadata": {}})
    with world.daemon.keeper() as keeper, keeper.attach(table, name="server"):
        world.click("Back up now")
        assert world.told("Backed up").body == "1 session is backed up."
        world.sees("awake")
        del table["awake"]
        newest = world.menu().find("awake")
        world.desk.event(world.item, newest.find("Restore").number)
        until(lambda: "awake" in table)
        assert "awake: " in world.told("Restored").body
    world.sees("Back up now (no model is attached)", enabled=False)
    assert [each.title for each in world.server.shown].count("Restored elsewhere") == 1  # not this one


def test_pages_are_let_in_by_their_code_and_kept_out(world: World) -> None:
    first, second = (ask(world, f"https://{name}.example") for name in ("a", "b"))
    world.shows("attention")
    assert world.desk.item(world.item, "Status") == "NeedsAttention"
    asked = until(lambda: {each.body.split()[0]: each for each in world.server.shown if "asks" in each.title} or None)
    assert first["code"] in asked["https://a.example"].body
    assert "approve" not in " ".join(asked["https://a.example"].actions).lower()
    world.click(f"It shows {first['code']}: approve")
    world.told("Approved")
    assert claim(world, "https://a.example", first)["token"]
    page = until(lambda: next((s for s in world.server.shown if second["code"] in s.body), None))
    world.desk.press(world.server, page.number, f"deny {second['code']}")
    world.told("Denied")
    assert claim(world, "https://b.example", second)["state"] == "denied"
    world.shows("offline")


def ask(world: World, origin: str) -> dict[str, Any]:
    body = {"label": "Chat", "scopes": ["save"]}
    return dict(httpx.post(f"{world.daemon.url}/v1/pair", json=body, headers={"Origin": origin}).json())


def claim(world: World, origin: str, asked: dict[str, Any]) -> dict[str, Any]:
    body = {"secret": asked["secret"]}
    return dict(httpx.post(f"{world.daemon.url}/v1/pair/claim", json=body, headers={"Origin": origin}).json())


def test_the_dashboard_opens_where_it_should(world: World) -> None:
    world.click("Settings")
    link = world.link()
    assert link.startswith(f"{world.daemon.url}/#login=")
    assert link.endswith("&to=%2Fsettings")
    code = link.partition("#login=")[2].partition("&")[0]
    assert httpx.post(f"{world.daemon.url}/v1/login", json={"code": code}).status_code == 201
    session = world.menu().find("Hiking & _Yunnan_")
    world.desk.event(world.item, session.find("Open in the dashboard").number)
    assert world.link().endswith("&to=%2Fsessions%2Fchat_9")


def test_the_icon_goes_with_the_colours_of_the_desktop(world: World) -> None:
    portal = Portal(1)
    world.desk.serve(PORTAL, PORTAL_PATH, portal)  # it comes late
    world.shows("offline", "dark")
    world.desk.emit(portal.SettingChanged, [*ASKED, Variant("u", 2)])
    world.shows("offline", "light")
    world.desk.emit(portal.SettingChanged, [*ASKED, Variant("u", 0)])
    world.shows("offline")


def test_it_starts_at_login_once_that_is_asked_for(world: World) -> None:
    assert not autostart.enabled(autostart.TRAY_FILE, world.environment)
    world.click("Start at login")
    until(lambda: world.menu().find("Start at login").properties.get("toggle-state") == 1)
    text = autostart.place(autostart.TRAY_FILE, world.environment).read_text()
    assert " tray\n" in text
    assert f"Exec=env TORPOR_HOME={world.environment['TORPOR_HOME']} /" in text  # a login knows no other way
    world.click("Start at login")
    until(lambda: world.menu().find("Start at login").properties.get("toggle-state") == 0)
    assert not autostart.enabled(autostart.TRAY_FILE, world.environment)


def test_there_is_one_icon_a_home(world: World) -> None:
    again = subprocess.run([sys.executable, "-m", "torpor.tray"], env=world.environment, capture_output=True, text=True)
    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout == f"The tray icon is there already (process {world.process.pid}).\n"


def test_check_says_what_an_icon_would_find(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, world.environment[name])
    (tmp_path / "torpor").mkdir()
    (tmp_path / "torpor" / "__init__.py").write_text("raise SystemExit('what lies in a folder is not run there')")
    found = as_json(world.daemon.home, "tray", "--check", cwd=tmp_path)
    status = world.daemon.request("GET", "/v1/status").json()
    assert found == {
        "backend": "bus",
        "reach": "host",
        "notice": None,
        "running": world.process.pid,
        "at_login": False,
        "daemon": status["version"],
        "sentence": status["summary"]["sentence"],
    }


def test_the_daemon_is_stopped_and_started(world: World) -> None:
    world.click("Stop the daemon")
    assert world.daemon.join() == 0
    world.sees("The daemon does not run", enabled=False)
    world.shows("away")
    world.click("Start the daemon")
    world.sees("Offline", enabled=False)
    listening = orjson.loads((world.daemon.home / "daemon.json").read_bytes())
    assert listening["pid"] != world.daemon.listening["pid"]
    world.click("Stop the daemon")
    world.sees("The daemon does not run", enabled=False)
    until(lambda: not Path(f"/proc/{listening['pid']}").exists(), "the daemon is a zombie, or still runs")


def test_it_is_small_and_ends_when_it_is_told_to(world: World) -> None:
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{world.process.pid}/status").read_text().splitlines() if ":" in line
    )
    assert int(status["VmRSS"].split()[0]) < MOST_KIB
    os.kill(world.process.pid, signal.SIGTERM)
    assert world.process.wait(60) == 0
