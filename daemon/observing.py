"""What is to be seen of a daemon at work: its metrics and its events, put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI

from ..db.index import Index
from .changes import Changes
from .event_feed import EventFeed, add_events
from .metric_states import StateMetrics
from .metrics import Metrics
from .metrics_api import add_metrics


@dataclass(frozen=True, slots=True)
class Observing:
    """Counts what happens, and tells of it."""

    metrics: Metrics
    feed: EventFeed
    note: Callable[[str, str | None], None]  # that something was restored: what is said of it, and the backup

    def add_routes(self, app: FastAPI) -> None:
        """Add the routes."""
        add_events(app, self.feed)
        add_metrics(app, self.metrics, self.note)


def observe(
    index: Index,
    changes: Changes,
    states: StateMetrics | None = None,
    *,
    version: str = "",
    clock: Callable[[], float] = lambda: 0.0,
) -> Observing:
    """Put the parts together; without `states`, only what happens is counted."""
    metrics = Metrics(version, clock())
    if states is not None:
        metrics.add(states)

    def note(detail: str, backup_id: str | None) -> None:
        index.add_event(at=clock(), level="info", kind="restored", detail=detail, backup_id=backup_id)

    return Observing(metrics, EventFeed(index, changes), note)
