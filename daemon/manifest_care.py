"""Manifests that are no longer what was committed: written again from the commit record in the bucket, or told."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

from ..codec import manifest_file
from ..state.errors import BackupNotFound, Damaged, InvalidManifest, TorporError
from .catalog import Catalog

Found = Literal["sound", "healed", "damaged", "gone"]


class ManifestCare:
    """Looks at manifests. `from_bucket` returns the JSON of one as its commit record holds it, verbatim."""

    def __init__(self, catalog: Catalog, from_bucket: Callable[[str], bytes] | None) -> None:
        self._catalog, self._from_bucket = catalog, from_bucket
        self._told: set[str] = set()

    def damaged(self) -> set[str]:
        """Return the backups whose manifest was found to be damaged, and could not be healed so far."""
        return {each for each in tuple(self._told) if self._catalog.index.has_backup(each)}

    def look(self, backup_id: str) -> Found:
        """Read a manifest, and heal it if need be. Raises: StoreFull, StoreFailed."""
        try:
            manifest_file.load(self._catalog.manifest_json(backup_id))
        except BackupNotFound:
            return self._lost(backup_id)
        except (Damaged, InvalidManifest) as error:
            return self._heal(backup_id, error.detail)
        return "sound"

    def _lost(self, backup_id: str) -> Found:
        """Tell a backup that was removed from one whose file is gone."""
        with self._catalog.locked():
            if not self._catalog.index.has_backup(backup_id):
                return "gone"
            if os.path.lexists(self._catalog.manifests.path(backup_id)):
                return "sound"
        return self._heal(backup_id, "its manifest is gone")

    def _heal(self, backup_id: str, detail: str) -> Found:
        why = ""
        if self._from_bucket is not None:
            try:
                return self._write(backup_id, self._from_bucket(backup_id), detail)
            except TorporError as error:
                why = f" (the bucket: {error.detail})"
        if backup_id not in self._told:
            self._told.add(backup_id)
            said = f"{backup_id}: {detail}; no other copy of it can be had now{why}"
            self._catalog.note("error", "manifest-damaged", said, backup_id)
        return "damaged"

    def _write(self, backup_id: str, raw: bytes, detail: str) -> Found:
        """Put a manifest in the place of the damaged one, which is what was committed or nothing."""
        wanted = self._catalog.index.backup(backup_id).manifest_digest
        if manifest_file.digest_of(raw) != wanted:
            raise InvalidManifest("the commit record holds another manifest")
        with self._catalog.locked(), suppress(BackupNotFound):
            self._catalog.index.backup(backup_id)  # removed meanwhile: then it stays away
            self._catalog.manifests.write(self._catalog.staging, backup_id, raw)
            self._told.discard(backup_id)
            self._catalog.note("info", "manifest-healed", f"{backup_id}: {detail}; healed from the bucket", backup_id)
        return "healed"
