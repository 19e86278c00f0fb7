"""The icon on a real bus: a watcher, a host and a notification server meet it as a desktop does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.desktop_bus import DesktopBus, desktop_bus
from support.tray_icons import bus_icon_class, running, square
from support.waiting import until


@pytest.fixture
def desk() -> Iterator[DesktopBus]:
    with desktop_bus() as bus:
        yield bus


def new_icon(menu: Any = None) -> Any:
    return bus_icon_class()("torpor", square(1), "All is safe", menu)


def test_a_host_draws_and_clicks_it(desk: DesktopBus) -> None:
    icon_class = bus_icon_class()
    import pystray

    clicked: list[str] = []
    menu = pystray.Menu(
        pystray.MenuItem("All 14 sessions_are safe", None, enabled=False),
        pystray.Menu.SEPARATOR,
        pystray.MenuItem("Back up now", lambda: clicked.append("back up")),
        pystray.MenuItem("Pause", pystray.Menu(pystray.MenuItem("1 h", lambda: clicked.append("pause")))),
    )
    watcher = desk.watch()
    with running(desk, icon_class("torpor", square(1), "All is safe", menu)) as icon:
        item = desk.registered(watcher)
        assert desk.item(item, "Title") == "All is safe"
        assert [width for width, _, _ in desk.item(item, "IconPixmap")] == [16, 22, 24, 32, 48]
        desk.click(item, "Back up now")
        desk.click(item, "1 h")
        until(lambda: clicked == ["back up", "pause"], lambda: clicked)
        icon.set_state([square(2, 16), square(2, 32)], "Offline", attention=True)
        until(lambda: desk.item(item, "Status") == "NeedsAttention")
        assert [(w, h, bytes(data[:4])) for w, h, data in desk.item(item, "IconPixmap")] == [
            (16, 16, bytes([255, 2, 20, 30])),
            (32, 32, bytes([255, 2, 20, 30])),
        ]
        assert desk.said("NewStatus") == [["NeedsAttention"]]
