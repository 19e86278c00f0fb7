"""What is to be known of the second copy: its state with the reason, what waits, what was given up, what is kept here.

Nothing in it is secret.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ..db.outbox import Entry
from ..db.remote import KnownRecord
from ..state.outbox import STAGES
from ..sync.turn import RunningPush
from .keys import FILE_WARNING
from .remote import RemoteSide

SHOWN = 50  # items of a kind
READABLE = "backups are readable by whoever reads the bucket; `torpor key init` encrypts them"


def report(side: RemoteSide) -> dict[str, Any]:
    """Describe the second copy."""
    settings = side.settings
    if settings.s3 is None:
        return {"on": False, "state": "off", "warnings": list(settings.warnings)}
    choices = side.choices
    return {
        "on": True,
        **side.pump.describe(),
        "endpoint": settings.s3.endpoint,
        "bucket": settings.s3.bucket,
        "prefix": settings.s3.prefix,
        "machine": side.machine,
        "origin": list(settings.origin),
        "warnings": list(settings.warnings),
        **_secrecy(side),
        **_queue(side),
        "running": _running(side.pump.running),
        "paused_until": choices.paused_until if choices.paused_at is not None else None,
        "limits": {"up": choices.up_limit, "down": choices.down_limit},
        "kv_policy": choices.kv_policy,
        "kv_daily_bytes": choices.kv_daily_bytes,
        "kv_used_today": side.watcher.used_today(),
        "last_synced_at": side.known.last_synced(side.machine),
        "quirks": side.quirks(),
        "plain_copies": None if side.plain is None else side.plain.describe(),
    }


def state_of(side: RemoteSide) -> str:
    """Return the state of the second copy in one word."""
    return "off" if side.settings.s3 is None else side.pump.state


def short_report(side: RemoteSide) -> dict[str, Any] | None:
    """Describe the second copy for `torpor status`; None while there is none."""
    if side.settings.s3 is None:
        return None
    found = report(side)
    kept = ("state", "since", "reason", "hint", "retry_in_s", "endpoint", "bucket", "prefix", "encrypted", "readable")
    counts = (
        "waiting_count",
        "waiting_bytes",
        "dead_count",
        "held_count",
        "last_synced_at",
        "paused_until",
        "warnings",
    )
    return {name: found[name] for name in (*kept, *counts)}


def _secrecy(side: RemoteSide) -> dict[str, Any]:
    opened = side.opened
    if opened is None:
        encrypted = True if side.pump.state == "key-missing" else None
        return {"encrypted": encrypted, "readable": None, "key_warning": None}
    in_file = opened.ring is not None and side.keys.in_file(opened.info.repo_id)
    return {
        "encrypted": opened.ring is not None,
        "readable": READABLE if opened.ring is None else None,
        "key_warning": FILE_WARNING if in_file else None,
    }


def _queue(side: RemoteSide) -> dict[str, Any]:
    found = side.outbox.summary()
    going = [each for each in found if each.state in ("pending", "leased")]
    by_stage: dict[str, dict[str, Any]] = {}
    for each in going:
        row = by_stage.setdefault(
            each.stage or "remove", {"stage": each.stage or "remove", "count": 0, "size_bytes": 0}
        )
        row["count"] += each.count
        row["size_bytes"] += each.size_bytes
    failed = [entry for entry in side.outbox.entries("pending", SHOWN) if entry.error is not None]
    return {
        "waiting": list(by_stage.values()),
        "waiting_count": sum(each.count for each in going),
        "waiting_bytes": sum(each.size_bytes for each in going),
        "retrying": [_entry(entry) for entry in failed],
        "dead": [_entry(entry) for entry in side.outbox.entries("dead", SHOWN)],
        "dead_count": sum(each.count for each in found if each.state == "dead"),
        "held": [_entry(entry) for entry in side.outbox.entries("held", SHOWN)],
        "held_count": sum(each.count for each in found if each.state == "held"),
        "held_bytes": sum(each.size_bytes for each in found if each.state == "held"),
    }


def _entry(entry: Entry) -> dict[str, Any]:
    rest = {"next_at": entry.next_at, "error_class": entry.error_class, "error": entry.error}
    return asdict(entry.item) | rest


def _running(running: RunningPush | None) -> dict[str, Any] | None:
    if running is None:
        return None
    first = running.items[0]
    return {
        "backup_id": first.backup_id,
        "session_id": first.session_id,
        "stages": list(running.stages),
        "size_bytes": sum(item.size_bytes for item in running.items),
        "sent_bytes": running.sent_bytes,
        "rate_bytes_s": running.rate(),
        "started_at": running.started_at,
    }


def places(side: RemoteSide, backup_ids: Iterable[str]) -> dict[str, dict[str, Any] | None]:
    """Tell of some backups which of their stages the bucket has, and which wait; None while there is no bucket."""
    ids = list(backup_ids)
    if not side.on:
        return dict.fromkeys(ids)
    records, waiting = side.known.known(ids), side.outbox.of_backups(ids)
    return {each: _place(records.get(each, []), waiting.get(each, [])) for each in ids}


def _place(records: list[KnownRecord], waiting: list[Entry]) -> dict[str, Any]:
    there = {stage for record in records for stage in record.stages}
    by_state: dict[str, list[Entry]] = {}
    for entry in waiting:
        by_state.setdefault("pending" if entry.state == "leased" else entry.state, []).append(entry)
    held = by_state.get("held", [])
    return {
        "stages": [stage for stage in STAGES if stage in there],
        "checked": any(record.checked for record in records),
        "waiting": [entry.item.stage or "remove" for entry in by_state.get("pending", [])],
        "given_up": [entry.item.stage or "remove" for entry in by_state.get("dead", [])],
        "held": held[0].error if held else None,
    }
