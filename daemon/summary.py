"""How everything is: the facts behind the one sentence of the status, from the parts of a daemon."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..db.damage import damaged_bytes
from ..db.standing import standing
from ..state.summary import Facts, Kind, Level, Summary, fullness, sentence, summarise
from .parts import Parts
from .sync_report import state_of


def summary_report(parts: Parts, now: float, *, with_asking: bool) -> dict[str, Any]:
    """Return the summary for `/v1/status`, said at `now`; `with_asking` the pages that wait for approval are known.

    Raises: IndexDamaged, StoreFailed.
    """
    facts = facts_of(parts)
    found = summarise(facts if with_asking else replace(facts, asking=()))
    return found.to_dict() | {"sentence": sentence(found, now)}


def facts_of(parts: Parts) -> Facts:
    """Look everything up. Raises: IndexDamaged, StoreFailed."""
    manifests = parts.care.manifests.damaged()
    with parts.catalog.index.reading() as connection:
        found = standing(connection)
        torn = len(manifests - damaged_bytes(connection, sorted(manifests)).keys()) if manifests else 0
    limits, disk = parts.room.state()
    disk_full, quota_full = fullness(limits, disk)
    side, described = parts.side, parts.side.pump.describe() if parts.side.on else {}
    choices = side.choices
    troubles = [watch["problem"]["detail"] for watch in parts.watches.describe() if watch["problem"]]
    return Facts(
        sessions=found.sessions,
        staying=found.staying if side.on else 0,
        last_backup_at=found.last_backup_at,
        damaged=found.damaged + torn,
        sync=state_of(side),
        sync_reason=described.get("reason"),
        looked=not side.on or side.pump.looked,
        waiting=found.waiting if side.on else 0,
        given_up=found.given_up if side.on else 0,
        removals_given_up=found.removals_given_up if side.on else 0,
        paused_until=choices.paused_until if choices.paused_at is not None else None,
        disk_free_bytes=disk.free_bytes,
        disk_full=disk_full,
        quota_full=quota_full,
        watch_trouble=troubles[0] if troubles else None,
        on_battery=parts.power.on_battery,
        waiting_for_power=0 if parts.power.may() else found.waiting_for_power,
        asking=tuple(request.origin for request in parts.pairing.waiting() if request.state == "pending"),
    )


class SummaryWatch:
    """Notes that how everything is became other by itself: a disk that others fill or free tells nobody."""

    def __init__(self, summary: Callable[[], Summary], note: Callable[[], None]) -> None:
        self._summary, self._note = summary, note
        self._seen: tuple[Level, Kind] | None = None

    def look(self) -> None:
        """Look now. Raises: IndexDamaged, StoreFailed."""
        found = self._summary()
        before, self._seen = self._seen, (found.level, found.kind)
        if self._seen != before:
            self._note()


def power_report(parts: Parts, waiting_uploads: int) -> dict[str, Any]:
    """Tell where the power comes from, and by names of state/power.py what waits for the mains, with the reason."""
    power = parts.power
    waiting = [*(["kv"] if waiting_uploads else []), *power.waiting()]
    return {"on_battery": power.on_battery, "always": power.always, "waiting": waiting, "reason": power.why_not()}
