"""What leaves this machine when the room gets short, and in which order. Pure.

First what the bucket has: it is fetched again when somebody needs it. Then KV caches and embeddings that only this
machine has: they can be computed again. Least recently used first; the newest backup of a session and its newest KV
cache after the others, and what is pinned last. Text, tokens and media that the bucket does not have never go.

A blob that several backups name goes with the last of them, so what is kept keeps all of its blobs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["leftover", "fetchable", "rebuildable"]
KINDS: tuple[Kind, ...] = ("leftover", "fetchable", "rebuildable")  # in the order in which they go
ORDINARY, NEWEST, PINNED = range(3)
TIERS = ("ordinary", "newest", "pinned")  # their names, in this order


@dataclass(frozen=True, slots=True)
class Standing:
    """A backup by its place in the order, and the bytes that go with it: those that no backup behind it names.

    `leftover_bytes` belong to backups that were dropped, all of them.
    """

    backup_id: str
    tier: int
    used_at: float
    leftover_bytes: int = 0
    fetchable_bytes: int = 0
    rebuildable_bytes: int = 0

    def of(self, kind: Kind) -> int:
        """Return the bytes of a kind."""
        return {
            "leftover": self.leftover_bytes,
            "fetchable": self.fetchable_bytes,
            "rebuildable": self.rebuildable_bytes,
        }[kind]


@dataclass(frozen=True, slots=True)
class Eviction:
    """Blobs of one kind that go with a backup, and their bytes."""

    kind: Kind
    backup_id: str
    tier: int
    size_bytes: int


def place(standing: Standing) -> tuple[int, float, str]:
    """Return what a backup is put in order by, the first to go first."""
    return standing.tier, standing.used_at, standing.backup_id


def plan_eviction(standings: Iterable[Standing], excess_bytes: int, *, whole: bool = False) -> list[Eviction]:
    """Return what goes so that `excess_bytes` are freed, and no more than the last of it asks for.

    With `whole`, nothing goes when all that may go is not enough: what is refused must not cost anything.
    """
    found, left = [], excess_bytes
    for eviction in _in_order(standings):
        if left <= 0:
            break
        found.append(eviction)
        left -= eviction.size_bytes
    return [] if whole and left > 0 else found


def _in_order(standings: Iterable[Standing]) -> Iterator[Eviction]:
    ordered = sorted(standings, key=place)
    for kind in KINDS:
        for each in ordered:
            if each.of(kind):
                yield Eviction(kind, each.backup_id, each.tier, each.of(kind))
