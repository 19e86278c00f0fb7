"""What the pump needs of others: its queue, the remote side, clocks, and somebody who is told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..state.errors import TorporError
from ..state.outbox import Item, Stage
from ..state.sync_state import Troubled
from .ports import Outbox, Pushed, Pusher


class Queue(Outbox, Protocol):
    """The outbox as the pump needs it."""

    def release_all(self) -> int:
        """Free every lease."""
        ...

    def defer(self, ids: Iterable[int], next_at: float) -> None:
        """Let others have their turn first; no attempt is counted."""
        ...

    def first_priority(self, now: float) -> int | None:
        """Return the priority of what would be leased now."""
        ...

    def still_leased(self, ids: Iterable[int]) -> set[int]:
        """Return which of some items are leased still, and were not taken out of the queue."""
        ...

    def left_out(self, backup_id: str, sent: Iterable[Stage]) -> Mapping[Stage, str]:
        """Say why other stages of a backup are not in the bucket."""
        ...


@dataclass(frozen=True, slots=True)
class Remote:
    """What the pump asks of the remote side.

    `connect` opens it, `ask` is a request that has nothing to do with any item, `can_connect` costs next to nothing,
    `break_off` ends every transfer that is stuck. All but the last two raise errors of the tree.
    """

    connect: Callable[[], Pusher]
    ask: Callable[[], object]
    can_connect: Callable[[], bool]
    break_off: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Clocks:
    """Times as arguments: the wall clock in seconds since the epoch, one that nobody sets, and randomness."""

    wall: Callable[[], float]
    steady: Callable[[], float]
    random: Callable[[], float]


class Watcher(Protocol):
    """Who is told what the pump does."""

    def kept_back(self, item: Item) -> str | None:
        """Say why an item is to stay here, by policy; None when it may go."""
        ...

    def pushed(self, items: tuple[Item, ...], result: Pushed, seconds: float) -> None:
        """Learn that items are in the bucket."""
        ...

    def gave_up(self, item: Item, error: TorporError) -> None:
        """Learn that an item waits until somebody asks for it."""
        ...

    def troubled(self, trouble: Troubled | None, before: Troubled | None) -> None:
        """Learn that the remote side got into a trouble, or out of it."""
        ...
