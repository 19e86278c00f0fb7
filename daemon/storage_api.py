"""The route that tells what uses the room: by class, by session, what sharing saves, and what would go next.

The first of it costs nothing. Which session takes how much, and what would be evicted, are asked of every link between
backups and blobs: in a large home that takes a second, so the answer is kept for a while.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any

from fastapi import FastAPI, Query, Response

from ..db import metrics, storage
from ..state.eviction import KINDS, TIERS, Eviction, Kind, plan_eviction
from ..state.quota import limits_of
from ..store.files import translated
from .answers import json_answer
from .kept_answer import KeptAnswer
from .parts import Parts
from .room_api import storage_report

SESSIONS, NEXT = 20, 50  # that are listed
PATIENCE_S = 0.5  # with the first survey
# Of the blobs' folder, beside the blobs that backups name: folders, halves of disk blocks, blobs without a backup.
_OVERHEAD = "overhead"
_TEXT = ("metadata", "text_context", "tokens", "config_snapshot")


@dataclass(frozen=True, slots=True)
class Survey:
    """What is dear to ask: the largest sessions, what may leave by kind, and the first of it in its order.

    `sums` are the bytes that are free behind each step of that order: it may have a hundred thousand.
    """

    sessions: list[storage.SessionBytes] = field(default_factory=list)
    first: list[Eviction] = field(default_factory=list)
    kinds: dict[Kind, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    sums: array[int] = field(default_factory=lambda: array("q"))


def add_storage(app: FastAPI, parts: Parts) -> None:
    """Add the route."""
    survey = KeptAnswer(lambda: _survey(parts))

    @app.get("/v1/storage")
    def get_storage(quota: str | None = Query(None, max_length=40)) -> Response:
        """Tell what takes room, what sharing saves, the limits, and what would be let go of next.

        With `quota` (`200GB`, `10%`), `next_to_go` tells what would go if that were the quota; nothing does. While
        `surveyed_ago_s` is null, the sessions and what would go next are not known yet: ask again in a second.
        """
        kept = survey.get(PATIENCE_S)
        found = Survey() if kept is None else kept.value
        body = storage_report(parts.room) | _disk(parts) | _shared(parts)
        body["classes"] = _classes(body["classes"], body["layers"])
        body["sessions"] = [asdict(each) for each in found.sessions]
        body["next_to_go"] = _next(parts, found, _over(parts, quota))
        body["surveyed_ago_s"] = None if kept is None else round(kept.age_s, 3)
        return json_answer(body)


def _survey(parts: Parts) -> Survey:
    with parts.catalog.index.reading() as connection:
        sessions = storage.largest_sessions(connection, SESSIONS)
    everything = 1 << 62
    leaving = plan_eviction(parts.retention.standings(), everything)
    kinds = dict.fromkeys(KINDS, 0)
    for each in leaving:
        kinds[each.kind] += each.size_bytes
    return Survey(sessions, leaving[:NEXT], kinds, array("q", accumulate(each.size_bytes for each in leaving)))


def _over(parts: Parts, quota: str | None) -> int:
    """Return how many bytes are too many, under the quota or another one. Raises: InvalidSettings."""
    if quota is None:
        return parts.room.over_soft()
    disk, settings = parts.room.state()[1], parts.settings
    limits = limits_of(_disk(parts)["disk_bytes"], quota, settings.soft_quota, settings.free_floor)
    return max(disk.used_bytes + disk.promised_bytes - limits.soft_bytes, 0)


def _shared(parts: Parts) -> dict[str, Any]:
    """Return what each layer takes, what sharing saves, and what the bucket is known to hold."""
    with parts.catalog.index.reading() as connection:
        layers = storage.bytes_by_layer(connection)
        logical, in_bucket = metrics.logical_bytes(connection), metrics.bucket_bytes(connection)
        held = sum(each.size_bytes for each in layers) + storage.manifest_bytes(connection)
    return {
        "layers": [asdict(each) for each in layers],
        "dedupe": {"logical_bytes": logical, "stored_bytes": held, "ratio": logical / held if held else None},
        "bucket": {"raw_bytes": in_bucket[0], "stored_bytes": in_bucket[1]} if parts.side.on else None,
    }


def _disk(parts: Parts) -> dict[str, int]:
    with translated("look at the disk of", parts.home.store):
        disk = os.statvfs(parts.home.store)
    return {"disk_bytes": disk.f_blocks * disk.f_frsize, "disk_free_bytes": disk.f_bavail * disk.f_frsize}


def _classes(on_disk: dict[str, int], layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the classes of file, that of blobs divided by layer; the largest first.

    Files take whole blocks of the disk, and blobs are counted by their bytes: the remainder is told as overhead.
    """
    sizes = {name: size for name, size in on_disk.items() if name != "blobs"}
    for each in layers:
        name = "text" if each["layer"] in _TEXT else each["layer"]
        sizes[name] = sizes.get(name, 0) + each["size_bytes"]
    sizes[_OVERHEAD] = max(on_disk.get("blobs", 0) - sum(each["size_bytes"] for each in layers), 0)
    rows = [{"name": name, "size_bytes": size} for name, size in sizes.items() if size]
    return sorted(rows, key=lambda row: -int(row["size_bytes"]))


def _next(parts: Parts, found: Survey, over: int) -> dict[str, Any]:
    """Return what may leave, in its order. What of it is too much `goes_now`, at the next turn of the housekeeping."""
    items, before = [], 0
    with parts.catalog.index.reading() as connection:
        shown = storage.named(connection, [each.backup_id for each in found.first])
    for each in found.first:
        if each.backup_id in shown:  # else it was removed since the survey
            row = {"backup_id": each.backup_id, "kind": each.kind, "tier": TIERS[each.tier]}
            items.append(
                asdict(shown[each.backup_id]) | row | {"size_bytes": each.size_bytes, "goes_now": before < over}
            )
            before += each.size_bytes
    return {
        "over_bytes": over,
        "evictable_bytes": sum(found.kinds.values()),
        "kinds": found.kinds,
        "going": _going(found.sums, over),
        "more": len(found.sums) - len(found.first),
        "items": items,
    }


def _going(sums: array[int], over: int) -> dict[str, int]:
    """Return how many steps free so many bytes, how many these free in all, and what cannot be freed."""
    steps = min(bisect_left(sums, over) + 1, len(sums)) if over > 0 else 0
    freed = sums[steps - 1] if steps else 0
    return {"steps": steps, "size_bytes": freed, "short_bytes": max(over - freed, 0)}
