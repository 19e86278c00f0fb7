"""A desktop without a screen: a private D-Bus, and what lives on it: a watcher of status icons, a host that reads and
clicks them, a notification server. All of it can come late, go, and come back.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from dbus_fast import DBusError, Message, MessageType, PropertyAccess, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusBool, DBusInt32, DBusSignature, DBusStr, DBusUInt32
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

from support.waiting import until

WATCHER, WATCHER_PATH = "org.kde.StatusNotifierWatcher", "/StatusNotifierWatcher"
NOTIFICATIONS, NOTIFICATIONS_PATH = "org.freedesktop.Notifications", "/org/freedesktop/Notifications"
ITEM, MENU = "org.kde.StatusNotifierItem", "com.canonical.dbusmenu"
PROPERTIES = "org.freedesktop.DBus.Properties"
Nothing = Annotated[None, DBusSignature("")]
Names = Annotated[list[str], DBusSignature("as")]
_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={socket}</listen>
<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy>
</busconfig>"""
_Result = TypeVar("_Result")


class Watcher(ServiceInterface):
    """What icons register with."""

    def __init__(self, hosts: int) -> None:
        super().__init__(WATCHER)
        self.hosts, self.items, self.answers = hosts, [], True
        self.asked = 0  # how often whether there is a host

    @dbus_method()
    async def RegisterStatusNotifierItem(self, service: DBusStr) -> Nothing:
        self.items.append(service)
        if not self.answers:
            await asyncio.Event().wait()

    @dbus_property(access=PropertyAccess.READ)
    def IsStatusNotifierHostRegistered(self) -> DBusBool:
        self.asked += 1
        return self.hosts > 0

    @dbus_property(access=PropertyAccess.READ)
    def RegisteredStatusNotifierItems(self) -> Names:
        return self.items

    @dbus_signal()
    def StatusNotifierHostRegistered(self) -> None:
        self.hosts += 1

    @dbus_signal()
    def StatusNotifierHostUnregistered(self) -> None:
        self.hosts -= 1


@dataclass
class Shown:
    """One notification as it was asked for."""

    number: int
    replaces: int
    app: str
    title: str
    body: str
    actions: list[str]
    hints: dict[str, Any]


class NotificationServer(ServiceInterface):
    """Shows nothing, and remembers everything."""

    def __init__(self, capabilities: tuple[str, ...]) -> None:
        super().__init__(NOTIFICATIONS)
        self.capabilities, self.shown = capabilities, []

    @dbus_method()
    def GetCapabilities(self) -> Names:
        return list(self.capabilities)

    @dbus_method()
    def Notify(
        self,
        app: DBusStr,
        replaces: DBusUInt32,
        icon: DBusStr,
        title: DBusStr,
        body: DBusStr,
        actions: Names,
        hints: Annotated[dict[str, Variant], DBusSignature("a{sv}")],
        expires: DBusInt32,
    ) -> DBusUInt32:
        number = replaces or len(self.shown) + 1
        plain = {name: value.value for name, value in hints.items()}
        self.shown.append(Shown(number, replaces, app, title, body, actions, plain))
        return number

    @dbus_signal()
    def ActionInvoked(self, number_and_action: list[Any]) -> Annotated[list[Any], DBusSignature("us")]:
        return number_and_action

    @dbus_signal()
    def NotificationClosed(self, number_and_reason: list[Any]) -> Annotated[list[Any], DBusSignature("uu")]:
        return number_and_reason


@dataclass
class Entry:
    """One line of a menu as a host has read it."""

    number: int
    properties: dict[str, Any]
    children: list[Entry] = field(default_factory=list)

    @property
    def label(self) -> str:
        return str(self.properties.get("label", "")).replace("__", "_")

    def all(self) -> Iterator[Entry]:
        yield self
        for child in self.children:
            yield from child.all()

    def find(self, label: str) -> Entry:
        """Return the line that says so, on any level."""
        found = [each for each in self.all() if each.label == label]
        assert len(found) == 1, (label, [each.label for each in self.all()])
        return found[0]


