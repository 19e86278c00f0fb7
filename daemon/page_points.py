"""What a page is told of backups: the points that it can go back to, and what it shows of one."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..codec.source_media import sources
from ..state.backup import Backup
from ..state.errors import TorporError
from ..state.page_view import View
from .page_looks import Seen
from .page_saves import PageSaves

PREVIEW_CHARS = 120


def points(saves: PageSaves, backups: list[Backup]) -> list[dict[str, Any]]:
    """Return backups as points to go back to; of one whose text cannot be read, what the index knows."""
    return [_point(saves, backup) for backup in backups]


def _point(saves: PageSaves, backup: Backup) -> dict[str, Any]:
    try:
        seen = saves.look(backup).view
    except TorporError:
        seen = None
    return {
        "backup_id": backup.id,
        "created_at": backup.created_at,
        "messages": None if seen is None else len(seen.conversation),
        "partial": seen is not None and seen.partial,  # the last of them was still being written
        "tokens": backup.tokens,
        "layers": list(backup.layers),
        "pinned": backup.pinned,
        "preview": "" if seen is None else preview(seen),
    }


def preview(seen: View) -> str:
    """Return the beginning of the last thing that was said, in one line."""
    for message in reversed(seen.conversation):
        content = message["content"]
        parts = [content] if isinstance(content, str) else [part.get("text", "") for part in content]
        line = " ".join(" ".join(parts).split())
        if line:
            return line if len(line) <= PREVIEW_CHARS else line[: PREVIEW_CHARS - 1].rstrip() + "…"
    return ""


def text_of(seen: Seen) -> dict[str, Any]:
    """Return what a page shows of a backup: its conversation, where its images are to be had, and the draft."""
    images = [each.medium for each in sources(seen.manifest) if not each.medium.media_type.startswith("video/")]
    return {
        "session_id": seen.backup.session_id,
        "backup_id": seen.backup.id,
        "created_at": seen.backup.created_at,
        "conversation": list(seen.view.conversation),
        "partial": seen.view.partial,
        "images": list(map(asdict, images)),
        "draft": seen.view.draft,
    }
