"""Days and hours of the activity chart, in every zone and over the days when clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from torpor.state.activity import DAY_S, HOUR_S, QUARTER_S, Point, Quarter, fold, starts

ZONES = ["UTC", "Asia/Shanghai", "Asia/Kathmandu", "America/New_York", "Australia/Lord_Howe", "Pacific/Kiritimati"]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("at", [datetime(2026, 3, 9, 3, tzinfo=UTC), datetime(2026, 11, 23, 23, 59, tzinfo=UTC)])
def test_days_begin_at_local_midnights(zone: str, at: datetime) -> None:
    now = at.timestamp()
    begins = starts(now, 30, "day", ZoneInfo(zone))
    assert len(begins) == 30
    assert begins[-1] <= now < begins[-1] + 25 * HOUR_S
    for begin in begins:
        local = datetime.fromtimestamp(begin, ZoneInfo(zone))
        assert (local.hour, local.minute) == (0, 0)
        assert begin % QUARTER_S == 0
    lengths = {round(b - a) for a, b in pairwise(begins)}
    assert lengths <= {DAY_S, DAY_S - HOUR_S, DAY_S + HOUR_S, DAY_S - HOUR_S // 2, DAY_S + HOUR_S // 2}


def test_the_day_when_clocks_change_is_one_day() -> None:
    noon = datetime(2026, 3, 8, 12, tzinfo=ZoneInfo("America/New_York"))
    begins = starts(noon.timestamp(), 2, "day", ZoneInfo("America/New_York"))
    assert (noon + timedelta(days=1)).replace(hour=0).timestamp() - begins[-1] == 23 * HOUR_S


def test_hours_reach_up_to_now() -> None:
    now = datetime(2026, 11, 23, 5, 30, tzinfo=UTC).timestamp()
    assert len(starts(now, 1, "hour", ZoneInfo("UTC"))) == 6
    assert len(starts(now, 2, "hour", ZoneInfo("Asia/Kathmandu"))) == 24 + 12


def test_quarters_add_up_and_empty_steps_stay() -> None:
    begins = [0.0, 3600.0, 7200.0]
    found = [
        Quarter(-900.0, backups=9),
        Quarter(0.0, backups=1, bytes_written=10),
        Quarter(2700.0, backups=2, bytes_written=5),
        Quarter(2700.0, restores=4),
        Quarter(9e9, backups=1),
    ]
    assert fold(found, begins) == [Point(0.0, 3, 15, 4), Point(3600.0), Point(7200.0, 1)]
