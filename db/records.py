"""Rows of the index as values, and how a manifest becomes one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..state.backup import Backup
from ..state.fingerprint import TOKEN_PARTS
from ..state.glimpse import Glimpse
from ..state.manifest import Manifest, manifest_blobs


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over the whole index; `blobs` and `blob_bytes` count each blob that is on this machine once."""

    sessions: int
    backups: int
    blobs: int
    blob_bytes: int
    outbox_waiting: int
    last_backup_at: float | None


@dataclass(frozen=True, slots=True)
class NewBackup:
    """A backup to be inserted: its blobs (digest -> size in bytes, layer), and logical keys with their digests.

    `absent` are those of its blobs that are not on this machine.
    With `no_sync` its session stays on this machine. `glimpse` is what listings show of it, None when it is made later.
    """

    record: Backup
    blob_sizes: dict[str, tuple[int, str]]
    block_keys: tuple[tuple[str, str], ...] = ()
    absent: frozenset[str] = frozenset()
    no_sync: bool = False
    glimpse: Glimpse | None = None


@dataclass(frozen=True, slots=True)
class Sharer:
    """Another backup of the same blobs: how many it shares, and their bytes."""

    id: str
    session_id: str
    blobs: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Sharing:
    """What a backup shares: `backups` are those that share most, out of `others`."""

    backups: tuple[Sharer, ...]
    others: int
    shared_bytes: int
    own_bytes: int


@dataclass(frozen=True, slots=True)
class SessionFork:
    """A backup of another session whose parent is one of this session."""

    parent_id: str
    id: str
    session_id: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """Backups of a session, newest first, and what they are linked with.

    `total` counts all of the session; `parents` are those that are not among `backups`, of this session or another; a
    parent that is in neither is gone.
    """

    session_id: str
    title: str | None
    total: int
    backups: tuple[Backup, ...]
    parents: tuple[Backup, ...]
    forks: tuple[SessionFork, ...]


def record_of(
    manifest: Manifest,
    *,
    manifest_digest: str,
    manifest_bytes: int,
    pinned: bool,
    expires_at: float | None,
    title: str | None = None,
    blobs: dict[str, tuple[int, str]] | None = None,
) -> Backup:
    """Describe a manifest as a row. `blobs` are those that it names, where somebody knows them already."""
    named = manifest_blobs(manifest) if blobs is None else blobs
    name: Any = None
    metadata = manifest.layers.get("metadata")
    if isinstance(metadata, dict):
        name = metadata.get("model_name")
    fingerprint = manifest.fingerprint
    return Backup(
        id=manifest.id,
        session_id=manifest.session_id,
        parent_id=manifest.parent_id,
        created_at=manifest.created_at,
        expires_at=expires_at,
        pinned=pinned,
        adapter=manifest.adapter,
        model_name=name if isinstance(name, str) else None,
        weights_hash=fingerprint.weights,
        encoder_hash=fingerprint.vision_weights,
        tokenizer_hash=fingerprint.key(TOKEN_PARTS),
        layers=manifest.present_layers(),
        tokens=manifest.tokens,
        bytes_total=manifest_bytes + sum(size for size, _ in named.values()),
        bytes_written=manifest_bytes + manifest.bytes_written,
        manifest_digest=manifest_digest,
        manifest_bytes=manifest_bytes,
        title=title,
        used_at=manifest.created_at,
        group_id=manifest.group.id if manifest.group is not None else None,
        group_name=manifest.group.name if manifest.group is not None else None,
    )
