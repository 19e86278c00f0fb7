"""Being known to whoever draws the tray: the watcher of status icons, and the hosts behind it.

Early, late or restarted, they are picked up when they appear; without one the icon stays on the bus, and that is said
once, after those that start at login had time to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from dbus_fast import Message
from dbus_fast.aio import MessageBus
from dbus_fast.service import ServiceInterface

from .item_service import PATH as ITEM_PATH
from .session_bus import LOST, bus_call, call, listen, listen_for_owner, new_owner

WATCHER, WATCHER_PATH = "org.kde.StatusNotifierWatcher", "/StatusNotifierWatcher"
GRACE_S = 5.0  # a panel that is restarted is back by then
SLOW_S = 60.0  # while a desktop starts, its panel has much to do
_NAME_FREE_OR_FAIL = 4  # DBUS_NAME_FLAG_DO_NOT_QUEUE
_OURS = (1, 4)  # DBUS_REQUEST_NAME_REPLY_PRIMARY_OWNER, and ALREADY_OWNER
_log = logging.getLogger(__name__)


class Registration:
    """Exports the icon's objects on every new connection, and registers them with every new watcher, once visible."""

    def __init__(
        self,
        name: str,
        services: dict[str, ServiceInterface],
        visible: asyncio.Event,
        on_host: Callable[[bool], None],
        grace_s: float = GRACE_S,
    ) -> None:
        self._name, self._services, self._visible = name, services, visible
        self._on_host, self._grace_s = on_host, grace_s
        self._bus: MessageBus | None = None
        self._known_as = name
        self._watcher = ""  # its unique name
        self._owners = 0  # how many watchers there were: an answer of an earlier one says nothing about now
        self._told: bool | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._work: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin to wait for a host."""
        self._host_is(False)

    async def joined(self, bus: MessageBus) -> None:
        """Export, listen, and register with the watcher that is there."""
        self._bus = bus
        self._owners += 1
        for path, service in self._services.items():
            bus.export(path, service)
        reply = await bus_call(bus, "RequestName", "su", [self._name, _NAME_FREE_OR_FAIL])
        # Without the name, which another process namespace may have, the object's path says who it is, too.
        self._known_as = self._name if reply.body[0] in _OURS else ITEM_PATH
        await listen_for_owner(bus, WATCHER)
        await listen(bus, f"sender='{WATCHER}',interface='{WATCHER}'")
        self._do(self._register(bus))  # which a panel that is busy may keep waiting

    def heard(self, message: Message) -> None:
        """Notice a watcher or a host that comes or goes."""
        bus = self._bus
        if bus is None:
            return
        owner = new_owner(message, WATCHER)
        if owner is not None:
            self._watcher = ""
            self._owners += 1
            self._host_is(False)
            if owner:
                self._do(self._register(bus))
        elif message.interface == WATCHER and message.sender == self._watcher and "Host" in (message.member or ""):
            self._do(self._look_for_host(bus))

    def left(self) -> None:
        """Forget the connection."""
        self._bus, self._watcher = None, ""
        self._owners += 1
        for task in self._work:
            task.cancel()
        self._host_is(False)

    def stop(self) -> None:
        """Say nothing more."""
        if self._grace is not None:
            self._grace.cancel()

    async def _register(self, bus: MessageBus) -> None:
        owners = self._owners
        await self._visible.wait()
        try:
            reply = await call(
                bus,
                WATCHER,
                WATCHER_PATH,
                WATCHER,
                "RegisterStatusNotifierItem",
                "s",
                [self._known_as],
                within_s=SLOW_S,
            )
        except LOST as error:
            _log.debug("no watcher of status icons: %s", error)
            return
        if owners != self._owners:
            return
        self._watcher = reply.sender or ""
        await self._look_for_host(bus)

    async def _look_for_host(self, bus: MessageBus) -> None:
        owners = self._owners
        try:
            reply = await call(
                bus,
                WATCHER,
                WATCHER_PATH,
                "org.freedesktop.DBus.Properties",
                "Get",
                "ss",
                [WATCHER, "IsStatusNotifierHostRegistered"],
                within_s=SLOW_S,
            )
        except LOST as error:
            _log.debug("the watcher does not say whether there is a host: %s", error)
            return
        if owners == self._owners:
            self._host_is(bool(reply.body[0].value))

    def _host_is(self, there: bool) -> None:
        """Tell of a host at once, and that there is none only when none has come for a while."""
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None
        if there:
            self._tell(True)
        elif self._told is not False:
            self._grace = asyncio.get_running_loop().call_later(self._grace_s, self._tell, False)

    def _tell(self, there: bool) -> None:
        if there != self._told:
            self._told = there
            self._on_host(there)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
