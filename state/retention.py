"""What the user wants kept, and what may go when a TTL is over. Pure.

KV cache and embeddings can be made again: they are let go first, whether S3 has them or not. Text, tokens and media
cannot: they wait until S3 has them, checked, where there is S3 for them. The newest backup of a session stays, without
its KV cache. Nothing goes that is pinned, or among the newest that the user wants kept.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

SecondCopy = Literal["off", "waits", "checked"]
Verb = Literal["drop", "remove"]

USED_S = 86_400.0  # what somebody has restored is not touched for so long
AHEAD_S = 86_400.0  # a backup from so far in the future was made under a wrong clock


@dataclass(frozen=True, slots=True)
class Tenure:
    """A backup as far as it matters here. Times in seconds since the epoch.

    `rebuildable`: it has a KV cache or embeddings that can be made again; `dropped`: they were let go. `second_copy` is
    that of its text, tokens and media; it is off where nothing of the session leaves this machine. `keep_newest` is the
    session's own.
    """

    id: str
    session_id: str
    created_at: float
    expires_at: float | None
    used_at: float
    pinned: bool
    rebuildable: bool
    dropped: bool
    second_copy: SecondCopy
    keep_newest: int | None = None

    def is_over(self, now: float) -> bool:
        """Tell whether its TTL is over. One that was restored lately gets a day, or its TTL."""
        if self.expires_at is None or self.expires_at > now:
            return False
        used_until = self.used_at + min(USED_S, max(self.expires_at - self.created_at, 0.0))
        return used_until <= now or self.used_at > now + AHEAD_S  # which a wrong clock said


@dataclass(frozen=True, slots=True)
class Policy:
    """The settings: how many of the newest backups of a session outlive their TTL."""

    keep_newest: int = 0


@dataclass(frozen=True, slots=True)
class Action:
    """What becomes of a backup: `drop` lets its KV cache and embeddings go, `remove` all that is here of it."""

    verb: Verb
    backup_id: str
    session_id: str
    reason: str


def plan_retention(backups: Iterable[Tenure], policy: Policy, now: float) -> list[Action]:
    """Return what goes now, oldest first. `now` is the trusted time (state/trusted_clock.py).

    The newest `newest_needed` backups of a session and any others give for those the same as all of them.
    """
    by_session: dict[str, list[Tenure]] = {}
    for each in backups:
        by_session.setdefault(each.session_id, []).append(each)
    return [action for mine in by_session.values() for action in _of_session(mine, policy, now)]


def newest_needed(keep_newest: int | None, policy: Policy) -> int:
    """Return how many of the newest backups of a session decide on its others."""
    return max(policy.keep_newest if keep_newest is None else keep_newest, 1)


def _of_session(backups: list[Tenure], policy: Policy, now: float) -> Iterable[Action]:
    backups.sort(key=lambda each: (each.created_at, each.id), reverse=True)
    kept_count = backups[0].keep_newest if backups[0].keep_newest is not None else policy.keep_newest
    # Under a wrong clock "newest" may have been said of others for years: the newest of today counts as well.
    today = [each for each in backups if each.created_at <= now + AHEAD_S]
    kept = {each.id for each in (*backups[:kept_count], *today[:kept_count])}
    newest = {each.id for each in (*backups[:1], *today[:1])}
    for each in reversed(backups):
        if each.pinned or each.id in kept or not each.is_over(now):
            continue
        if each.id not in newest and each.second_copy != "waits":
            yield Action("remove", each.id, each.session_id, _WHY[each.second_copy])
        elif each.rebuildable and not each.dropped:
            why = "the newest of its session stays" if each.id in newest else "text, tokens and media wait for S3"
            yield Action("drop", each.id, each.session_id, f"its TTL is over; {why}")


_WHY: dict[SecondCopy, str] = {
    "off": "its TTL is over",
    "checked": "its TTL is over, and S3 has its text, tokens and media",
    "waits": "",
}
