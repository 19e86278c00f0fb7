"""What may go out of a bucket that several machines share, without a lock. Pure.

A blob's object that no record names is *condemned* first, and deleted later, after a fresh look at all records. What is
condemned is never named anew, and never acquitted: a writer that needs the blob sends it again. A record is trusted
only when its writer, behind the commit, found none of its objects condemned or gone (sync/push.py). So:

    An object O of a checked record R is never deleted while R is there.

Let O be condemned at time c, R be committed at r, and R's writer read the condemnations at w; r < w. If c < w, the
writer saw it (a condemnation is withdrawn only when its object is gone, and the writer looks for objects after it read
the condemnations), so R is not checked. Else r < w < c, and a collector deletes only by a listing of records that was
begun after it had read of the condemnation, so after c: R is in it. None of it rests on a clock; the grace times keep
it rare that a writer must send again, and let readers end in peace.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

HOUR_S, DAY_S = 3600.0, 86400.0
CLOCKS_APART_S = 900.0


@dataclass(frozen=True, slots=True)
class Grace:
    """How long an object lies unnamed before it is condemned, condemned before it is deleted, and remembered then."""

    condemn_after_s: float = 72 * HOUR_S
    delete_after_s: float = 24 * HOUR_S
    forget_after_s: float = 30 * DAY_S


@dataclass(frozen=True, slots=True)
class Seen:
    """What was listed: blobs with their time, and condemnations (by their blob) with theirs; the server's seconds.

    The condemnations were listed first, then the blobs, then the records, of which `named` are all objects.
    """

    now: float
    condemned: Mapping[str, float]
    blobs: Mapping[str, float]
    named: Collection[str]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to condemn, to delete, and whose condemnation to withdraw: names of blobs' objects, in order."""

    condemn: tuple[str, ...]
    delete: tuple[str, ...]
    withdraw: tuple[str, ...]


def judge(seen: Seen, grace: Grace) -> Verdict:
    """Decide what goes. A time that lies ahead of `now` counts as new."""
    unnamed = seen.blobs.keys() - set(seen.named)
    old = {n for n in unnamed - seen.condemned.keys() if seen.now - seen.blobs[n] > grace.condemn_after_s}
    due = {n for n in unnamed & seen.condemned.keys() if seen.now - seen.condemned[n] > grace.delete_after_s}
    gone = {n for n, at in seen.condemned.items() if n not in seen.blobs and seen.now - at > grace.forget_after_s}
    return Verdict(tuple(sorted(old)), tuple(sorted(due)), tuple(sorted(gone)))


def clock_jumped(seen: Seen, here: float) -> bool:
    """Tell whether the server's clock cannot be trusted: objects of its future, or another time than ours."""
    newest = max([*seen.blobs.values(), *seen.condemned.values()], default=seen.now)
    return newest - seen.now > CLOCKS_APART_S or abs(seen.now - here) > CLOCKS_APART_S
