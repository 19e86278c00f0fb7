"""A connection to the session bus that comes back: what lives on it is told when it is there, and when it has gone.

Nothing here waits without a limit, and nothing looks again and again: the bus is tried after it was lost, in steps that
double up to a minute, and otherwise heard of when it says something.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, Protocol

from dbus_fast import DBusError, DBusFastError, Message, MessageType
from dbus_fast.aio import MessageBus

BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
CONNECT_S = 5.0
CALL_S = 10.0  # a panel that answers later than that has its own troubles
FIRST_RETRY_S, LONGEST_RETRY_S = 1.0, 60.0
STEADY_S = 10.0  # a connection that held so long was one
LOST = (OSError, EOFError, TimeoutError, DBusFastError)
_log = logging.getLogger(__name__)


class Tenant(Protocol):
    """What lives on the bus. Its methods are called in the loop's thread."""

    async def joined(self, bus: MessageBus) -> None:
        """Settle on a new connection; what it raises ends that connection."""

    def heard(self, message: Message) -> None:
        """Take a signal."""

    def left(self) -> None:
        """Forget the connection: it has gone."""


def address(environ: Mapping[str, str]) -> str | None:
    """Return where the session bus of this environment listens, if it says so.

    Source: the D-Bus Specification, "Well-known Message Bus Instances"; systemd's socket lies at XDG_RUNTIME_DIR/bus.
    """
    if named := environ.get("DBUS_SESSION_BUS_ADDRESS"):
        return named
    folder = environ.get("XDG_RUNTIME_DIR")
    return f"unix:path={folder}/bus" if folder else None


async def connect(where: str | None) -> MessageBus:
    """Connect within a few seconds, or not at all.

    Raises:
        OSError, EOFError, TimeoutError, DBusFastError: there is no bus, or none that answers.
    """
    if where is None:
        raise FileNotFoundError("DBUS_SESSION_BUS_ADDRESS and XDG_RUNTIME_DIR are not set")
    try:
        async with asyncio.timeout(CONNECT_S):
            return await MessageBus(where).connect()
    except LOST:
        raise
    except Exception as error:  # whatever it is that answers there, it is no bus
        raise ConnectionError(f"{type(error).__name__}: {error}") from error


def say(signal: Callable[..., object], *arguments: object) -> None:
    """Send a signal: one that a lost connection does not carry is no news, since a new host reads everything."""
    with suppress(*LOST):
        signal(*arguments)


async def gone(bus: MessageBus) -> None:
    """Return when the connection is lost, however that shows."""
    with suppress(Exception):
        await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


async def leave(bus: MessageBus) -> None:
    """Disconnect, and return when the socket is closed."""
    if bus.connected:
        bus.disconnect()
    await gone(bus)


async def call(
    bus: MessageBus,
    destination: str,
    path: str,
    interface: str,
    member: str,
    signature: str = "",
    body: Sequence[Any] = (),
    *,
    within_s: float = CALL_S,
) -> Message:
    """Call a method, and return its reply.

    Raises:
        DBusError: the other side refuses, or is not there.
        TimeoutError: it does not answer.
    """
    message = Message(
        destination=destination, path=path, interface=interface, member=member, signature=signature, body=list(body)
    )
    async with asyncio.timeout(within_s):
        reply = await bus.call(message)
    if reply.message_type is MessageType.ERROR:
        raise DBusError(reply.error_name or "", str(reply.body[0]) if reply.body else "", reply)
    return reply


async def bus_call(bus: MessageBus, member: str, signature: str, body: Sequence[Any]) -> Message:
    """Call the bus itself."""
    return await call(bus, BUS, BUS_PATH, BUS, member, signature, body)


async def listen(bus: MessageBus, rule: str) -> None:
    """Have signals sent to us."""
    await bus_call(bus, "AddMatch", "s", [f"type='signal',{rule}"])


async def listen_for_owner(bus: MessageBus, name: str) -> None:
    """Have it said when a name gets or loses its owner."""
    await listen(bus, f"sender='{BUS}',interface='{BUS}',member='NameOwnerChanged',arg0='{name}'")


def new_owner(message: Message, name: str) -> str | None:
    """Return who owns a name from now on ("" for nobody), when that is what the message says."""
    if message.sender != BUS or message.member != "NameOwnerChanged" or message.body[0] != name:
        return None
    return str(message.body[2])


class SessionBus:
    """Keeps a connection for its tenants until it is cancelled."""

    def __init__(self, where: Callable[[], str | None], tenants: Sequence[Tenant], jitter: Callable[[], float]) -> None:
        self._where, self._tenants, self._jitter = where, tenants, jitter
        self._said = ""

    async def live(self) -> NoReturn:
        """Connect, and again after every loss."""
        failures = 0
        clock = asyncio.get_running_loop().time
        while True:
            since = clock()
            try:
                await self._one_connection()
                self._say("The session bus has gone")
            except LOST as error:
                self._say(f"The session bus cannot be used: {error or type(error).__name__}")
            except Exception:  # a defect of ours: the icon tries again, and does not die of it
                _log.exception("What lives on the session bus failed")
            failures = 0 if clock() - since > STEADY_S else failures + 1
            await asyncio.sleep(retry_in(failures, self._jitter()))

    async def _one_connection(self) -> None:
        bus = await connect(self._where())
        try:
            bus.add_message_handler(self._heard)
            for tenant in self._tenants:
                await tenant.joined(bus)
            self._say("The session bus is there")
            await gone(bus)
        finally:
            for tenant in self._tenants:
                tenant.left()
            await leave(bus)

    def _heard(self, message: Message) -> None:
        """Hand a signal on behind the replies that came before it, whose callers have yet to run."""
        if message.message_type is MessageType.SIGNAL:
            asyncio.get_running_loop().call_soon(self._hand_on, message)

    def _hand_on(self, message: Message) -> None:
        for tenant in self._tenants:
            tenant.heard(message)

    def _say(self, what: str) -> None:
        if what != self._said:
            _log.info(what)
        self._said = what


def not_waited_for(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Take exceptions of what nobody waits for: a signal that a lost connection did not carry is no news.

    A handler for `loop.set_exception_handler`.
    """
    if isinstance(context.get("exception"), LOST):
        _log.debug("nobody waited for it: %s", context["exception"])
    else:
        loop.default_exception_handler(context)


def retry_in(failures: int, jitter: float) -> float:
    """Return how long to wait before the bus is tried again; `jitter` in [0, 1) moves it within its upper half."""
    limit = min(FIRST_RETRY_S * 2.0 ** min(failures, 16), LONGEST_RETRY_S)
    return limit * (0.5 + jitter / 2)
