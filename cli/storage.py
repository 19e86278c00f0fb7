"""What the home takes of its disk, as `torpor status` says it, and what a purge freed."""

from __future__ import annotations

from typing import Any

from .output import SafeTable, size

_NAMES = {"other": "folders and settings", "sidecars": "titles and pins"}
_SHOWN_SHARE = 0.01  # of the whole: less is not worth a word


def add_status_rows(rows: SafeTable, found: dict[str, Any]) -> None:
    """Add what is stored, and how much of the quota and of the disk that is."""
    taken = found["storage"]
    used, hard = taken["used_bytes"], taken["hard_bytes"]
    share = f" ({used / hard:.0%})" if hard else ""
    rows.add_row("stored", f"{size(found['blob_bytes'])} in {found['blobs']} blobs")
    rows.add_row("disk", f"{size(used)} of at most {size(hard)}{share}; {size(found['disk_free_bytes'])} are free")
    rows.add_row("", f"changed by TORPOR_QUOTA; {size(taken['floor_bytes'])} are always left to others")
    classes = sorted(taken["classes"].items(), key=lambda item: -item[1])
    parts = [f"{_NAMES.get(name, name)} {size(count)}" for name, count in classes if count > used * _SHOWN_SHARE]
    rows.add_row("of it", ", ".join(parts))
    if used > taken["soft_bytes"]:
        rows.add_row("", "above the soft limit: what can be had again is let go; `torpor gc --dry-run` lists it")


def purged_line(purged: list[dict[str, Any]]) -> str:
    """Say what a purge did."""
    lines = [f"purged {len(purged)} backup(s), {size(sum(one['freed_bytes'] for one in purged))} are free"]
    if shared := sum(one["shared_bytes"] for one in purged):
        lines.append(f"{size(shared)} stay: other backups share them")
    if any(one["in_bucket"] == "queued" for one in purged):
        lines.append("being taken out of the bucket; `torpor sync collect` then removes what nobody needs there")
    if named := sorted({path for one in purged for path in one["named_in"]}):
        lines.append(f"their ids still stand in {', '.join(named)}, logs are overwritten in time")
    return "\n".join(lines)
