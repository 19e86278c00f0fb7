"""Adoption: a backup that only the bucket has becomes one of this machine. Its blobs follow when they are needed."""

from __future__ import annotations

from contextlib import suppress

from ..codec import manifest_file
from ..state.backup import Backup
from ..state.errors import BadInput
from ..state.ids import parse_title
from ..state.manifest import Manifest
from ..state.remote import RemoteRecord
from ..store.sidecars import Sidecar
from .catalog import Catalog


def adopt(catalog: Catalog, record: RemoteRecord) -> Backup:
    """Enter a backup of the bucket into manifests and index, whatever of its blobs is here. Again changes nothing.

    Nothing of it is queued: what is in the bucket is there already.
    Durability: on return the backup survives power loss.
    Raises: InvalidManifest, BadInput, Conflict when its id is another backup's here, StoreFull, StoreFailed.
    """
    manifest = manifest_file.load(record.manifest)
    if manifest.id != record.backup_id:
        raise BadInput(f"the record of backup {record.backup_id} holds the manifest of {manifest.id}")
    return catalog.take_in(manifest, lambda sidecar, now, ttl_s: _choose(sidecar, record, manifest, now, ttl_s))


def _choose(sidecar: Sidecar, record: RemoteRecord, manifest: Manifest, now: float, ttl_s: float) -> None:
    """Take over what the user said of it elsewhere. A TTL that is over begins again: somebody has just asked for it."""
    if sidecar.title is None:
        with suppress(BadInput):
            sidecar.title = parse_title(record.title)
    if record.pinned:
        sidecar.pinned.add(manifest.id)
    due = record.expires_at
    expires_at = due if due is not None and due > now else max(now, manifest.created_at) + ttl_s
    if expires_at != manifest.created_at + ttl_s:
        sidecar.expires_at.setdefault(manifest.id, expires_at)
