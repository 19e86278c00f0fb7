"""Status icons of ours on a private bus."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image
from torpor.tray.backend import load
from torpor.tray.choice import Choice

from support.desktop_bus import DesktopBus


def bus_icon_class() -> Any:
    """Return the icon's class, with pystray imported for it."""
    return load(Choice("bus")).icon_class


def square(red: int, size: int = 48) -> Image.Image:
    """An image whose colour tells which one it is."""
    return Image.new("RGBA", (size, size), (red, 20, 30, 255))


@contextmanager
def running(bus: DesktopBus, icon: Any) -> Iterator[Any]:
    """Run an icon on that bus, and see that it ends."""
    before = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
    os.environ.update(bus.environment)
    thread = threading.Thread(target=icon.run, name="tray")
    thread.start()
    try:
        yield icon
    finally:
        icon.stop()
        thread.join(60)
        assert not thread.is_alive(), "the icon did not stop"
        if before is None:
            del os.environ["DBUS_SESSION_BUS_ADDRESS"]
        else:
            os.environ["DBUS_SESSION_BUS_ADDRESS"] = before
