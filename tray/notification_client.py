"""The desktop's notification server, as a tenant of the session bus.

What cannot be shown yet (no bus, no server) waits, the newest of each key, until there is one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dbus_fast import DBusError, Message, Variant
from dbus_fast.aio import MessageBus

from .notifications import MOST_WAITING, Notice, spoken
from .session_bus import LOST, call, listen, listen_for_owner, new_owner

SERVER, PATH = "org.freedesktop.Notifications", "/org/freedesktop/Notifications"
_URGENCIES = {"low": 0, "normal": 1, "critical": 2}
_log = logging.getLogger(__name__)


class NotificationClient:
    """Sends notices one after another, and hears of their buttons. All in the loop's thread."""

    def __init__(self, app_name: str, clicked: Callable[[Callable[[], object]], None]) -> None:
        self._app_name, self._clicked = app_name, clicked
        self._bus: MessageBus | None = None
        self._server = ""  # its unique name, once it has answered
        self._servers = 0  # how many there were: an answer of an earlier one says nothing about now
        self._capabilities: frozenset[str] | None = None
        self._waiting: dict[str, Notice] = {}
        self._shown: dict[int, Notice] = {}
        self._work: asyncio.Task[None] | None = None

    def post(self, notice: Notice) -> None:
        """Show it as soon as it can be."""
        self._waiting.pop(notice.key, None)
        self._waiting[notice.key] = notice
        while len(self._waiting) > MOST_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._go_on()

    async def joined(self, bus: MessageBus) -> None:
        """Listen, and show what waits."""
        self._bus = bus
        await listen_for_owner(bus, SERVER)
        await listen(bus, f"sender='{SERVER}',interface='{SERVER}'")
        self._go_on()

    def heard(self, message: Message) -> None:
        """Notice a click, a notice that was closed, and a server that comes or goes."""
        owner = new_owner(message, SERVER)
        if owner is not None:
            self._forget()
            if owner:
                self._go_on()
        elif message.interface == SERVER and message.sender == self._server:
            if message.member == "ActionInvoked":
                self._invoked(*message.body)
            elif message.member == "NotificationClosed":
                self._shown.pop(message.body[0], None)

    def left(self) -> None:
        """Forget the connection; what waits goes on waiting."""
        self._bus = None
        self._forget()
        if self._work is not None:
            self._work.cancel()
            self._work = None

    def _forget(self) -> None:
        self._server, self._capabilities = "", None
        self._servers += 1
        self._shown.clear()

    def _invoked(self, number: int, action: str) -> None:
        notice = self._shown.get(number)
        if notice is None or notice.on_action is None or action not in notice.actions:
            return
        on_action = notice.on_action
        self._clicked(lambda: on_action(action))

    def _go_on(self) -> None:
        if self._bus is not None and self._waiting and (self._work is None or self._work.done()):
            self._work = asyncio.get_running_loop().create_task(self._send_all(self._bus))

    async def _send_all(self, bus: MessageBus) -> None:
        while self._waiting:
            notice, servers = next(iter(self._waiting.values())), self._servers
            try:
                await self._send(bus, notice)
            except LOST as error:
                _log.info("a notification cannot be shown: %s", error or type(error).__name__)
                if servers != self._servers:
                    continue
                if not is_refusal(error):
                    return
            if self._waiting.get(notice.key) is notice:  # not a newer one
                del self._waiting[notice.key]

    async def _asked_capabilities(self, bus: MessageBus) -> frozenset[str]:
        """Return what the server that is there now can do."""
        while self._capabilities is None:
            servers = self._servers
            reply = await call(bus, SERVER, PATH, SERVER, "GetCapabilities")
            if servers == self._servers:
                self._capabilities = frozenset(reply.body[0])
        return self._capabilities

    async def _send(self, bus: MessageBus, notice: Notice) -> None:
        capabilities = await self._asked_capabilities(bus)
        servers = self._servers
        older = next((number for number, shown in self._shown.items() if shown.key == notice.key), 0)
        title, body, actions = spoken(notice, capabilities)
        hints = {
            "urgency": Variant("y", _URGENCIES[notice.urgency]),
            "desktop-entry": Variant("s", self._app_name.lower()),
        }
        arguments = [self._app_name, older, self._app_name.lower(), title, body, actions, hints, -1]
        reply = await call(bus, SERVER, PATH, SERVER, "Notify", "susssasa{sv}i", arguments)
        if servers == self._servers:
            self._server = reply.sender or ""
            self._shown.pop(older, None)
            self._shown[reply.body[0]] = notice


def is_refusal(error: Exception) -> bool:
    """Tell whether a server took the notice and will not show it: sent again, it would be refused again."""
    refused = isinstance(error, DBusError) and not error.type.startswith("org.freedesktop.DBus.Error.")
    return refused or isinstance(error, TimeoutError)  # which may have shown it
