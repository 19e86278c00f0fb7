"""Which time TTLs are judged by. Pure: a clock that jumps must delete nothing.

The wall clock may be set to anything; the time since the start of the machine (with what it slept) cannot. So within
one run of the machine the two must go together. Over a restart nobody knows how long the machine was off: up to
`BELIEVED_GAP_S` the wall clock is believed, and beyond that only with a witness: a kernel whose clock is synchronised,
the bucket's own clock, or the user.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

DAY_S = 86_400.0
BELIEVED_GAP_S = 30 * DAY_S  # that a machine may have been off
TOLERANCE_S = 120.0  # that the two clocks may be apart
DRIFT = 1e-3  # of what has passed: a clock that is being slewed, or a quartz that runs warm
WITNESS_S = 3600.0  # how near the bucket's clock must be


@dataclass(frozen=True, slots=True)
class Reading:
    """What the clocks say at one moment: wall clock, seconds since the machine's start (asleep or not), which start.

    `synchronised`: the kernel is told the time by a server. `server_at`: what the bucket's clock says, if it was asked.
    """

    wall: float
    up_s: float
    boot_id: str
    synchronised: bool = False
    server_at: float | None = None


@dataclass(frozen=True, slots=True)
class Anchor:
    """A moment that was judged: the trusted time, and how long the machine had been up. Clocks are compared with it.

    `seen` is the latest time that was told. `sure`: the wall clock was believed in this run of the machine, and must
    keep step from here.
    """

    trusted: float
    up_s: float
    boot_id: str
    seen: float
    sure: bool = True


@dataclass(frozen=True, slots=True)
class Judged:
    """The trusted time, and why it is not the wall clock's; `anchor` is what to judge the next reading by."""

    now: float
    distrust: str | None
    anchor: Anchor


def judge(anchor: Anchor | None, reading: Reading, *, believe: bool = False) -> Judged:
    """Return the trusted time. It never goes back, and a jump of the wall clock does not move it.

    `believe`: the user says that the wall clock is right, forwards or backwards.
    """
    if anchor is None or believe:
        return _believed(reading.wall, reading)
    same_run = anchor.boot_id == reading.boot_id and reading.up_s >= anchor.up_s
    passed_s = reading.up_s - anchor.up_s if same_run else max(reading.up_s, 0.0)
    least = (anchor.trusted if same_run else anchor.seen) + passed_s  # at least so late it is
    slack_s = TOLERANCE_S + DRIFT * passed_s
    ahead_s = reading.wall - least
    if same_run and anchor.sure:
        if abs(ahead_s) <= slack_s:
            now = max(reading.wall, anchor.seen)
            return Judged(now, None, replace(anchor, seen=now))
    elif -slack_s <= ahead_s <= BELIEVED_GAP_S:
        return _believed(max(reading.wall, anchor.seen), reading)
    if ahead_s > 0 and _is_witnessed(reading):
        return _believed(reading.wall, reading)
    now = max(least, anchor.seen)
    sure = same_run and anchor.sure
    return Judged(now, _why(ahead_s), Anchor(least, reading.up_s, reading.boot_id, now, sure))


def first_anchor(newest_at: float | None, reading: Reading) -> Anchor | None:
    """Return what to judge by where nothing was kept: the newest backup was made no longer ago than that.

    None: the wall clock is believed. Too early a time deletes nothing.
    """
    if newest_at is None or reading.wall <= newest_at:
        return None
    return Anchor(newest_at, reading.up_s, reading.boot_id, newest_at, sure=False)


def _believed(now: float, reading: Reading) -> Judged:
    return Judged(now, None, Anchor(now, reading.up_s, reading.boot_id, now))


def _is_witnessed(reading: Reading) -> bool:
    server = reading.server_at is not None and abs(reading.server_at - reading.wall) <= WITNESS_S
    return reading.synchronised or server


def _why(ahead_s: float) -> str:
    days = abs(ahead_s) / DAY_S
    far = f"{days:,.1f} days" if days >= 1 else f"{abs(ahead_s) / 60:.0f} minutes"
    return (
        f"the clock is {far} {'ahead of' if ahead_s > 0 else 'behind'} the time that has passed since it was last right"
    )
