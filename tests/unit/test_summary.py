"""One sentence of how everything is: what is worst is said, and what is said is true."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from torpor.state.quota import GIB, Disk, Limits
from torpor.state.summary import Facts, Summary, ago, fullness, sentence, summarise

NOW = 1_800_000_000.0
WELL = Facts(sessions=14, last_backup_at=NOW - 120, sync="idle")


def said(facts: Facts) -> tuple[str, str]:
    found = summarise(facts)
    return found.level, sentence(found, NOW)


@pytest.mark.parametrize(
    ("facts", "level", "words"),
    [
        (WELL, "ok", "All 14 sessions are safe, last 2 min ago"),
        (replace(WELL, sessions=1), "ok", "The one session is safe, last 2 min ago"),
        (replace(WELL, sync="off"), "ok", "14 sessions saved on this machine, last 2 min ago"),
        (Facts(), "ok", "Nothing sleeps here yet"),
        (replace(WELL, sync="busy", waiting=1), "busy", "Sending 1 backup"),
        (replace(WELL, sync="idle", waiting=2), "busy", "2 backups wait to be sent"),
        (replace(WELL, looked=False), "busy", "Looking at the bucket"),
        (replace(WELL, looked=False, waiting=3), "busy", "Looking at the bucket, 3 backups wait"),
        (replace(WELL, looked=False, sync="off"), "ok", "14 sessions saved on this machine, last 2 min ago"),
        (replace(WELL, staying=2), "ok", "12 sessions are safe, 2 stay on this machine, last 2 min ago"),
        (replace(WELL, staying=13), "ok", "1 session is safe, 13 stay on this machine, last 2 min ago"),
        (replace(WELL, staying=14), "ok", "14 sessions saved on this machine, last 2 min ago"),
        (replace(WELL, last_backup_at=NOW + 86_400), "ok", "All 14 sessions are safe"),  # the clock was set back
        (replace(WELL, removals_given_up=1), "attention", "1 removal from the bucket is given up"),
        (replace(WELL, removals_given_up=3, given_up=1), "attention", "1 upload is given up"),
        (replace(WELL, sync="offline", waiting=3), "offline", "Offline, 3 backups wait"),
        (replace(WELL, sync="offline"), "offline", "Offline"),
        (replace(WELL, sync="throttled", waiting=1), "offline", "The storage is in trouble, 1 backup waits"),
        (replace(WELL, sync="paused", waiting=3), "paused", "Sync is paused, 3 backups wait"),
        (replace(WELL, sync="denied"), "attention", "The storage does not let us in"),
        (replace(WELL, given_up=2, waiting=1), "attention", "2 uploads are given up, 1 backup waits"),
        (replace(WELL, damaged=1, sync="offline"), "attention", "1 backup is damaged"),
        (replace(WELL, disk_full=True, disk_free_bytes=GIB), "attention", "Disk nearly full: 1.0 GiB free"),
        (replace(WELL, watch_trouble="gone"), "attention", "A watched folder cannot be read"),
        (replace(WELL, asking=("https://a",)), "attention", "https://a asks for access"),
        (
            replace(WELL, asking=("https://a", "https://b", "https://c")),
            "attention",
            "https://a asks for access, and 2 others",
        ),
    ],
)
def test_the_worst_is_said(facts: Facts, level: str, words: str) -> None:
    assert said(facts) == (level, words)


def test_an_end_of_a_pause_is_a_time_of_the_day() -> None:
    level, words = said(replace(WELL, sync="paused", paused_until=NOW + 1800))
    assert (level, words) == ("paused", f"Sync is paused until {time.strftime('%H:%M', time.localtime(NOW + 1800))}")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "a moment ago"),
        (44, "a moment ago"),
        (45, "1 min ago"),
        (5399, "90 min ago"),
        (5400, "2 h ago"),
        (90_000, "25 h ago"),
    ],
)
def test_how_long_ago(seconds: float, words: str) -> None:
    assert ago(seconds) == words


def test_it_goes_over_the_wire_and_a_newer_kind_is_no_failure() -> None:
    found = summarise(replace(WELL, asking=("https://a",)))
    assert Summary.from_dict(found.to_dict()) == found
    newer = found.to_dict() | {"kind": "something-new", "more": 1}
    assert sentence(Summary.from_dict(newer), NOW) == "14 sessions saved on this machine, last 2 min ago"


def test_full_is_below_the_floor_or_above_the_quota() -> None:
    limits = Limits(hard_bytes=100, soft_bytes=90, floor_bytes=50, reserve_bytes=5)
    assert fullness(limits, Disk(used_bytes=10, promised_bytes=0, free_bytes=51)) == (False, False)
    assert fullness(limits, Disk(used_bytes=10, promised_bytes=0, free_bytes=49)) == (True, False)
    assert fullness(limits, Disk(used_bytes=90, promised_bytes=5, free_bytes=51)) == (False, True)
