"""The backups of this machine, as what sends them sees them."""

from __future__ import annotations

from collections.abc import Callable

from ..codec import manifest_file
from ..db.records import record_of
from ..state.backup import Backup
from ..state.remote import RemoteRecord
from ..sync.ports import LocalBackup
from .adoption import adopt
from .catalog import Catalog


class CatalogBackups:
    """The port `LocalBackups` over the catalog."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def read(self, backup_id: str) -> LocalBackup:
        """Return a backup. Raises: BackupNotFound, ManifestDamaged."""
        raw = self._catalog.manifest_json(backup_id)
        row = self._catalog.index.backup(backup_id)
        return LocalBackup(manifest_file.load(raw), raw, row.title, row.pinned, row.expires_at)

    def adopt(self, record: RemoteRecord) -> Backup:
        """Enter a backup of the bucket into the index, whatever of its blobs is here. Again changes nothing."""
        return adopt(self._catalog, record)


def describer() -> Callable[[RemoteRecord], Backup]:
    """Return what makes of a commit record the backup that the index would list."""

    def describe(record: RemoteRecord) -> Backup:
        manifest = manifest_file.load(record.manifest)
        return record_of(
            manifest,
            manifest_digest=manifest_file.digest_of(record.manifest),
            manifest_bytes=len(record.manifest),
            pinned=record.pinned,
            expires_at=record.expires_at,
            title=record.title,
        )

    return describe
