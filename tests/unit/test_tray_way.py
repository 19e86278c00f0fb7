"""The way to the tray: decided by what is there, before pystray is imported; and what it is told and draws on its way."""

from __future__ import annotations

import sys
import types
from typing import Any, NoReturn

import pytest
from PIL import Image
from torpor.tray import backend, probes, session_bus
from torpor.tray.choice import NO_BUS, XEMBED_ONLY, Choice, Host, Legacy, choose_way
from torpor.tray.notifications import Notice, Notifications, spoken
from torpor.tray.pixmaps import pixmap, pixmaps
from torpor.tray.session_bus import LONGEST_RETRY_S, address, retry_in


def never() -> NoReturn:
    raise AssertionError("it was looked at, and was not needed")


@pytest.mark.parametrize(
    ("host", "legacy", "chosen"),
    [
        ("no-watcher", Legacy(), Choice("bus")),
        ("no-host", Legacy(), Choice("bus")),
        ("no-watcher", Legacy(tray=False, appindicator=True), Choice("bus")),
        ("no-watcher", Legacy(tray=True, appindicator=True), Choice("appindicator")),
        ("no-host", Legacy(tray=True, appindicator=True), Choice("appindicator")),
        ("no-host", Legacy(tray=True, appindicator=False), Choice("bus", XEMBED_ONLY)),
    ],
)
def test_where_nobody_draws_on_the_bus(host: Host, legacy: Legacy, chosen: Choice) -> None:
    assert choose_way("linux", lambda: host, lambda: legacy) == chosen


def test_what_is_not_needed_is_not_looked_at() -> None:
    assert choose_way("linux", lambda: "host", never) == Choice("bus")
    assert choose_way("linux", lambda: "no-bus", never) == Choice("bus", NO_BUS)
    assert choose_way("win32", never, never) == Choice("win32")
    assert choose_way("darwin", never, never) == Choice("darwin")


def test_a_display_that_is_not_there_has_no_tray() -> None:
    assert probes.legacy({}) == Legacy()
    assert probes.legacy({"DISPLAY": ":63999"}).tray is False


def test_a_bus_that_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    assert probes.host({}) == "no-bus"
    assert probes.host({"XDG_RUNTIME_DIR": str(tmp_path)}) == "no-bus"
    assert probes.host({"DBUS_SESSION_BUS_ADDRESS": "nonsense"}) == "no-bus"
    assert probes.host({"DBUS_SESSION_BUS_ADDRESS": "autolaunch:"}) == "no-bus"


def test_a_bus_that_never_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    import socket

    monkeypatch.setattr(session_bus, "CONNECT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "bus"))
        silent.listen()
        assert probes.host({"XDG_RUNTIME_DIR": str(tmp_path)}) == "no-bus"


def test_what_answers_and_is_no_bus(tmp_path: Any) -> None:
    import socket
    import threading

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "bus"))
        server.listen()

        def answer() -> None:
            for nonsense in (b"\xff\xfe\r\n", b"OK\r\n" * 3, b"REJECTED\r\n", b""):
                with server.accept()[0] as taken:
                    taken.recv(100)
                    taken.sendall(nonsense)

        thread = threading.Thread(target=answer)
        thread.start()
        for _ in range(4):
            assert probes.host({"XDG_RUNTIME_DIR": str(tmp_path)}) == "no-bus"
        thread.join()


def fake_pystray(icon: type) -> types.ModuleType:
    module = types.ModuleType("pystray")
    module.Icon = icon  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_elsewhere_pystrays_own(monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    class Icon:
        HAS_NOTIFICATION = True
        said: tuple[str, str | None] | None = None

        def notify(self, message: str, title: str | None = None) -> None:
            self.said = (message, title)

    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setitem(sys.modules, "pystray", fake_pystray(Icon))
    found = backend.choose({})
    assert (found.name, found.icon_class, found.notice) == (platform, Icon, None)
    icon = found.icon_class()
    Notifications(icon).post("k", "Damage", "One backup", "critical", {"yes": "Look"}, never)
    assert icon.said == ("One backup", "Damage")
    icon.said = None
    icon.HAS_NOTIFICATION = False
    Notifications(icon).post("k", "Damage")
    assert icon.said is None


def test_gtk_that_fails_after_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Breaks(types.ModuleType):
        def __getattr__(self, name: str) -> NoReturn:
            raise ValueError("Namespace Gtk not available")

    real = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "pystray"}
    ours = sys.modules.pop("torpor.tray.bus_icon", None)
    monkeypatch.setitem(sys.modules, "pystray", Breaks("pystray"))
    found = backend.load(Choice("appindicator"))
    assert (found.name, found.icon_class.__name__, found.notice) == ("bus", "BusIcon", XEMBED_ONLY)
    sys.modules.update(real)
    del sys.modules["torpor.tray.bus_icon"]
    if ours is not None:
        sys.modules["torpor.tray.bus_icon"] = ours


def test_an_appindicator_ends_where_nobody_shows_notifications(monkeypatch: pytest.MonkeyPatch) -> None:
    class Icon:
        def _finalize(self) -> NoReturn:
            raise RuntimeError("no such method: CloseNotification")

    monkeypatch.setitem(sys.modules, "pystray", fake_pystray(Icon))
    backend.load(Choice("appindicator")).icon_class()._finalize()


def test_the_choice_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.delenv("PYSTRAY_BACKEND", raising=False)
    backend.load(Choice("bus"))
    assert "PYSTRAY_BACKEND" not in os.environ
    monkeypatch.setenv("PYSTRAY_BACKEND", "gtk")
    backend.load(Choice("bus"))
    assert os.environ["PYSTRAY_BACKEND"] == "gtk"


def test_where_the_bus_listens() -> None:
    assert address({"DBUS_SESSION_BUS_ADDRESS": "unix:path=/a", "XDG_RUNTIME_DIR": "/run"}) == "unix:path=/a"
    assert address({"XDG_RUNTIME_DIR": "/run/user/1000"}) == "unix:path=/run/user/1000/bus"
    assert address({}) is None


def test_a_lost_bus_is_tried_more_and_more_seldom() -> None:
    waits = [retry_in(failures, 0.999) for failures in range(12)]
    assert waits == sorted(waits)
    assert waits[0] < 1.01
    assert waits[-1] <= LONGEST_RETRY_S
    assert retry_in(10_000, 0.0) == LONGEST_RETRY_S / 2


def test_pixmaps_are_argb_in_network_order() -> None:
    assert pixmap(Image.new("RGBA", (1, 2), (1, 2, 3, 4))) == (1, 2, bytes([4, 1, 2, 3] * 2))
    assert pixmap(Image.new("RGB", (1, 1), (1, 2, 3))) == (1, 1, bytes([255, 1, 2, 3]))
    assert [size[:2] for size in pixmaps([Image.new("L", (64, 32))])] == [
        (16, 8), (22, 11), (24, 12), (32, 16), (48, 24), (64, 32),
    ]  # fmt: skip
    assert [size[:2] for size in pixmaps([Image.new("RGBA", (16, 16)), Image.new("RGBA", (22, 22))])] == [
        (16, 16),
        (22, 22),
    ]


def test_a_notification_as_its_server_takes_it() -> None:
    notice = Notice("k", "R&D <b>", "a <img src=x> & b\0", actions={"yes": "Allow"})
    assert spoken(notice, frozenset()) == ("R&D <b>", "a <img src=x> & b", [])
    assert spoken(notice, frozenset({"actions", "body-markup"})) == (
        "R&D <b>",
        "a &lt;img src=x&gt; &amp; b",
        ["yes", "Allow"],
    )
