"""A backup as the index lists it and the API returns it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup. Sizes in bytes, times in seconds since the epoch.

    `bytes_total` counts every blob it needs and its manifest; `bytes_written` only what was new on disk with it;
    `absent_bytes` are those of its blobs that are not on this machine, as far as is known, and `damaged_bytes` those of
    them that were found damaged. `used_at` is when it was saved or last restored. `dropped_at` says since when its KV
    cache and embeddings are no longer kept here; the rest is.
    """

    id: str
    session_id: str
    parent_id: str | None
    created_at: float
    expires_at: float | None
    pinned: bool
    adapter: str
    model_name: str | None
    weights_hash: str | None
    encoder_hash: str | None
    tokenizer_hash: str | None
    layers: tuple[str, ...]
    tokens: int
    bytes_total: int
    bytes_written: int
    manifest_digest: str
    manifest_bytes: int
    title: str | None = None
    group_id: str | None = None
    group_name: str | None = None
    absent_bytes: int = 0
    damaged_bytes: int = 0
    used_at: float = 0.0
    dropped_at: float | None = None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Backup:
        """Read a backup from the API's JSON; fields that a newer daemon added are left out."""
        known = {f.name: values[f.name] for f in fields(cls) if f.name in values}
        return cls(**{**known, "layers": tuple(known.get("layers", ()))})


@dataclass(frozen=True, slots=True)
class Group:
    """Sessions that were saved as one. `size` says how many they were, `backups` are those that are still there."""

    id: str
    name: str
    size: int
    created_at: float
    backups: tuple[Backup, ...]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Group:
        """Read a group from the API's JSON."""
        known = {f.name: values[f.name] for f in fields(cls)}
        return cls(**{**known, "backups": tuple(map(Backup.from_dict, known["backups"]))})