class DesktopBus:
    """A private session bus; its address stays the same over restarts. `environment` is for what shall live on it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="torpor-bus-"))
        self.socket = self.folder / "bus"
        (self.folder / "config.xml").write_text(_CONFIG.format(socket=self.socket))
        self.process: subprocess.Popen[bytes] | None = None
        self.signals: list[tuple[str, list[Any]]] = []  # what icons have said
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="desktop", daemon=True)
        self._buses: dict[str, MessageBus] = {}
        self._loop.set_exception_handler(lambda loop, context: None)  # connections that a killed bus took along
        self._thread.start()

    @property
    def environment(self) -> dict[str, str]:
        return {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.socket}"}

    def start(self) -> None:
        """Start the bus. Nobody is on it."""
        self.socket.unlink(missing_ok=True)
        command = ["dbus-daemon", f"--config-file={self.folder}/config.xml", "--nofork", "--print-address=1"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_us
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline()

    def stop(self) -> None:
        """Kill the bus, and with it every connection."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            assert self.process.stdout is not None
            self.process.stdout.close()
        self.process = None
        for name in list(self._buses):
            self._leave(name)

    def freeze(self) -> None:
        """Have the bus answer nothing, as on a machine that is stuck."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        shutil.rmtree(self.folder)

    def watch(self, hosts: int = 1) -> Watcher:
        """Have a watcher come, with so many hosts behind it."""
        watcher = Watcher(hosts)
        self.run(self._own("watcher", WATCHER, WATCHER_PATH, watcher))
        return watcher

    def unwatch(self) -> None:
        """Have the watcher go."""
        self._leave("watcher")

    def host(self, there: bool, watcher: Watcher) -> None:
        """Have a host come or go."""
        say = watcher.StatusNotifierHostRegistered if there else watcher.StatusNotifierHostUnregistered
        self._loop.call_soon_threadsafe(say)

    def notifications(self, *capabilities: str) -> NotificationServer:
        """Have a notification server come."""
        server = NotificationServer(capabilities or ("actions", "body", "body-markup"))
        self.run(self._own("notifications", NOTIFICATIONS, NOTIFICATIONS_PATH, server))
        return server

    def serve(self, name: str, path: str, service: ServiceInterface) -> None:
        """Have something else of a desktop come, under a name of its own."""
        self.run(self._own(name, name, path, service))

    def emit(self, signal: Callable[[list[Any]], Any], body: list[Any]) -> None:
        """Have a service say something."""
        self._loop.call_soon_threadsafe(signal, body)

    def no_notifications(self) -> None:
        self._leave("notifications")

    def press(self, server: NotificationServer, number: int, action: str) -> None:
        """Press a button of a notification."""
        self._loop.call_soon_threadsafe(server.ActionInvoked, [number, action])

    def dismiss(self, server: NotificationServer, number: int) -> None:
        """Close a notification as a user does; it is on its way to everybody on return."""
        self._loop.call_soon_threadsafe(server.NotificationClosed, [number, 2])
        until(lambda: [number, 2] in self.said("NotificationClosed"))

    def forge(self, item: str, interface: str, path: str, member: str, signature: str = "", *body: Any) -> None:
        """Send an icon a signal that only somebody else may send: straight to it, past what it listens to."""
        message = Message.new_signal(path, interface, member, signature, list(body))
        message.destination = item
        self.run(self._forge(message))
        self.item(item, "Title")  # it has arrived
        self.item(item, "Title")  # and what it led to is done

    async def _forge(self, message: Message) -> None:
        bus = await self._connected("forger")
        await bus.send(message)

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", body: tuple[Any, ...] = ()
    ) -> list[Any]:
        """Call a method as the panel does. Raises: DBusError."""
        return self.run(self._call(destination, path, interface, member, signature, body))

    def item(self, item: str, name: str) -> Any:
        """Return a property of an icon."""
        return _plain(self.call(item, "/StatusNotifierItem", PROPERTIES, "Get", "ss", (ITEM, name))[0])

    def menu(self, item: str, parent: int = 0, depth: int = -1, names: tuple[str, ...] = ()) -> Entry:
        """Read the menu of an icon."""
        path = self.item(item, "Menu")
        return _entry(self.call(item, path, MENU, "GetLayout", "iias", (parent, depth, list(names)))[1])

    def click(self, item: str, label: str) -> None:
        """Click the line that says so."""
        self.event(item, self.menu(item).find(label).number)

    def event(self, item: str, number: int, kind: str = "clicked") -> None:
        """Click a line by its number."""
        self.call(item, self.item(item, "Menu"), MENU, "Event", "isvu", (number, kind, Variant("i", 0), 0))

    def registered(self, watcher: Watcher) -> str:
        """Wait for an icon, and return its name on the bus."""
        return until(lambda: watcher.items[-1] if watcher.items else None, "no icon registered")

    def owns(self, name: str) -> bool:
        """Tell whether somebody has this name."""
        bus = "org.freedesktop.DBus"
        return bool(self.call(bus, "/org/freedesktop/DBus", bus, "NameHasOwner", "s", (name,))[0])

    def said(self, member: str) -> list[list[Any]]:
        """Return what was said in signals of that name so far."""
        return [body for name, body in self.signals if name == member]

    def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    async def _connected(self, name: str) -> MessageBus:
        if name not in self._buses:
            self._buses[name] = bus = await MessageBus(f"unix:path={self.socket}").connect()
            if name == "panel":
                bus.add_message_handler(self._heard)
                for interface in (ITEM, MENU, NOTIFICATIONS):
                    await _asked(bus, "AddMatch", "s", f"type='signal',interface='{interface}'")
        return self._buses[name]

    async def _own(self, name: str, owned: str, path: str, service: ServiceInterface) -> None:
        await self._connected("panel")
        bus = await self._connected(name)
        bus.export(path, service)
        await bus.request_name(owned)

    async def _call(
        self, destination: str, path: str, interface: str, member: str, signature: str, body: tuple[Any, ...]
    ) -> list[Any]:
        bus = await self._connected("panel")
        reply = await bus.call(Message(destination, path, interface, member, signature=signature, body=list(body)))
        if reply.message_type is MessageType.ERROR:
            raise DBusError(reply.error_name or "", str(reply.body))
        return list(reply.body)

    def _heard(self, message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.interface in (ITEM, MENU, NOTIFICATIONS):
            self.signals.append((message.member or "", _plain(message.body)))

    def _leave(self, name: str) -> None:
        async def leave() -> None:
            if (bus := self._buses.pop(name, None)) is not None and bus.connected:
                bus.disconnect()
                await bus.wait_for_disconnect()

        self.run(leave())


@contextmanager
def desktop_bus() -> Iterator[DesktopBus]:
    """A bus that runs."""
    bus = DesktopBus()
    try:
        bus.start()
        yield bus
    finally:
        bus.close()


async def _asked(bus: MessageBus, member: str, signature: str, *body: Any) -> None:
    name = "org.freedesktop.DBus"
    message = Message(name, "/org/freedesktop/DBus", name, member, signature=signature, body=list(body))
    reply = await bus.call(message)
    assert reply.message_type is MessageType.METHOD_RETURN, reply.body


def _entry(layout: list[Any]) -> Entry:
    number, properties, children = layout
    plain = {name: value.value for name, value in properties.items()}
    return Entry(number, plain, [_entry(child.value) for child in children])


def _plain(value: Any) -> Any:
    """Return what a message says without the clothes of its types."""
    if isinstance(value, Variant):
        return _plain(value.value)
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


def die_with_us() -> None:
    """Die with this process, however it ends; for `preexec_fn`."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)
