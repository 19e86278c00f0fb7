"""Marks of groups that are being committed. A mark that is still there at start-up is of a commit that was cut off."""

from __future__ import annotations

import os
from pathlib import Path

from ..state.ids import is_backup_id, parse_backup_id
from .files import sync_folder, translated, write_private

SUFFIX = ".pending"


class PendingGroups:
    """Marks under one folder: empty files, since manifests say themselves to which group they belong."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _path(self, group_id: str) -> Path:
        return self._folder / (parse_backup_id(group_id) + SUFFIX)

    def begin(self, group_id: str) -> None:
        """Set a mark. Durability: on return it survives power loss. Raises: StoreFull, StoreFailed."""
        write_private(self._path(group_id), b"")

    def end(self, group_id: str) -> None:
        """Remove a mark, durably; none is fine too. Raises: StoreFailed."""
        with translated("end", self._path(group_id)):
            self._path(group_id).unlink(missing_ok=True)
            sync_folder(self._folder)

    def ids(self) -> set[str]:
        """Return the groups that are marked. Raises: StoreFailed."""
        with translated("list", self._folder):
            names = os.listdir(self._folder)
        stems = (name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))
        return {stem for stem in stems if is_backup_id(stem)}

    def sweep(self) -> None:
        """Remove what killed writers left. Raises: StoreFailed."""
        with translated("sweep", self._folder):
            for name in os.listdir(self._folder):
                if name.endswith(".tmp"):
                    (self._folder / name).unlink(missing_ok=True)
