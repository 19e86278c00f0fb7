"""The icon on a real bus: a watcher, a host and a notification server meet it as a desktop does, or do not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from dbus_fast import DBusError, Variant
from support.desktop_bus import (
    MENU,
    NOTIFICATIONS,
    NOTIFICATIONS_PATH,
    PROPERTIES,
    WATCHER,
    WATCHER_PATH,
    DesktopBus,
    desktop_bus,
)
from support.tray_icons import bus_icon_class, running, square
from support.waiting import until
from torpor.tray import session_bus
from torpor.tray.notifications import Notifications


class Act:
    """What a line does, known by its key whatever the line says."""

    def __init__(self, key: str, done: list[str]) -> None:
        self.key, self.done = key, done

    def __call__(self, icon: Any, item: Any) -> None:
        self.done.append(self.key)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_bus, "FIRST_RETRY_S", 0.02)
    monkeypatch.setattr(session_bus, "LONGEST_RETRY_S", 0.2)
    monkeypatch.setattr(bus_icon_class(), "HOST_GRACE_S", 0.1)


@pytest.fixture
def desk() -> Iterator[DesktopBus]:
    with desktop_bus() as bus:
        yield bus


def new_icon(menu: Any = None, title: str = "All is safe") -> Any:
    return bus_icon_class()("torpor", square(1), title, menu)


def refused(desk: DesktopBus, item: str, member: str, signature: str, *body: Any) -> str:
    with pytest.raises(DBusError) as caught:
        desk.call(item, "/MenuBar", MENU, member, signature, body)
    return str(caught.value.type)


def test_a_host_draws_and_clicks_it(desk: DesktopBus) -> None:
    bus_icon_class()
    from pystray import Menu, MenuItem

    done: list[str] = []
    lives = {"hour": False, "bright": True}
    menu = Menu(
        MenuItem("All 14 sessions_are safe", None, enabled=False),
        Menu.SEPARATOR,
        MenuItem("Back up now", Act("back up", done), default=True),
        MenuItem("Hidden", Act("hidden", done), visible=False),
        MenuItem(
            "Pause",
            Menu(
                MenuItem("1 h", Act("hour", done), checked=lambda item: lives["hour"], radio=True),
                MenuItem("Bright", Act("bright", done), checked=lambda item: lives["bright"]),
            ),
        ),
        MenuItem("a\0b\ud800c", Act("odd", done)),
        MenuItem("Fails", lambda: 1 / 0),
    )
    watcher = desk.watch()
    with running(desk, new_icon(menu)) as icon:
        item = desk.registered(watcher)
        seen = {name: desk.item(item, name) for name in ("Id", "Category", "Title", "Status", "ItemIsMenu", "IconName")}
        assert seen == {
            "Id": "torpor",
            "Category": "ApplicationStatus",
            "Title": "All is safe",
            "Status": "Active",
            "ItemIsMenu": True,
            "IconName": "",
        }
        assert [(width, height) for width, height, _ in desk.item(item, "IconPixmap")] == [
            (size, size) for size in (16, 22, 24, 32, 48)
        ]
        read = desk.menu(item)
        assert [line.properties for line in read.children] == [
            {"label": "All 14 sessions__are safe", "enabled": False},
            {"type": "separator"},
            {"label": "Back up now"},
            {"label": "Pause", "children-display": "submenu"},
            {"label": "ab?c"},
            {"label": "Fails"},
        ]
        pause = read.find("Pause")
        assert [line.properties for line in pause.children] == [
            {"label": "1 h", "toggle-type": "radio", "toggle-state": 0},
            {"label": "Bright", "toggle-type": "checkmark", "toggle-state": 1},
        ]
        # a host may ask for less: one level, some properties, one part, one line, one property
        assert [each.children for each in desk.menu(item, depth=1).children] == [[]] * 6
        assert desk.menu(item, names=("enabled",)).children[0].properties == {"enabled": False}
        assert desk.menu(item, pause.number).children == pause.children
        group = desk.call(item, "/MenuBar", MENU, "GetGroupProperties", "aias", ([pause.number, 999], ["label"]))[0]
        assert [(number, {n: v.value for n, v in found.items()}) for number, found in group] == [
            (pause.number, {"label": "Pause"})
        ]
        assert len(desk.call(item, "/MenuBar", MENU, "GetGroupProperties", "aias", ([], []))[0]) == 9
        assert desk.call(item, "/MenuBar", MENU, "GetProperty", "is", (pause.number, "label"))[0].value == "Pause"
        # clicks: a line that fails, is disabled or only says that it was opened does no harm
        desk.click(item, "Fails")
        desk.click(item, "All 14 sessions_are safe")
        desk.event(item, read.find("Back up now").number, "hovered")
        desk.click(item, "Back up now")
        odd, nobody = read.find("ab?c").number, 999
        events = [[odd, "clicked", Variant("i", 0), 0], [nobody, "clicked", Variant("i", 0), 0]]
        assert desk.call(item, "/MenuBar", MENU, "EventGroup", "a(isvu)", (events,)) == [[nobody]]
        desk.call(item, "/StatusNotifierItem", "org.kde.StatusNotifierItem", "SecondaryActivate", "ii", (1, 1))
        desk.call(item, "/StatusNotifierItem", "org.kde.StatusNotifierItem", "ContextMenu", "ii", (1, 1))
        until(lambda: done == ["back up", "odd", "back up"], lambda: done)
        assert refused(desk, item, "Event", "isvu", nobody, "clicked", Variant("i", 0), 0)
        assert refused(desk, item, "GetLayout", "iias", nobody, -1, [])
        assert refused(desk, item, "GetProperty", "is", pause.number, "shortcut")
        assert refused(desk, item, "AboutToShow", "i", nobody)
        # opening it reads again what is said by functions; told is what changed, and nothing else
        assert desk.said("ItemsPropertiesUpdated") == desk.said("LayoutUpdated") == []
        lives["hour"] = True
        assert desk.call(item, "/MenuBar", MENU, "AboutToShow", "i", (0,)) == [False]
        hour = pause.children[0].number
        until(lambda: desk.said("ItemsPropertiesUpdated"))
        assert desk.said("ItemsPropertiesUpdated") == [[[[hour, {"toggle-state": 1}]], []]]
        assert desk.call(item, "/MenuBar", MENU, "AboutToShowGroup", "ai", ([0, nobody],)) == [[], [nobody]]
        icon.visible = False
        until(lambda: desk.item(item, "Status") == "Passive")
    assert not desk.owns(item)


def test_what_changes_is_told_and_an_open_menu_stays(desk: DesktopBus) -> None:
    bus_icon_class()
    from pystray import Menu, MenuItem

    done: list[str] = []

    def lines(status: str, *recent: str) -> Any:
        return Menu(
            MenuItem(status, Act("status", done), enabled=False),
            MenuItem("Recent", Menu(*[MenuItem(name, Act(name, done)) for name in recent])),
            MenuItem("Quit", Act("quit", done)),
        )

    watcher = desk.watch()
    with running(desk, new_icon(lines("2 min ago", "hike", "cats"))) as icon:
        item = desk.registered(watcher)
        before = desk.menu(item)
        icon.menu = lines("3 min ago", "hike", "cats")
        until(lambda: desk.said("ItemsPropertiesUpdated"))
        status = before.children[0].number
        assert desk.said("ItemsPropertiesUpdated") == [[[[status, {"label": "3 min ago"}]], []]]
        assert desk.said("LayoutUpdated") == []
        icon.menu = lines("3 min ago", "dogs", "hike")
        until(lambda: desk.said("LayoutUpdated"))
        recent = before.find("Recent").number
        assert [below for _, below in desk.said("LayoutUpdated")] == [recent]
        after = desk.menu(item)
        assert after.find("hike").number == before.find("hike").number
        # what was clicked while it went is not another line now
        with pytest.raises(DBusError):
            desk.event(item, before.find("cats").number)
        desk.click(item, "dogs")
        until(lambda: done)
        assert done == ["dogs"]
        # one change of the face for all sizes; the same again is no change
        images = (square(2, 16), square(2, 32))
        for _ in range(3):
            icon.set_state(images, "Offline\n3 backups <wait>", attention=True)
        until(lambda: desk.item(item, "Status") == "NeedsAttention")
        for name in ("IconPixmap", "AttentionIconPixmap"):
            assert [(w, h, bytes(data[:4])) for w, h, data in desk.item(item, name)] == [
                (size, size, bytes([255, 2, 20, 30])) for size in (16, 32)
            ]
        assert desk.item(item, "ToolTip")[2:] == ["Offline", "3 backups &lt;wait&gt;"]
        icon.icon, icon.title = square(3, 22), "All is safe"
        until(lambda: desk.item(item, "IconPixmap")[-1][2][1] == 3)
        until(lambda: len(desk.said("NewTitle")) == 2)
        statuses = [status for (status,) in desk.said("NewStatus")]
        assert statuses in (["NeedsAttention"], ["Active", "NeedsAttention"])  # the first was said before it registered
        assert len(desk.said("NewIcon")) == 2
        assert len(watcher.items) == 1


def test_hosts_come_late_go_and_come_back(desk: DesktopBus) -> None:
    heard: list[bool] = []
    with running(desk, new_icon()) as icon:
        icon.on_host(heard.append)
        until(lambda: heard == [False], lambda: heard)  # said once, though nobody comes
        watcher = desk.watch(hosts=0)
        item = desk.registered(watcher)
        assert desk.item(item, "Title") == "All is safe"
        assert heard == [False]
        desk.host(True, watcher)
        until(lambda: heard == [False, True], lambda: heard)
        desk.host(False, watcher)
        until(lambda: heard == [False, True, False], lambda: heard)
        desk.host(True, watcher)
        until(lambda: heard == [False, True, False, True], lambda: heard)
        # a panel that is started again, quickly or not
        desk.unwatch()
        again = desk.watch()
        assert desk.registered(again) == item
        desk.unwatch()
        until(lambda: heard[4:] == [False], lambda: heard)
        later = desk.watch()
        assert desk.registered(later) == item
        until(lambda: heard[5:] == [True], lambda: heard)
        told: list[bool] = []
        icon.on_host(told.append)  # who asks late is told what is known
        until(lambda: told == [True])


def test_a_watcher_that_does_not_answer_and_one_who_only_says_so(desk: DesktopBus) -> None:
    server = desk.notifications()
    watcher = desk.watch()
    watcher.answers = False
    heard: list[bool] = []
    with running(desk, new_icon()) as icon:
        icon.on_host(heard.append)
        item = desk.registered(watcher)
        Notifications(icon).post("k", "It goes on")
        until(lambda: server.shown)
        assert desk.item(item, "Title") == "All is safe"
        until(lambda: heard == [False], lambda: heard)
        desk.unwatch()
        another = desk.watch(hosts=0)
        desk.registered(another)
        until(lambda: another.asked == 2)  # once when it was exported
        another.hosts = 1  # which it has not said yet: nobody else is believed
        desk.forge(item, WATCHER, WATCHER_PATH, "StatusNotifierHostRegistered")
        assert desk.call(WATCHER, WATCHER_PATH, PROPERTIES, "Get", "ss", (WATCHER, "IsStatusNotifierHostRegistered"))
        assert another.asked == 3
        assert heard == [False]
        desk.host(True, another)
        until(lambda: heard == [False, True], lambda: heard)


def test_the_bus_dies_and_comes_back(desk: DesktopBus) -> None:
    watcher = desk.watch()
    with running(desk, new_icon()) as icon:
        desk.registered(watcher)
        for turn in range(2):
            desk.stop()
            icon.title = f"Later {turn}"
            desk.start()
            assert desk.item(desk.registered(desk.watch()), "Title") == f"Later {turn}"
        desk.stop()
        since = time.monotonic()
        icon.stop()
        assert time.monotonic() - since < 5


def test_a_bus_that_is_not_there_yet_or_stuck(desk: DesktopBus) -> None:
    desk.stop()
    with running(desk, new_icon()) as icon:
        Notifications(icon).post("k", "Said before there was a bus")
        desk.start()
        server = desk.notifications()
        desk.registered(desk.watch())
        until(lambda: server.shown)
        desk.freeze()
        icon.title = "Nobody reads it"
        Notifications(icon).post("k", "Nobody shows it")
        since = time.monotonic()
        icon.stop()
        assert time.monotonic() - since < 5
        desk.thaw()


def test_stopped_before_it_ran(desk: DesktopBus) -> None:
    icon = new_icon()
    icon.stop()
    with running(desk, icon):
        pass


def test_notifications(desk: DesktopBus) -> None:
    pressed: list[str] = []
    with running(desk, new_icon()) as icon:
        notifications = Notifications(icon)
        item = desk.registered(desk.watch())
        notifications.post(
            "page", "A page <asks>", "http://localhost & more", "critical", {"yes": "Allow"}, pressed.append
        )
        notifications.post("page", "Two pages ask", "<b>", "critical", {"yes": "Allow"}, pressed.append)
        notifications.post("damage", "Damage", "found", "low")
        server = desk.notifications()  # what waited for it is shown: the newest of each key
        until(lambda: len(server.shown) == 2)
        page, damage = server.shown
        assert (page.app, page.title, page.body, page.actions) == (
            "Torpor",
            "Two pages ask",
            "&lt;b&gt;",
            ["yes", "Allow"],
        )
        assert page.hints == {"urgency": 2, "desktop-entry": "torpor"}
        assert damage.hints["urgency"] == 0
        desk.press(server, page.number, "no")  # never offered
        desk.press(server, damage.number, "yes")  # of another one
        desk.forge(item, NOTIFICATIONS, NOTIFICATIONS_PATH, "ActionInvoked", "us", page.number, "yes")
        assert pressed == []
        desk.press(server, page.number, "yes")
        until(lambda: pressed)
        assert pressed == ["yes"]
        notifications.post("damage", "More damage")
        until(lambda: len(server.shown) == 3)
        assert server.shown[2].replaces == damage.number
        desk.dismiss(server, damage.number)
        desk.item(item, "Title")  # what was said before has arrived, too
        notifications.post("damage", "Even more damage")
        until(lambda: len(server.shown) == 4)
        assert server.shown[3].replaces == 0
        desk.no_notifications()
        plain = desk.notifications("body")  # another server: other capabilities, other numbers
        desk.item(item, "Title")
        notifications.post("page", "A page <asks>", "R&D <b>", actions={"yes": "Allow"}, on_action=pressed.append)
        until(lambda: plain.shown)
        assert (plain.shown[0].replaces, plain.shown[0].body, plain.shown[0].actions) == (0, "R&D <b>", [])
        icon.notify("text", "title")
        until(lambda: len(plain.shown) == 2)
        assert (plain.shown[1].title, plain.shown[1].body) == ("title", "text")


@pytest.mark.soak
def test_thirty_runs() -> None:
    """All of it thirty times."""
    for run in range(1, 31):
        since = time.monotonic()
        for test in (
            test_a_host_draws_and_clicks_it,
            test_what_changes_is_told_and_an_open_menu_stays,
            test_hosts_come_late_go_and_come_back,
            test_a_watcher_that_does_not_answer_and_one_who_only_says_so,
            test_the_bus_dies_and_comes_back,
            test_a_bus_that_is_not_there_yet_or_stuck,
            test_stopped_before_it_ran,
            test_notifications,
        ):
            with desktop_bus() as bus:
                test(bus)
        print(f"run {run}: {time.monotonic() - since:.2f} s")
