"""How everything is, as one state and one sentence that is true: of a tray, a command line, and a page alike.

What is worst is said. Pure: the facts come in, and the time at which the sentence is read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal, get_args

from .quota import Disk, Limits, in_words

Level = Literal["ok", "busy", "paused", "offline", "attention"]
Kind = Literal[
    "damaged",  # backups that cannot come back whole
    "given-up",  # uploads that no repetition mends
    "refused",  # the storage does not let us in, or the key is missing: somebody has to do something
    "disk-full",  # the disk has less free than the home leaves to others
    "quota-full",  # the home may take no more
    "watch",  # a watched folder cannot be read
    "pairing",  # a web page asks for access
    "paused",
    "offline",
    "storage-trouble",  # heals by itself
    "looking",  # what the bucket has is not known yet
    "sending",
    "empty",
    "safe",  # everything is in the second copy, but for what is to stay here
    "local",  # everything is on this machine, and nowhere else
]
REFUSED = frozenset({"denied", "key-missing", "unusable", "clock-skew", "disk-full"})  # states of sync
TROUBLED = frozenset({"throttled", "failing"})
AHEAD_S = 120.0  # by which a backup may seem to be of the future


@dataclass(frozen=True, slots=True)
class Facts:
    """What is to be known. Counts are of backups where nothing else is said; times in seconds since the epoch."""

    sessions: int = 0
    staying: int = 0  # of them: never leave this machine, as the user says
    last_backup_at: float | None = None
    damaged: int = 0
    sync: str = "off"  # its state, as `torpor sync status` says it
    sync_reason: str | None = None
    looked: bool = True  # at the bucket, since the start: before, nothing is known of the second copy
    waiting: int = 0
    given_up: int = 0  # uploads
    removals_given_up: int = 0  # of what was removed here, from the bucket
    paused_until: float | None = None
    disk_free_bytes: int = 0
    disk_full: bool = False
    quota_full: bool = False
    watch_trouble: str | None = None
    on_battery: bool = False
    waiting_for_power: int = 0  # backups whose KV caches go up once the machine is plugged in
    asking: tuple[str, ...] = ()  # origins of web pages that wait for approval


@dataclass(frozen=True, slots=True)
class Summary:
    """The worst that is true, and the facts to say it with."""

    level: Level
    kind: Kind
    facts: Facts

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"level": self.level, "kind": self.kind, **asdict(self.facts)}

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Summary:
        """Read what `to_dict` wrote; what a newer daemon adds is left out."""
        facts = {field.name: found[field.name] for field in fields(Facts) if field.name in found}
        facts["asking"] = tuple(facts.get("asking", ()))
        kind: Kind = found["kind"] if found["kind"] in get_args(Kind) else "local"
        return cls(found["level"], kind, Facts(**facts))


def summarise(facts: Facts) -> Summary:
    """Say what is worst."""
    for level, kind, holds in _ORDER:
        if holds(facts):
            return Summary(level, kind, facts)
    return Summary("ok", "local" if facts.sync == "off" or facts.staying >= facts.sessions else "safe", facts)


_ORDER: tuple[tuple[Level, Kind, Callable[[Facts], bool]], ...] = (
    ("attention", "damaged", lambda facts: facts.damaged > 0),
    ("attention", "disk-full", lambda facts: facts.disk_full),
    ("attention", "quota-full", lambda facts: facts.quota_full),
    ("attention", "given-up", lambda facts: facts.given_up + facts.removals_given_up > 0),
    ("attention", "refused", lambda facts: facts.sync in REFUSED),
    ("attention", "watch", lambda facts: facts.watch_trouble is not None),
    ("attention", "pairing", lambda facts: len(facts.asking) > 0),
    ("paused", "paused", lambda facts: facts.sync == "paused"),
    ("offline", "offline", lambda facts: facts.sync == "offline"),
    ("offline", "storage-trouble", lambda facts: facts.sync in TROUBLED),
    ("busy", "looking", lambda facts: facts.sync == "idle" and not facts.looked),
    ("busy", "sending", lambda facts: facts.sync == "busy" or facts.waiting > 0),
    ("ok", "empty", lambda facts: facts.sessions == 0),
)


def fullness(limits: Limits, disk: Disk) -> tuple[bool, bool]:
    """Tell whether the disk is full, and whether the quota is: a save of KV would have to let go of something first."""
    top = limits.hard_bytes - limits.reserve_bytes
    return disk.free_bytes < limits.floor_bytes, disk.used_bytes + disk.promised_bytes >= top


def sentence(summary: Summary, now: float) -> str:
    """Say it in one sentence, read at `now`. What is said of time is in local time."""
    facts = summary.facts
    match summary.kind:
        case "damaged":
            return f"{_count(facts.damaged, 'backup')} {_be(facts.damaged)} damaged"
        case "disk-full":
            return f"Disk nearly full: {in_words(facts.disk_free_bytes)} free"
        case "quota-full":
            return "The quota is used up: old KV caches make room for new ones"
        case "given-up":
            return f"{_given_up(facts)} given up{_waiting(facts)}"
        case "refused":
            return f"{_REFUSED.get(facts.sync, 'The second copy needs you')}{_waiting(facts)}"
        case "watch":
            return "A watched folder cannot be read"
        case "pairing":
            others = len(facts.asking) - 1
            return f"{facts.asking[0]} asks for access" + (f", and {_count(others, 'other')}" if others else "")
        case "paused":
            return f"Sync is paused{_until(facts.paused_until, now)}{_waiting(facts)}"
        case "offline":
            return f"Offline{_waiting(facts)}"
        case "storage-trouble":
            return f"The storage is in trouble{_waiting(facts)}"
        case "looking":
            return f"Looking at the bucket{_waiting(facts)}"
        case "sending" if facts.sync != "busy":  # before its turn, or before it is tried again
            return f"{_count(facts.waiting, 'backup')} {_wait(facts.waiting)} to be sent"
        case "sending":
            return f"Sending {_count(facts.waiting, 'backup')}" if facts.waiting else "Sending"
        case "empty":
            return "Nothing sleeps here yet"
        case "safe":
            return f"{_safe(facts)}{_last(facts, now)}{_for_power(facts)}"
    return f"{_count(facts.sessions, 'session')} saved on this machine{_last(facts, now)}"


_REFUSED = {
    "denied": "The storage does not let us in",
    "key-missing": "The key of the bucket is missing",
    "unusable": "The bucket cannot be used",
    "clock-skew": "The clock is wrong",
    "disk-full": "The disk is too full to send",
}


def ago(seconds: float) -> str:
    """Say how long ago something was."""
    if seconds < 45:
        return "a moment ago"
    for limit, unit, name in ((90 * 60, 60, "min"), (36 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{max(round(seconds / unit), 1)} {name} ago"
    return f"{round(seconds / 86_400)} days ago"


def _safe(facts: Facts) -> str:
    safe, staying = facts.sessions - facts.staying, facts.staying
    if staying:
        stay = "stays" if staying == 1 else "stay"
        return f"{_count(safe, 'session')} {_be(safe)} safe, {staying:,} {stay} on this machine"
    return "The one session is safe" if safe == 1 else f"All {safe} sessions are safe"


def _last(facts: Facts, now: float) -> str:
    """Say when the last backup was made; one of the future was made before the clock was set back."""
    if facts.last_backup_at is None or facts.last_backup_at - now > AHEAD_S:
        return ""
    return f", last {ago(now - facts.last_backup_at)}"


def _given_up(facts: Facts) -> str:
    if many := facts.given_up:
        return f"{_count(many, 'upload')} {_be(many)}"
    many = facts.removals_given_up
    return f"{_count(many, 'removal')} from the bucket {_be(many)}"


def _until(at: float | None, now: float) -> str:
    if at is None:
        return ""
    form = "%H:%M" if at - now < 20 * 3600 else "%d %b %H:%M"
    return f" until {datetime.fromtimestamp(at).strftime(form)}"  # noqa: DTZ006  (local time is what is wanted)


def _waiting(facts: Facts) -> str:
    return f", {_count(facts.waiting, 'backup')} {_wait(facts.waiting)}" if facts.waiting else ""


def _for_power(facts: Facts) -> str:
    many = facts.waiting_for_power
    return f"; {_count(many, 'KV cache')} {_wait(many)} for mains power" if many else ""


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _wait(number: int) -> str:
    return "waits" if number == 1 else "wait"


def _be(number: int) -> str:
    return "is" if number == 1 else "are"
