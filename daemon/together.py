"""Work that waits for the same lock is done together: one fsync, one transaction for several, and each its own outcome.

Whoever gets the lock does what has queued up meanwhile, its own among it; the others find theirs done. So with one
caller nothing changes, and the more there are, the less each costs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

AT_ONCE = 16  # each of them waits for the last

T = TypeVar("T")
Outcome = BaseException | None


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    item: T
    keys: frozenset[Hashable]
    done: bool = False
    outcome: Outcome = None


class Together(Generic[T]):
    """Runs items under a lock, in the order in which they came; those that share a key one after the other.

    `run` gets items and returns an outcome for each: None, or what its caller is to raise.
    """

    def __init__(self, lock: AbstractContextManager[object], run: Callable[[Sequence[T]], Sequence[Outcome]]) -> None:
        self._lock, self._run = lock, run
        self._mutex, self._waiting = threading.Lock(), list[_Entry[T]]()

    def do(self, item: T, keys: frozenset[Hashable]) -> None:
        """Have an item done, and return when it is. Raises: what its outcome is."""
        mine = _Entry(item, keys)
        with self._mutex:
            self._waiting.append(mine)
        with self._lock:
            while not mine.done:
                self._do(self._next())
        if mine.outcome is not None:
            raise mine.outcome

    def _next(self) -> list[_Entry[T]]:
        """Take from the front what may be done at once. What shares a key with one before it stays behind that."""
        taken: list[_Entry[T]] = []
        left: list[_Entry[T]] = []
        seen: set[Hashable] = set()
        with self._mutex:
            for entry in self._waiting:
                fits = len(taken) < AT_ONCE and seen.isdisjoint(entry.keys)
                (taken if fits else left).append(entry)
                seen |= entry.keys
            self._waiting = left
        return taken

    def _do(self, entries: list[_Entry[T]]) -> None:
        outcomes: Sequence[Outcome]
        try:
            outcomes = self._run([entry.item for entry in entries])
        except BaseException as error:
            outcomes = [error] * len(entries)
        for entry, outcome in zip(entries, outcomes, strict=True):
            entry.outcome, entry.done = outcome, True
