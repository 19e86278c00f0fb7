"""How the remote side is: what a failure says of it, and when it is tried again. Pure.

| state | what it means |
|---|---|
| `off` | no storage is configured |
| `idle`, `busy` | all is sent; something is being sent |
| `paused` | the user stopped it |
| `offline` | the storage cannot be reached |
| `throttled` | it asks for fewer requests |
| `failing` | it answers with failures of its own, whatever is asked |
| `denied` | it does not accept the credentials |
| `clock-skew` | the clocks are too far apart |
| `key-missing` | what is stored is encrypted, and the key is not here |
| `unusable` | there is no such bucket, or it holds something else |
| `disk-full` | what goes up cannot be prepared: this machine's disk is full |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from .errors import (
    BucketNotFound,
    ClockSkewed,
    KeyMissing,
    Offline,
    RemoteDenied,
    RemoteFailed,
    RemoteRefused,
    StoreFull,
    Throttled,
    Timeout,
    TorporError,
    UnknownRepository,
    WrongPassphrase,
)

Trouble = Literal[
    "offline", "throttled", "failing", "denied", "clock-skew", "key-missing", "unusable", "disk-full"
]  # fmt: skip
RemoteState = Literal["off", "idle", "busy", "paused"] | Trouble

Verdict = Literal["remote", "ask", "item"]

TELLING_AGAIN_S = 3600.0  # an event of the same trouble comes no more often
ASKED: tuple[Trouble, ...] = ("offline", "failing", "denied", "clock-skew", "unusable")  # over once the bucket answers
_PACES: dict[Trouble, tuple[float, float, float]] = {  # first delay, factor, longest
    "offline": (3.0, 1.5, 10.0),  # a cheap look, so that it goes on within seconds
    "throttled": (2.0, 2.0, 300.0),
    "failing": (5.0, 2.0, 300.0),
    "clock-skew": (30.0, 1.0, 30.0),  # a clock is set without a word to us
    "denied": (60.0, 2.0, 900.0),
    "key-missing": (60.0, 2.0, 900.0),
    "unusable": (60.0, 2.0, 900.0),
    "disk-full": (30.0, 2.0, 300.0),
}
LONG_OFFLINE, LONG_OFFLINE_S = 90, 60.0  # looks, about a quarter of an hour; a network that comes back says so itself
LONGEST_SEEN_BY_PUSHES_S = 60.0  # each look is another item's turn


@dataclass(frozen=True, slots=True)
class Troubled:
    """A trouble of the whole remote side: nothing is sent, and no attempt is burnt.

    `since` is in seconds of the wall clock, `retry_at` in those of a clock that no one sets. With `by_pushes` it
    answers, and one backup after the other is refused: by a storage that is full, or for keys that only read.
    """

    name: Trouble
    code: str
    detail: str
    hint: str
    since: float
    tries: int
    retry_at: float
    by_pushes: bool = False


def trouble_of(error: TorporError) -> Trouble:
    """Return how the remote side is when a request that has nothing to do with an item ends so."""
    if isinstance(error, Offline):
        return "offline"
    if isinstance(error, Throttled):
        return "throttled"
    if isinstance(error, RemoteDenied):
        return "denied"
    if isinstance(error, ClockSkewed):
        return "clock-skew"
    if isinstance(error, (KeyMissing, WrongPassphrase)):
        return "key-missing"
    if isinstance(error, StoreFull):
        return "disk-full"
    if isinstance(error, (BucketNotFound, UnknownRepository, RemoteRefused)):
        return "unusable"
    return "failing"


def verdict(error: TorporError) -> Verdict:
    """Tell whose failure an error of a push is: of the remote side, of the item, or unknown until the bucket is asked.

    The same answer (403, 500, no answer in time) comes of a policy on one object and of a storage that is down.
    """
    if isinstance(error, (Offline, Throttled, ClockSkewed, KeyMissing, WrongPassphrase, UnknownRepository, StoreFull)):
        return "remote"
    if isinstance(error, (RemoteDenied, RemoteFailed, RemoteRefused, Timeout, BucketNotFound)):
        return "ask"
    return "item"


def next_trouble(
    before: Troubled | None,
    error: TorporError,
    *,
    wall: float,
    steady: float,
    random: Callable[[], float],
    by_pushes: bool = False,
) -> Troubled:
    """Return the trouble that an error is, or goes on to be, and when the remote side is looked at again."""
    name = trouble_of(error)
    same = before if before is not None and before.name == name else None
    tries = 0 if same is None else same.tries + 1
    since = wall if same is None else same.since
    asked = getattr(error, "retry_after_s", None)
    least = float(asked) if isinstance(asked, (int, float)) else 0.0
    delay = _delay(name, tries, random, least)
    at = steady + (min(delay, LONGEST_SEEN_BY_PUSHES_S) if by_pushes else delay)
    return Troubled(name, error.code, error.detail, error.hint, since, tries, at, by_pushes)


def later(trouble: Troubled, *, steady: float, random: Callable[[], float]) -> Troubled:
    """Return a trouble that a cheap look has found unchanged."""
    tries = trouble.tries + 1
    return replace(trouble, tries=tries, retry_at=steady + _delay(trouble.name, tries, random, 0.0))


def _delay(name: Trouble, tries: int, random: Callable[[], float], least: float) -> float:
    """Return how long to wait, with jitter in the upper half, so that many machines do not come back at once."""
    first, factor, longest = _PACES[name]
    if name == "offline" and tries > LONG_OFFLINE:
        longest = LONG_OFFLINE_S
    delay = min(longest, first * factor ** min(tries, 40)) * (0.5 + 0.5 * random())
    return max(delay, min(least, longest))
