"""A screen that nobody sees, with a real panel on it: Xvfb and xfce4-panel, on a bus of their own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops, ImageGrab

from support.desktop_bus import DesktopBus, die_with_us
from support.waiting import until

SIZE = (1100, 600)
_PANEL = """<?xml version="1.0" encoding="UTF-8"?>
<channel name="xfce4-panel" version="1.0">
  <property name="configver" type="int" value="2"/>
  <property name="panels" type="array">
    <value type="int" value="1"/>
    <property name="dark-mode" type="bool" value="{dark}"/>
    <property name="panel-1" type="empty">
      <property name="position" type="string" value="p=6;x=0;y=0"/>
      <property name="position-locked" type="bool" value="true"/>
      <property name="length" type="double" value="100"/>
      <property name="size" type="uint" value="32"/>
      <property name="icon-size" type="uint" value="22"/>
      <property name="plugin-ids" type="array">
        <value type="int" value="1"/><value type="int" value="2"/>
      </property>
    </property>
  </property>
  <property name="plugins" type="empty">
    <property name="plugin-1" type="string" value="separator">
      <property name="expand" type="bool" value="true"/>
      <property name="style" type="uint" value="0"/>
    </property>
    <property name="plugin-2" type="string" value="systray">
      <property name="square-icons" type="bool" value="true"/>
    </property>
  </property>
</channel>
"""


class Screen:
    """An X display. What is started on it ends with it."""

    def __init__(self, bus: DesktopBus, folder: Path) -> None:
        self.bus, self.folder = bus, folder
        self.display = ""
        self._running: list[subprocess.Popen[bytes]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What a program on this screen has to know."""
        return {
            **self.bus.environment,
            "DISPLAY": self.display,
            "XDG_CONFIG_HOME": str(self.folder / "config"),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "XDG_CURRENT_DESKTOP": "XFCE",
            "NO_AT_BRIDGE": "1",
            "GTK_THEME": "",
        }

    def start(self) -> None:
        """Start the X server on a display that it chooses itself."""
        reading, writing = os.pipe()
        words = [
            "Xvfb",
            "-displayfd",
            str(writing),
            "-screen",
            "0",
            f"{SIZE[0]}x{SIZE[1]}x24",
            "-nolisten",
            "tcp",
            "-noreset",
        ]
        self._start(words, {}, pass_fds=[writing])
        os.close(writing)
        with open(reading, "rb") as told:
            self.display = f":{int(told.readline())}"
        self.paint(0x4A5568)

    def run(self, words: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start a program on the screen."""
        return self._start(words, self.environment | dict(environment or {}))

    def _start(self, words: Sequence[str], environment: Mapping[str, str], **options: Any) -> subprocess.Popen[bytes]:
        with open(self.folder / f"{Path(words[0]).name}.log", "ab") as log:
            process = subprocess.Popen(
                list(words),
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=die_with_us,
                **options,
            )
        self._running.append(process)
        return process

    def panel(self, *, dark: bool = True) -> None:
        """Start the panel, and wait until it takes icons."""
        channel = self.folder / "config" / "xfce4" / "xfconf" / "xfce-perchannel-xml" / "xfce4-panel.xml"
        channel.parent.mkdir(parents=True, exist_ok=True)
        channel.write_text(_PANEL.format(dark=str(dark).lower()))
        self.run([next(str(path) for path in Path("/usr/lib").glob("**/xfconfd"))])
        until(lambda: self.bus.owns("org.xfce.Xfconf"), "xfconfd did not start")
        self.run(["xfce4-panel", "--disable-wm-check"])
        until(lambda: self.bus.owns("org.kde.StatusNotifierWatcher"), "the panel did not start")

    def icons(self) -> list[str]:
        """Return the icons that the panel knows, as names on the bus."""
        watcher = "org.kde.StatusNotifierWatcher"
        asked = (watcher, "RegisteredStatusNotifierItems")
        properties = "org.freedesktop.DBus.Properties"
        found = self.bus.call(watcher, "/StatusNotifierWatcher", properties, "Get", "ss", asked)[0].value
        return [item.split("/")[0] for item in found]

    def shot(self) -> Image.Image:
        """Return what is on the screen."""
        return ImageGrab.grab(xdisplay=self.display)

    def still(self) -> Image.Image:
        """Return what is on the screen once it no longer moves."""
        pictures = [self.shot()]

        def unmoved() -> bool:
            time.sleep(0.3)
            pictures.append(self.shot())
            return ImageChops.difference(*pictures[-2:]).getbbox() is None

        until(unmoved)
        return pictures[-1]

    def owner(self, selection: str) -> bool:
        """Tell whether somebody owns a selection."""
        from Xlib.display import Display

        display = Display(self.display)
        owner = display.get_selection_owner(display.intern_atom(selection))
        display.close()
        return bool(owner)

    def paint(self, colour: int) -> None:
        """Give the desktop a colour."""
        from Xlib.display import Display

        display = Display(self.display)
        root = display.screen().root
        root.change_attributes(background_pixel=colour)
        root.clear_area()
        display.sync()
        display.close()

    def click(self, x: int, y: int) -> None:
        """Click there with the left button."""
        from Xlib import X

        self._do((X.MotionNotify, 0, x, y), (X.ButtonPress, 1, x, y), (X.ButtonRelease, 1, x, y))

    def press(self, *keys: str) -> None:
        """Press keys, by their names in X."""
        from Xlib import XK, X
        from Xlib.display import Display

        display = Display(self.display)
        codes = [display.keysym_to_keycode(XK.string_to_keysym(key)) for key in keys]
        display.close()
        for code in codes:
            self._do((X.KeyPress, code, 0, 0), (X.KeyRelease, code, 0, 0))

    def _do(self, *events: tuple[int, int, int, int]) -> None:
        from Xlib.display import Display
        from Xlib.ext import xtest

        display = Display(self.display)
        for kind, detail, x, y in events:
            xtest.fake_input(display, kind, detail, x=x, y=y)
            display.sync()
        display.close()

    def close(self) -> None:
        for process in reversed(self._running):
            process.terminate()
        for process in reversed(self._running):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def screen(bus: DesktopBus, folder: Path) -> Iterator[Screen]:
    """A screen that is there."""
    found = Screen(bus, folder)
    try:
        found.start()
        yield found
    finally:
        found.close()
