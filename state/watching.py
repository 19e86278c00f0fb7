"""Watched folders: which file is imported now, which is looked at again and when, and which is forgotten.

The truth is a listing compared with what is remembered; what announced a change does not matter. `now_s` is of a clock
that never jumps, `wall_s` is seconds since the epoch. Paths are as the system gives them: a name that is not UTF-8
carries surrogates, and `printable` makes a text of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from .errors import BadInput, TorporError, error_classes
from .problems import from_problem

SUFFIXES = (".qwnbak", ".pt")
SETTLE_S = 1.0  # a file must have looked the same for so long
RETRY_AT_MOST_S = 300.0

FileState = Literal["ok", "failed"]


@dataclass(frozen=True, slots=True)
class Signature:
    """What tells that a file is another than before. The inode is 0 where the file system makes it up."""

    size_bytes: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, size_bytes: int, mtime_ns: int, inode: int) -> Signature:
        """Make a signature of numbers that the index can hold: inodes use all 64 bits, and so does the year 2400."""
        return cls(size_bytes, signed(mtime_ns), signed(inode))

    def matches(self, expected: Signature) -> bool:
        """Tell whether a file is the expected one; inode 0 is any inode."""
        same = (self.size_bytes, self.mtime_ns) == (expected.size_bytes, expected.mtime_ns)
        return same and expected.inode in (0, self.inode)


def signed(number: int) -> int:
    """Read the low 64 bits of a number as a signed one."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


@dataclass(frozen=True, slots=True)
class Found:
    """A file as a listing shows it. The time of its last change of status tells of permissions that were given."""

    signature: Signature
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class WatchedFile:
    """A file that was read, as it was then: a backup now, or why not."""

    path: str
    folder: str
    signature: Signature
    ctime_ns: int
    state: FileState
    code: str | None
    detail: str | None
    backup_id: str | None
    at: float


@dataclass(frozen=True, slots=True)
class Look:
    """A file that waits: since when it looks as it does, when to look again, how often it was tried in vain."""

    signature: Signature
    since_s: float
    due_s: float
    attempts: int = 0
    busy: bool = False  # somebody had it open: what happens in its folder is a reason to try at once


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do about one listing: files to import, oldest first; all that wait; what is no longer there."""

    ready: tuple[str, ...]
    looks: dict[str, Look]
    gone: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """What an import came to, or a look at a file. `seen` is the signature of the file that was really read."""

    outcome: Literal["imported", "known", "failed", "busy", "previewed"]
    seen: Signature | None = None
    backup_id: str | None = None
    session_id: str | None = None
    error: TorporError | None = None
    preview: dict[str, Any] | None = None

    @property
    def transient(self) -> bool:
        """Tell whether the failure may heal by itself, without a change of the file."""
        return self.error is not None and self.error.retryable


def is_watched_name(name: str) -> bool:
    """Tell whether a file of this name is imported."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


def printable(path: str) -> str:
    """Return a path as text that can be sent and shown."""
    text = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def is_utf8(path: str) -> bool:
    """Tell whether a path can be sent as it is."""
    return not any("\ud800" <= c <= "\udfff" for c in path)


def matches(row: WatchedFile, found: Found) -> bool:
    """Tell whether a file is as it was when it was read. One that failed is new with its permissions, too."""
    return row.signature == found.signature and (row.state == "ok" or row.ctime_ns == found.ctime_ns)


def plan(
    listing: Mapping[str, Found],
    known: Mapping[str, WatchedFile],
    looks: Mapping[str, Look],
    *,
    now_s: float,
    wall_s: float,
    settle_s: float = SETTLE_S,
    announced: bool = False,
) -> Plan:
    """Compare a listing with what is remembered of the same part of the folder.

    A file is ready when two looks at least `settle_s` apart saw the same and it was not modified in the last
    `settle_s`; a modification in the future says nothing. `announced`: something happened in its folder just now.
    """
    kept: dict[str, Look] = {}
    ready: list[str] = []
    for path, found in listing.items():
        row, look = known.get(path), looks.get(path)
        if row is not None and matches(row, found):
            continue
        if look is None or look.signature != found.signature:
            kept[path] = Look(found.signature, now_s, now_s + settle_s)
        elif now_s < look.due_s and not (announced and look.busy):
            kept[path] = look
        else:
            wait_s = _unsettled_s(look, now_s, wall_s, settle_s)
            kept[path] = replace(look, due_s=now_s + wait_s)
            if wait_s <= 0:
                ready.append(path)
    ready.sort(key=lambda path: (listing[path].signature.mtime_ns, path))
    return Plan(tuple(ready), kept, tuple(sorted(known.keys() - listing.keys())))


def _unsettled_s(look: Look, now_s: float, wall_s: float, settle_s: float) -> float:
    age_s = wall_s - look.signature.mtime_ns / 1e9
    fresh_s = settle_s - age_s if age_s >= 0 else 0.0
    return max(look.since_s + settle_s - now_s, fresh_s, 0.0)


def later(look: Look, *, now_s: float, busy: bool) -> Look:
    """Put a file off that could not be imported now, each time for longer."""
    delay_s = min(2.0**look.attempts, RETRY_AT_MOST_S)
    return replace(look, attempts=min(look.attempts + 1, 30), due_s=now_s + delay_s, busy=busy)


def remember(path: str, folder: str, found: Found, answer: Answer, *, at: float) -> WatchedFile:
    """Describe a file whose import came to an end that lasts until the file changes."""
    seen = answer.seen or found.signature
    if not found.signature.inode:
        seen = replace(seen, inode=0)
    error = answer.error
    return WatchedFile(
        path=path,
        folder=folder,
        signature=seen,
        ctime_ns=found.ctime_ns,
        state="ok" if error is None else "failed",
        code=None if error is None else error.code,
        detail=None if error is None else error.detail,
        backup_id=answer.backup_id,
        at=at,
    )


def says_the_same(old: WatchedFile | None, new: WatchedFile) -> bool:
    """Tell whether a failure was reported already: the same reason for the same content."""
    return old is not None and (old.signature, old.code, old.detail) == (new.signature, new.code, new.detail)


def answer_of(value: Any) -> Answer:
    """Read what an import worker said. Raises: BadInput."""
    try:
        seen = None if value.get("seen") is None else Signature.of(**{k: int(v) for k, v in value["seen"].items()})
        match value["outcome"]:
            case "imported" | "known" as outcome:
                backup = value["backup"]
                return Answer(outcome, seen, str(backup["id"]), str(backup["session_id"]))
            case "failed":
                return Answer("failed", seen, error=_error(value["problem"]))
            case "busy":
                return Answer("busy", seen)
            case "previewed":
                return Answer("previewed", seen, preview=dict(value["preview"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"the import worker said something unknown: {type(error).__name__}: {error}") from error
    raise BadInput(f"the import worker came to an unknown outcome: {str(value['outcome'])[:80]}")


def _error(problem: Mapping[str, Any]) -> TorporError:
    if problem["code"] not in error_classes():
        return TorporError(f"{problem['code']}: {problem.get('detail')}", hint=problem.get("hint"))
    return from_problem(problem)
