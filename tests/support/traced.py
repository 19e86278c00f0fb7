"""What SQLite is asked by an index, whoever hands it over: SQLAlchemy, or the driver itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from torpor.db.index import Index


@contextmanager
def traced(index: Index) -> Iterator[list[str]]:
    """Collect each statement as it runs, without those of triggers."""
    seen: list[str] = []

    def note(statement: str) -> None:
        if not statement.startswith("--"):
            seen.append(statement)

    def listen(driver: Any, *_: object) -> None:
        driver.set_trace_callback(note)

    def leave(driver: Any, *_: object) -> None:
        driver.set_trace_callback(None)

    event.listen(index._reader, "checkout", listen)
    event.listen(index._reader, "checkin", leave)
    listen(index._driver)  # the one connection that writes, whichever way it is asked
    try:
        yield seen
    finally:
        leave(index._driver)
        event.remove(index._reader, "checkout", listen)
        event.remove(index._reader, "checkin", leave)
