"""A logind on a private bus: hands out delay locks, knows whether they are held, and says that the machine sleeps."""

from __future__ import annotations

import asyncio
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from support.desktop_bus import DesktopBus, desktop_bus

NAME, PATH, MANAGER = "org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager"


class FakeLogind:
    """`asked` has the arguments of each Inhibit; `environment` is for what shall find this one."""

    def __init__(self, bus: DesktopBus, delay_s: float) -> None:
        self._desktop, self._delay_us = bus, int(delay_s * 1e6)
        self.asked: list[list[Any]] = []
        self._locks: list[int] = []  # the ends that stay: closed at the other end when a lock is let go
        self._bus: MessageBus | None = None
        self._answering: list[asyncio.Future[None]] = []
        self.environment = {"DBUS_SYSTEM_BUS_ADDRESS": f"unix:path={bus.socket}"}

    def come(self) -> None:
        """Be there."""
        self._desktop.run(self._come())

    async def _come(self) -> None:
        address = self.environment["DBUS_SYSTEM_BUS_ADDRESS"]
        self._bus = await MessageBus(address, negotiate_unix_fd=True).connect()
        self._bus.add_message_handler(self._called)
        await self._bus.request_name(NAME)

    def go(self) -> None:
        """Be gone, with all locks."""

        async def leave() -> None:
            assert self._bus is not None
            self._bus.disconnect()
            with suppress(EOFError):  # how the library says that the other side was quicker
                await self._bus.wait_for_disconnect()

        self._desktop.run(leave())
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()

    def lose_bus(self) -> None:
        """Kill the bus, start it anew, and come back."""
        self._desktop.stop()
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()
        self._desktop.start()
        self.come()

    def held(self) -> int:
        """Count the locks that somebody holds."""
        waiting = select.poll()
        for lock in self._locks:
            waiting.register(lock, 0)  # only the end of the other side is told then
        gone = {lock for lock, _ in waiting.poll(0)}
        return len(set(self._locks) - gone)

    def say(self, member: str, begins: bool) -> None:
        """Say that the machine is about to sleep or end, or that it goes on."""

        async def send() -> None:
            assert self._bus is not None
            await self._bus.send(Message.new_signal(PATH, MANAGER, member, "b", [begins]))

        self._desktop.run(send())

    def _called(self, message: Message) -> bool | None:
        if message.message_type is not MessageType.METHOD_CALL or message.path != PATH:
            return None
        self._answering.append(asyncio.ensure_future(self._answer(message)))
        return True

    async def _answer(self, message: Message) -> None:
        assert self._bus is not None
        if message.member == "Get":
            assert message.body == [MANAGER, "InhibitDelayMaxUSec"]
            await self._bus.send(Message.new_method_return(message, "v", [Variant("t", self._delay_us)]))
            return
        stays, given = os.pipe()
        self.asked.append(message.body)
        self._locks.append(stays)
        await self._bus.send(Message.new_method_return(message, "h", [0], unix_fds=[given]))
        os.close(given)


@contextmanager
def logind(delay_s: float = 60.0) -> Iterator[FakeLogind]:
    """A bus with a logind on it."""
    with desktop_bus() as bus:
        made = FakeLogind(bus, delay_s)
        made.come()
        try:
            yield made
        finally:
            made.go()
