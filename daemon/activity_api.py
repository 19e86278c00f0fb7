"""The route of the activity chart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from zoneinfo import ZoneInfo

from fastapi import FastAPI, Query, Response

from ..db import activity
from ..db.index import Index
from ..state.activity import DAY_S, HOUR_S, Step, fold, starts
from ..state.errors import BadInput
from .answers import json_answer

MOST_DAYS, MOST_DAYS_BY_HOUR = 400, 31


def add_activity(app: FastAPI, index: Index, clock: Callable[[], float]) -> None:
    """Add the route."""

    @app.get("/v1/activity")
    def get_activity(
        days: int = Query(30, ge=1, le=MOST_DAYS), step: Step = "day", zone: str = Query("UTC", max_length=64)
    ) -> Response:
        """Count backups, bytes that they wrote and restores by day or hour, as a time zone has its days."""
        if step == "hour" and days > MOST_DAYS_BY_HOUR:
            raise BadInput(f"{days} days by the hour", hint=f"At most {MOST_DAYS_BY_HOUR} days are shown by the hour.")
        begins = starts(clock(), days, step, zone_of(zone))
        with index.reading() as connection:
            found = activity.quarters(connection, begins[0])
            known_since = activity.oldest_event_at(connection)
        points = [asdict(point) for point in fold(found, begins)]
        step_s = DAY_S if step == "day" else HOUR_S
        body = {"step": step, "step_s": step_s, "zone": zone, "from": begins[0], "points": points}
        return json_answer(body | {"restores_known_since": known_since})


def zone_of(name: str) -> ZoneInfo:
    """Return a time zone by its IANA name. Raises: BadInput."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # which it is depends on what of the name is no zone
        raise BadInput(f"{name[:64]!r} is not a time zone", hint="A time zone is called as in Europe/Berlin.") from None
