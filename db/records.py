"""Rows of the index as values, and how a manifest becomes one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..state.backup import Backup
from ..state.fingerprint import TOKEN_PARTS
from ..state.manifest import Manifest, manifest_blobs


@dataclass(frozen=True, slots=True)
class Totals:
    """Counts over the whole index; `blob_bytes` counts each shared blob once."""

    sessions: int
    backups: int
    blobs: int
    blob_bytes: int
    outbox_waiting: int
    last_backup_at: float | None


@dataclass(frozen=True, slots=True)
class NewBackup:
    """A backup to be inserted: its blobs (digest -> size in bytes, layer), and logical keys with their digests."""

    record: Backup
    blob_sizes: dict[str, tuple[int, str]]
    block_keys: tuple[tuple[str, str], ...] = ()


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


def record_of(
    manifest: Manifest, *, manifest_digest: str, manifest_bytes: int, pinned: bool, expires_at: float | None
) -> Backup:
    """Describe a manifest as a row."""
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
        bytes_total=manifest_bytes + sum(size for size, _ in manifest_blobs(manifest).values()),
        bytes_written=manifest_bytes + manifest.bytes_written,
        manifest_digest=manifest_digest,
        manifest_bytes=manifest_bytes,
        group_id=manifest.group.id if manifest.group is not None else None,
        group_name=manifest.group.name if manifest.group is not None else None,
    )
