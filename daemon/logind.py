"""logind's delay lock: the machine waits a few seconds for whoever holds it before it sleeps or ends.

One connection to the system bus, in the event loop, that only listens between two such moments: nothing wakes for it.
Source: the Inhibitor Locks of systemd, and org.freedesktop.login1(5).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

from ..state.errors import Unavailable

if TYPE_CHECKING:  # a daemon without a system bus does without the library
    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

ANSWER_S = 10.0
News = Literal["sleep", "shutdown", "on"]  # the machine is about to; or it goes on, or logind is new
_BUS, _BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_LOGIND, _PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
_MANAGER = "org.freedesktop.login1.Manager"
_SOCKET = "/var/run/dbus/system_bus_socket"
_NEWS: dict[str, News] = {"PrepareForSleep": "sleep", "PrepareForShutdown": "shutdown"}


class Logind:
    """The connection. Raises: Unavailable where bus or logind do not answer, or not with what was asked for."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus, self._owner = bus, ""
        self._locks: list[int] = []  # every one that came, also with an answer that nobody waited for any more
        self._news: asyncio.Queue[News | None] = asyncio.Queue()

    async def begin(self) -> None:
        """Listen, and take the lock."""
        self._bus.add_message_handler(self._heard)
        for member in _NEWS:
            await self._match(f"sender='{_LOGIND}',path='{_PATH}',interface='{_MANAGER}',member='{member}'")
        await self._match(f"sender='{_BUS}',interface='{_BUS}',member='NameOwnerChanged',arg0='{_LOGIND}'")
        await self.take()

    async def take(self) -> None:
        """Take the lock, in place of one that is held."""
        asked = ["sleep:shutdown", "Torpor", "Attached sessions are saved", "delay"]
        answer = await self._call(_LOGIND, _PATH, _MANAGER, "Inhibit", "ssss", asked)
        fds = answer.unix_fds
        if not fds:
            raise Unavailable("logind gave no lock")
        self._keep(fds[0])
        self._owner = answer.sender or ""

    def let_go(self) -> None:
        """Let the machine go on."""
        self._keep()

    def _keep(self, *kept: int) -> None:
        for lock in self._locks:
            if lock not in kept:
                os.close(lock)
        self._locks = list(kept)

    async def delay_s(self) -> float:
        """Return for how long the machine waits at most."""
        asked = [_MANAGER, "InhibitDelayMaxUSec"]
        answer = await self._call(_LOGIND, _PATH, "org.freedesktop.DBus.Properties", "Get", "ss", asked)
        return float(answer.body[0].value) / 1e6

    async def next(self) -> News:
        """Wait for news. Raises: Unavailable when the bus has gone."""
        news = await self._news.get()
        if news is None:
            raise Unavailable("the system bus has gone")
        return news

    def _heard(self, message: Message) -> None:
        self._locks += message.unix_fds
        if message.member in _NEWS and message.interface == _MANAGER and message.sender == self._owner:
            self._news.put_nowait(_NEWS[message.member] if message.body[0] else "on")
        elif message.member == "NameOwnerChanged" and message.sender == _BUS and message.body[2]:
            self._news.put_nowait("on")

    async def watch_bus(self) -> None:
        """Wait until the bus has gone, and tell whoever waits for news."""
        with suppress(Exception):  # however it went, it has gone
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        self._news.put_nowait(None)

    async def _match(self, rule: str) -> None:
        await self._call(_BUS, _BUS_PATH, _BUS, "AddMatch", "s", [f"type='signal',{rule}"])

    async def _call(
        self, destination: str, path: str, interface: str, member: str, signature: str, body: list[Any]
    ) -> Message:
        from dbus_fast import Message, MessageType

        message = Message(destination, path, interface, member, signature=signature, body=body)
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._bus.call(message)
        except (OSError, EOFError, TimeoutError) as error:
            raise Unavailable(f"{member}: {destination} does not answer") from error
        if answer is None or answer.message_type is MessageType.ERROR:
            said = answer.body[0] if answer is not None and answer.body else "no answer"
            raise Unavailable(f"{member}: {said}")
        return answer


@asynccontextmanager
async def connected(environ: Mapping[str, str]) -> AsyncIterator[Logind]:
    """Connect to logind, take its lock, and let go of both at the end.

    Raises: Unavailable where there is no system bus, none that answers, or no logind on it.
    """
    address = environ.get("DBUS_SYSTEM_BUS_ADDRESS")
    if not address and not os.path.exists(_SOCKET):
        raise Unavailable("there is no system bus here")
    from dbus_fast.aio import MessageBus
    from dbus_fast.errors import DBusFastError

    try:
        async with asyncio.timeout(ANSWER_S):
            bus = await MessageBus(bus_address=address or f"unix:path={_SOCKET}", negotiate_unix_fd=True).connect()
    except (OSError, EOFError, TimeoutError, DBusFastError) as error:
        raise Unavailable(f"the system bus does not answer: {error}") from error
    logind = Logind(bus)
    watching = asyncio.ensure_future(logind.watch_bus())
    try:
        await logind.begin()
        yield logind
    finally:
        logind.let_go()
        bus.disconnect()
        await watching
        logind.let_go()  # of what came until then
