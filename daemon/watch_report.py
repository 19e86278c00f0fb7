"""What is told of a watched folder: in the status, as an event, as a problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..state.errors import TorporError, Unavailable
from ..state.watching import Answer, WatchedFile, printable
from .watch_scan import Listing

SHOWN_AT_MOST = 100  # failing files in one answer


def describe(
    folder: str,
    source: str,
    mode: str,
    problem: TorporError | None,
    rows: Sequence[WatchedFile] = (),
    waiting: int = 0,
) -> dict[str, Any]:
    """Describe a watched folder as the API does."""
    failing = sorted((row for row in rows if row.state == "failed"), key=lambda row: row.at, reverse=True)
    return {
        "folder": folder,
        "source": source,
        "mode": mode,
        "problem": problem and {"code": problem.code, "detail": problem.detail, "hint": problem.hint},
        "files": len(rows) - len(failing),
        "waiting": waiting,
        "failing_count": len(failing),
        "failing": [
            {"path": printable(row.path), "code": row.code, "detail": row.detail, "at": row.at}
            for row in failing[:SHOWN_AT_MOST]
        ],
    }


def event_of(row: WatchedFile, answer: Answer) -> dict[str, Any] | None:
    """Describe what is to be told of a file. Of one whose content is a backup already there is nothing."""
    name, detail = printable(row.path), row.detail or ""
    if answer.outcome == "known":
        return None
    event = {"at": row.at, "level": "info", "kind": "imported", "detail": name}
    if answer.outcome == "failed":
        told = f"{detail} ({row.code})" if name in detail else f"{name}: {detail} ({row.code})"
        event |= {"level": "warning", "kind": "import-failed", "detail": told}
    return event | {"backup_id": answer.backup_id, "session_id": answer.session_id}


def folder_problem(folder: str, error: OSError) -> Unavailable:
    """Say that a folder cannot be looked at now."""
    hint = "It is looked for every few seconds; `torpor watch remove` forgets it."
    return Unavailable(f"the watched folder {folder} cannot be read: {error.strerror}", hint=hint)


def part_problem(listing: Listing) -> Unavailable | None:
    """Say which folders below could not be looked into, if there are any."""
    if not listing.unreadable:
        return None
    path, error = next(iter(sorted(listing.unreadable.items())))
    more = f" (and {len(listing.unreadable) - 1} more folders)" if len(listing.unreadable) > 1 else ""
    hint = "Give yourself the permission to read and enter it; what lies elsewhere in the folder is watched."
    return Unavailable(f"{printable(path)} cannot be read: {error.strerror}{more}", hint=hint)
