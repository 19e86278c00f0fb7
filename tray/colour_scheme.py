"""Whether the desktop is dark or light, as its portal says, and what that says of its panel.

Source: org.freedesktop.portal.Settings, `org.freedesktop.appearance` `color-scheme` (1 prefers dark, 2 prefers light).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from dbus_fast import Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

from .drawing import Panel
from .session_bus import CALL_S, LOST, listen, listen_for_owner, new_owner

PORTAL, PORTAL_PATH = "org.freedesktop.portal.Desktop", "/org/freedesktop/portal/desktop"
SETTINGS = "org.freedesktop.portal.Settings"
ASKED = ("org.freedesktop.appearance", "color-scheme")
DARK, LIGHT = 1, 2
_log = logging.getLogger(__name__)


def panel_of(scheme: int, desktops: str) -> Panel:
    """Guess what the icon lies on; `desktops` is XDG_CURRENT_DESKTOP.

    GNOME's bar is dark whatever its windows are, Plasma's panel goes with them. Elsewhere panels have colours of their
    own, and an icon that is readable on all is the right one.
    """
    names = desktops.upper().split(":")
    if "GNOME" in names:
        return "dark"
    if "KDE" not in names:
        return "any"
    return "dark" if scheme == DARK else "light" if scheme == LIGHT else "any"


class ColourScheme:
    """A tenant of the session bus that tells what the portal says. One that does not run is not started for this."""

    def __init__(self, told: Callable[[int], None]) -> None:
        self._told = told
        self._bus: MessageBus | None = None
        self._work: asyncio.Task[None] | None = None

    async def joined(self, bus: MessageBus) -> None:
        """Listen, and ask."""
        self._bus = bus
        await listen_for_owner(bus, PORTAL)
        await listen(bus, f"interface='{SETTINGS}',member='SettingChanged',arg0='{ASKED[0]}'")
        self._work = asyncio.get_running_loop().create_task(self._ask(bus))

    def heard(self, message: Message) -> None:
        """Notice another scheme, and a portal that comes."""
        if message.interface == SETTINGS and message.member == "SettingChanged" and message.path == PORTAL_PATH:
            if tuple(message.body[:2]) == ASKED:
                self._told(_number(message.body[2]))
        elif self._bus is not None and new_owner(message, PORTAL):
            self._work = asyncio.get_running_loop().create_task(self._ask(self._bus))

    def left(self) -> None:
        """Forget the connection."""
        self._bus = None
        if self._work is not None:
            self._work.cancel()

    async def _ask(self, bus: MessageBus) -> None:
        question = Message(
            destination=PORTAL,
            path=PORTAL_PATH,
            interface=SETTINGS,
            member="Read",
            signature="ss",
            body=list(ASKED),
            flags=MessageFlag.NO_AUTOSTART,
        )
        try:
            async with asyncio.timeout(CALL_S):
                answer = await bus.call(question)
        except LOST as error:
            _log.debug("the portal does not answer: %s", error)
            return
        if answer is not None and answer.message_type is not MessageType.ERROR:
            self._told(_number(answer.body[0]))


def _number(value: Any) -> int:
    while isinstance(value, Variant):
        value = value.value
    return value if isinstance(value, int) else 0
