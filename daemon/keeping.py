"""How long backups are kept, as the user says; and that one is restored. Sidecar first, then index."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ..db import retention
from ..state.backup import Backup
from ..state.errors import BackupNotFound
from ..state.ids import parse_backup_id, parse_session_id
from .catalog import Catalog


def keep_session(catalog: Catalog, session_id: str, *, ttl_s: float | None, keep_newest: int | None) -> Backup:
    """Give a session a TTL and a number of backups that outlive it, each None for the setting.

    The TTL counts from when each backup was made; those that were given a time of their own keep it. Durability: on
    return it survives power loss, and the loss of the index. Raises: SessionNotFound.
    """
    with catalog.locked():
        newest = catalog.index.newest(parse_session_id(session_id))
        sidecar = catalog.sidecars.read(session_id)
        sidecar.ttl_s, sidecar.keep_newest = ttl_s, keep_newest
        catalog.sidecars.write(sidecar)
        with catalog.index.writing() as connection:
            retention.set_session(connection, session_id, ttl_s, keep_newest)
            retention.set_expiries(connection, session_id, ttl_s or catalog.ttl_s, sidecar.expires_at)
    return catalog.index.backup(newest.id)


def keep_backup(catalog: Catalog, backup_id: str, ttl_s: float | None) -> Backup:
    """Give a backup a TTL of its own, from now on; None for that of its session. Raises: BackupNotFound."""
    with catalog.locked():
        backup = catalog.index.backup(parse_backup_id(backup_id))
        sidecar = catalog.sidecars.read(backup.session_id)
        if ttl_s is None:
            sidecar.expires_at.pop(backup_id, None)
            expires_at = backup.created_at + (sidecar.ttl_s or catalog.ttl_s)
        else:
            expires_at = sidecar.expires_at[backup_id] = catalog.trusted() + ttl_s
        catalog.sidecars.write(sidecar)
        with catalog.index.writing() as connection:
            retention.set_expiry(connection, backup_id, expires_at)
    return catalog.index.backup(backup_id)


def note_used(catalog: Catalog, backup_ids: Sequence[str], machine: str | None) -> None:
    """Note that backups are restored: they are least likely to leave now. Unknown ones are left out.

    What the bucket has of them is wanted here again. Raises: StoreFull, StoreFailed.
    """
    with catalog.locked():
        with catalog.index.writing() as connection:
            retention.note_used(connection, backup_ids, machine, catalog.trusted())
        for backup_id in backup_ids:
            with suppress(BackupNotFound):
                _forget_drop(catalog, catalog.index.backup(backup_id))


def _forget_drop(catalog: Catalog, backup: Backup) -> None:
    sidecar = catalog.sidecars.read(backup.session_id)
    if backup.dropped_at is None and sidecar.dropped_at.pop(backup.id, None) is not None:
        catalog.sidecars.write(sidecar)
