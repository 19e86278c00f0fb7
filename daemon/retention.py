"""Retention and eviction, put to work: what state/retention.py and state/eviction.py decide is done here.

A plan is made of one look at the index, and applied in small steps; before each the same question is asked again, of as
little as decides it. So whatever is saved, pinned or restored meanwhile counts.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import attrgetter
from typing import Any

from ..db import eviction, retention
from ..db.eviction import Terms
from ..state.errors import BackupNotFound, SessionNotFound, StoreFailed
from ..state.eviction import ORDINARY, Eviction, Standing, plan_eviction
from ..state.retention import AHEAD_S, Action, Policy, newest_needed, plan_retention
from .catalog import Catalog
from .in_use import InUse
from .letting_go import LettingGo, Unlinking, untold
from .trusted_time import TrustedTime

log = logging.getLogger("torpor.retention")
SWEEP_EVERY_S = 86_400.0  # what a crash left of dropped backups
MOST_AT_ONCE = 5000  # actions of one plan; then another is made
SHOWN = 1000  # actions in a report
IN_A_ROW = 16  # backups that cannot go: it is the disk, not the backups


@dataclass(frozen=True, slots=True)
class Report:
    """What went, or with `dry_run` would go. Bytes are those of blobs; `actions` are the first of them.

    `at` is the trusted time; `distrust` says why it is not the wall clock's.
    """

    at: float
    distrust: str | None
    dry_run: bool
    dropped: int = 0
    removed: int = 0
    freed_bytes: int = 0
    evicted_bytes: int = 0
    actions: list[dict[str, Any]] = field(default_factory=list)


class Retention:
    """Keeps to the TTLs, and makes room. Safe to call from several threads.

    `machine` returns this machine's name in the bucket, None without one, empty while what is known of the bucket does
    not count; `server_at` returns what its clock says.
    """

    def __init__(
        self,
        catalog: Catalog,
        time_of: TrustedTime,
        policy: Policy,
        machine: Callable[[], str | None],
        *,
        in_use: InUse | None = None,
        server_at: Callable[[], float | None] = lambda: None,
        steady: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._catalog, self.time, self._policy, self._machine = catalog, time_of, policy, machine
        self.in_use = in_use or InUse()
        self._server_at, self._steady = server_at, steady
        self._letting_go = LettingGo(catalog, machine, self.in_use, sleep)
        self._excess: Callable[[], int] = lambda: 0
        self._unlinking: Unlinking = untold
        self._reclaim: Callable[[int], int] = lambda size_bytes: 0
        self._running, self._making_room = threading.Lock(), threading.Lock()
        self._swept_at: float | None = None
        self.stopping = threading.Event()
        self.last: Report | None = None

    def excess_with(self, excess: Callable[[], int], unlinking: Unlinking = untold) -> None:
        """Learn how much is too much: `excess` returns the bytes above the soft limit; `unlinking` hears what went."""
        self._excess, self._unlinking = excess, unlinking
        self._letting_go.tell(unlinking)

    def reclaim_with(self, reclaim: Callable[[int], int]) -> None:
        """Free by this what nobody needs any more, before anything goes that somebody may want."""
        self._reclaim = reclaim

    # -- TTLs --------------------------------------------------------------------------------------------------------

    def run(self, *, dry_run: bool = False, believe_clock: bool = False) -> Report:
        """Let go of what is over, and make room down to the soft limit. With `dry_run` only tell.

        What cannot be removed stays for another time. Raises: StoreFull, StoreFailed, IndexDamaged.
        """
        with self._running:
            judged = self.time.judged(believe=believe_clock)
            if judged.distrust is not None:
                judged = self.time.judged(self._server_at())
            report = Report(judged.now, judged.distrust, dry_run)
            report = self._foretold(report) if dry_run else self._done(report)
        if not dry_run:
            self.last = report
            self._tell(report)
        return report

    def plan(self, now: float) -> list[Action]:
        """Return what is over, at most `MOST_AT_ONCE` of it; the memory it takes is that of the largest session."""
        found: list[Action] = []
        with self._catalog.index.reading() as connection:
            for _, mine in groupby(retention.tenures(connection, self._machine()), attrgetter("session_id")):
                found += plan_retention(mine, self._policy, now)
                if len(found) >= MOST_AT_ONCE:
                    break
        return found

    def _foretold(self, report: Report) -> Report:
        actions = self.plan(report.at)
        dropped = [each.backup_id for each in actions if each.verb == "drop"]
        removed = [each.backup_id for each in actions if each.verb == "remove"]
        with self._catalog.index.reading() as connection:
            freed = retention.bytes_that_go(connection, dropped, removed)
        evictions = self._plan_eviction(max(self._excess() - freed, 0))[0]
        evicted = sum(each.size_bytes for each in evictions)
        rows = [*map(_row, actions), *map(_eviction_row, evictions)][:SHOWN]
        return replace(
            report,
            dropped=len(dropped),
            removed=len(removed),
            freed_bytes=freed + evicted,
            evicted_bytes=evicted,
            actions=rows,
        )

    def _done(self, report: Report) -> Report:
        before, in_a_row = -1, 0
        while before != report.dropped + report.removed and not self.stopping.is_set():  # as long as something goes
            before = report.dropped + report.removed
            for action in self.plan(report.at):
                if self.stopping.is_set():
                    break
                try:
                    report, in_a_row = self._apply(action, report), 0
                except StoreFailed as error:  # one file that cannot be removed keeps no other, and no quota
                    in_a_row += 1
                    log.warning("%s cannot go now: %s", action.backup_id, error.detail)
                    if in_a_row >= IN_A_ROW:
                        raise
        swept = self._sweep()
        evicted = self._evict(self._excess())
        return replace(report, freed_bytes=report.freed_bytes + swept + evicted, evicted_bytes=evicted)

    def _apply(self, action: Action, report: Report) -> Report:
        """Do what was planned if it is still to be."""
        index, wanted = self._catalog.index, action.backup_id

        def still(verb: str) -> bool:
            with index.reading() as connection:
                few = newest_needed(retention.keep_newest_of(connection, wanted), self._policy)
                around = retention.tenures_around(connection, self._machine(), wanted, few, report.at + AHEAD_S)
            return any(
                (each.backup_id, each.verb) == (wanted, verb)
                for each in plan_retention(around, self._policy, report.at)
            )

        try:
            freed = self._letting_go.drop(wanted, lambda: still(action.verb), is_removed_next=action.verb == "remove")
            if freed is None:
                return report
            report = replace(report, freed_bytes=report.freed_bytes + freed)
            if action.verb == "remove":
                if not self._catalog.remove(wanted, provided=lambda: still("remove")):
                    return report
                report = replace(report, removed=report.removed + 1)
            else:
                report = replace(report, dropped=report.dropped + 1)
        except (BackupNotFound, SessionNotFound):  # removed meanwhile
            return report
        if len(report.actions) < SHOWN:
            report.actions.append(_row(action))
        return report

    def _sweep(self) -> int:
        """Let go of what is left of dropped backups, once a day: a crash may have come between."""
        now = self._steady()
        if self._swept_at is not None and now - self._swept_at < SWEEP_EVERY_S:
            return 0
        self._swept_at = now
        with self._catalog.index.reading() as connection, eviction.in_order(connection):
            found = eviction.survey(connection, self._machine(), self.in_use.ids())
            left = [each for each in found.standings if each.leftover_bytes]
            digests = [digest for each in left for digest in eviction.victims(connection, each.backup_id, "leftover")]
        return self._letting_go.blobs(digests, Terms("leftover", ORDINARY, 0, self._machine(), self.in_use.ids()))

    # -- room --------------------------------------------------------------------------------------------------------

    def make_room(self, shortfall_bytes: int, session_id: str | None = None) -> int:
        """Free so many bytes, or none when what may go is not enough; return how many were freed.

        The newest backup of `session_id` stays: a save of that session counts on its blobs.
        Raises: StoreFailed, IndexDamaged. Not under the catalog's lock.
        """
        with self._making_room:
            return self._evict(shortfall_bytes, whole=True, session_id=session_id)

    def standings(self) -> list[Standing]:
        """Return all that may leave when the room gets short, backup by backup, in no order."""
        with self._catalog.index.reading() as connection, eviction.in_order(connection):
            return eviction.survey(connection, self._machine(), self._busy(None)).standings

    def _plan_eviction(
        self, excess_bytes: int, *, whole: bool = False, session_id: str | None = None
    ) -> tuple[list[Eviction], list[list[str]], int]:
        """Return what goes, the blobs of each, and the last row that was seen."""
        if excess_bytes <= 0:
            return [], [], 0
        busy = self._busy(session_id)
        with self._catalog.index.reading() as connection, eviction.in_order(connection):
            found = eviction.survey(connection, self._machine(), busy)
            plan = plan_eviction(found.standings, excess_bytes, whole=whole)[:MOST_AT_ONCE]
            return plan, [eviction.victims(connection, each.backup_id, each.kind) for each in plan], found.last_row

    def _busy(self, session_id: str | None) -> frozenset[str]:
        ids = self.in_use.ids()
        if session_id is None:
            return ids
        newest = self._catalog.index.list_backups(session_id=session_id, limit=1)
        return ids | {each.id for each in newest}

    def _evict(self, excess_bytes: int, *, whole: bool = False, session_id: str | None = None) -> int:
        """Let go of what nobody needs, then of what somebody may want; return the bytes that were freed."""
        with self._unlinking() as unlinked:
            unneeded = self._reclaim(excess_bytes) if excess_bytes > 0 else 0
            unlinked(unneeded)
        return unneeded + self._evict_wanted(excess_bytes - unneeded, whole=whole, session_id=session_id)

    def _evict_wanted(self, excess_bytes: int, *, whole: bool, session_id: str | None) -> int:
        plan, digests, last_row = self._plan_eviction(excess_bytes, whole=whole, session_id=session_id)
        freed = 0
        for each, mine in zip(plan, digests, strict=True):
            if freed >= excess_bytes or self.stopping.is_set():
                break
            terms = Terms(each.kind, each.tier, last_row, self._machine(), self._busy(session_id))
            # Half of a KV cache is of little use: what only this machine has goes whole.
            freed += self._letting_go.blobs(mine, terms, None if each.kind == "rebuildable" else excess_bytes - freed)
        if freed:
            self._catalog.note("info", "evicted", f"{freed:,} bytes left this machine, since the room got short")
        return freed

    def _tell(self, report: Report) -> None:
        if report.dropped or report.removed:
            words = (
                f"{report.removed} backups were removed, of {report.dropped} the KV cache and embeddings were let go"
            )
            self._catalog.note("info", "retention", f"TTLs were over: {words}; {report.freed_bytes:,} bytes are free")
            log.info("TTLs were over: %s", words)


def _row(action: Action) -> dict[str, Any]:
    return {
        "what": action.verb,
        "backup_id": action.backup_id,
        "session_id": action.session_id,
        "reason": action.reason,
        "size_bytes": None,
    }


_WHY = {
    "leftover": "nobody keeps these blobs any more",
    "fetchable": "the room is short, and the bucket has it",
    "rebuildable": "the room is short, and it can be computed again",
}


def _eviction_row(each: Eviction) -> dict[str, Any]:
    return {
        "what": f"evict {each.kind}",
        "backup_id": each.backup_id,
        "session_id": None,
        "reason": _WHY[each.kind],
        "size_bytes": each.size_bytes,
    }
