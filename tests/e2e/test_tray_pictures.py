"""The tray on a real panel: what is drawn is looked at, what is clicked is done. `make pictures` keeps the pictures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image, ImageChops
from support.daemon import Daemon
from support.desktop_bus import DesktopBus, Entry, desktop_bus
from support.lived_in import live_in
from support.panel import Screen, screen
from support.s3_servers import Place
from support.waiting import until

FOLDER = os.environ.get("TORPOR_PICTURES")
pytestmark = [] if FOLDER else [pytest.mark.soak]
Box = tuple[int, int, int, int]
MARGIN = 24


@pytest.fixture
def lived(home: Path, moto: Place) -> Iterator[Daemon]:
    """A daemon with a bucket that has everything."""
    with Daemon(home, settings=moto.settings | {"TORPOR_TTL_DAYS": "30"}) as running:
        live_in(running, time.time(), tokens=40)
        until(lambda: running.request("GET", "/v1/status").json()["summary"]["kind"] == "safe")
        yield running


@contextmanager
def tray(daemon: Daemon, seen: Screen) -> Iterator[str]:
    """Run the tray on that screen, and return its name on the bus."""
    process = seen.run([sys.executable, "-m", "torpor.tray"], {"TORPOR_HOME": str(daemon.home)})
    yield until(seen.icons)[0]
    process.terminate()
    assert process.wait(60) == 0
    until(lambda: not seen.icons())


def what_changed(before: Image.Image, after: Image.Image) -> Box:
    box = ImageChops.difference(before, after).getbbox()
    assert box is not None, "nothing is to be seen of it"
    return box


def keep(shown: Image.Image, box: Box, name: str) -> None:
    """Write what was seen, without loss, and what is around it."""
    if FOLDER:
        left, top, right, bottom = box
        around = shown.crop((max(left - MARGIN, 0), max(top - MARGIN, 0), right, bottom + MARGIN)).convert("RGB")
        around.save(Path(FOLDER) / f"{name}.webp", lossless=True, quality=100, method=6)


def steps_up(menu: Entry, label: str) -> int:
    """Return how often the Up key is pressed from the last line to that one: it goes past what cannot be chosen."""
    lines = [line for line in menu.children if line.label and line.properties.get("enabled", True)]
    return len(lines) - 1 - lines.index(menu.find(label))


def middle(box: Box) -> tuple[int, int]:
    return (box[0] + box[2]) // 2, (box[1] + box[3]) // 2


def shows(bus: DesktopBus, icon: str, words: str) -> bool:
    return words in str(bus.item(icon, "Title"))


def test_on_a_dark_panel(lived: Daemon, tmp_path: Path) -> None:
    with desktop_bus() as bus, screen(bus, tmp_path) as seen:
        seen.panel(dark=True)
        empty = seen.still()
        with tray(lived, seen) as icon:
            until(lambda: shows(bus, icon, "sessions are safe"))
            at = what_changed(empty, seen.still())
            assert at[3] <= 34, f"the icon is not within the panel: {at}"
            # a line is chosen with the keyboard, and it is done: the entry is written
            seen.click(*middle(at))
            seen.still()
            seen.press("End", *["Up"] * steps_up(bus.menu(icon), "Start at login"), "Return")
            entry = tmp_path / "config" / "autostart" / "torpor-tray.desktop"
            until(entry.exists, "the menu was clicked, and nothing was done")
            until(lambda: bus.menu(icon).find("Start at login").properties["toggle-state"] == 1)
            closed = seen.still()
            seen.click(*middle(at))
            until(lambda: ImageChops.difference(closed, seen.still()).getbbox())
            seen.press("End", *["Up"] * steps_up(bus.menu(icon), "Recent sessions"), "Right", "Right")
            opened = seen.still()
            box = what_changed(empty, opened)
            assert box[3] - box[1] > 250, f"the menu is not open: {box}"
            keep(opened, box, "tray")


def test_on_a_light_panel(lived: Daemon, tmp_path: Path) -> None:
    with desktop_bus() as bus, screen(bus, tmp_path) as seen:
        seen.panel(dark=False)
        empty = seen.still()
        with tray(lived, seen) as icon:
            until(lambda: shows(bus, icon, "sessions are safe"))
            calm = seen.still()
            ask = {"label": "Qwen chat", "scopes": ["read", "save", "restore"]}
            httpx.post(f"{lived.url}/v1/pair", json=ask, headers={"Origin": "http://localhost:8000"})
            until(lambda: bus.item(icon, "Status") == "NeedsAttention")
            attention = seen.still()
            changed = what_changed(calm, attention)
            at = what_changed(empty, attention)
            assert changed[3] <= 34, f"another icon is not shown: {changed}"
            seen.click(*middle(at))
            until(lambda: ImageChops.difference(attention, seen.still()).getbbox())
            page = next(line for line in bus.menu(icon).children if line.label.startswith("Approve"))
            seen.press("End", *["Up"] * steps_up(bus.menu(icon), page.label), "Right", "Right")
            opened = seen.still()
            keep(opened, what_changed(empty, opened), "tray-light")


@pytest.mark.parametrize("backend", ["bus", "appindicator"])
def test_on_a_panel_that_takes_only_old_icons(daemon: Daemon, tmp_path: Path, backend: str) -> None:
    """XEmbed alone: AppIndicator shows it where this Python can have it; otherwise there is a word about it."""
    settings = {"TORPOR_HOME": str(daemon.home)}
    if backend == "appindicator":
        (tmp_path / "gi").symlink_to("/usr/lib/python3/dist-packages/gi")
        settings["PYTHONPATH"] = str(tmp_path)
    with desktop_bus() as bus, screen(bus, tmp_path) as seen:
        server = bus.notifications()
        seen.run(["trayer", "--edge", "top", "--align", "right", "--width", "400", "--widthtype", "pixel"])
        until(lambda: seen.owner("_NET_SYSTEM_TRAY_S0"))
        empty = seen.still()
        words = [sys.executable, "-m", "torpor.tray"]
        environment = {**os.environ, **seen.environment, **settings}
        told = subprocess.run([*words, "--check", "--json"], env=environment, capture_output=True, check=True)
        assert json.loads(told.stdout)["backend"] == backend
        process = seen.run(words, settings)
        if backend == "appindicator":
            until(lambda: ImageChops.difference(empty, seen.still()).getbbox(), "no icon is to be seen")
        else:
            until(lambda: "gir1.2-ayatanaappindicator3" in str(server.shown), "nothing was said")
        process.terminate()
        assert process.wait(60) == 0
