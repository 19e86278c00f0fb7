"""Manifest files. The presence of `<id>.qwnbak` under its name is what commits a backup."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from ..codec import manifest_file
from ..state.crash_points import Checkpoint, no_checkpoint
from ..state.errors import BackupNotFound
from ..state.ids import BackupId, is_backup_id, parse_backup_id
from .files import create_exclusive, store_error, sync_folder, translated, write_all
from .staging import Staging

SUFFIX = ".qwnbak"


class ManifestStore:
    """Manifests under one folder."""

    def __init__(self, folder: Path, trash: Path, checkpoint: Checkpoint = no_checkpoint) -> None:
        self._folder, self._trash, self._checkpoint = folder, trash, checkpoint

    def path(self, backup_id: str) -> Path:
        """Return where a manifest lies. Raises: InvalidId."""
        return self._folder / (parse_backup_id(backup_id) + SUFFIX)

    def write(self, staging: Staging, backup_id: str, raw: bytes) -> None:
        """Commit a manifest's JSON. Durability: on return it survives power loss. Raises: StoreFull, StoreFailed."""
        self.publish({backup_id: self.stage(staging, backup_id, raw)})

    def stage(self, staging: Staging, backup_id: str, raw: bytes) -> Path:
        """Write a manifest, synced, to a file that does not count yet. Raises: StoreFull, StoreFailed."""
        target, temporary = self.path(backup_id), staging.new_path()
        try:
            fd = create_exclusive(temporary)
            try:
                self._checkpoint("manifest.created")
                write_all(fd, [memoryview(manifest_file.pack(raw))])
                self._checkpoint("manifest.written")
                os.fsync(fd)
                self._checkpoint("manifest.synced")
            finally:
                os.close(fd)
        except OSError as error:
            self.unstage([temporary])
            raise store_error(error, "write manifest", target) from error
        return temporary

    def publish(self, staged: Mapping[str, Path]) -> None:
        """Commit staged manifests. Durability: on return they survive power loss; where it fails, none is there.

        Raises: StoreFull, StoreFailed.
        """
        try:
            for backup_id, temporary in staged.items():
                os.replace(temporary, self.path(backup_id))
                self._checkpoint("manifest.replaced")
            sync_folder(self._folder)
            self._checkpoint("manifest.directory-synced")
        except OSError as error:
            self.unstage(staged.values())
            self.unstage(map(self.path, staged))  # not acknowledged, so they must not be found at the next start
            raise store_error(error, "write manifest", self._folder) from error

    @staticmethod
    def unstage(paths: Iterable[Path]) -> None:
        """Remove staged files, as far as they are there."""
        for path in paths:
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def read(self, backup_id: str) -> bytes:
        """Return a manifest's JSON. Raises: BackupNotFound, ManifestDamaged, StoreFailed."""
        path = self.path(backup_id)
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError as error:
            raise BackupNotFound(f"backup {backup_id} has no manifest") from error
        except OSError as error:
            raise store_error(error, "open", path) from error
        with translated("read", path), os.fdopen(fd, "rb") as file:
            packed = file.read(manifest_file.MAX_MANIFEST_BYTES + 1)
        return manifest_file.unpack(packed)

    def has(self, backup_id: str) -> bool:
        """Tell whether there is a manifest. Raises: InvalidId, StoreFailed."""
        path = self.path(backup_id)
        with translated("look at", path):
            return path.exists()

    def settle(self) -> None:
        """Make names durable that another, killed writer may have left unsynced. Raises: StoreFailed."""
        with translated("sync", self._folder):
            sync_folder(self._folder)

    def size_bytes(self, backup_id: str) -> int:
        """Return the size of a manifest's file. Raises: BackupNotFound, StoreFailed."""
        path = self.path(backup_id)
        with translated("look at", path):
            try:
                return path.stat().st_size
            except FileNotFoundError as error:
                raise BackupNotFound(f"backup {backup_id} has no manifest") from error

    def ids(self) -> Iterator[BackupId]:
        """Yield the id of every committed manifest, in no order."""
        return _ids_in(self._folder)

    def trashed(self) -> set[BackupId]:
        """Return the ids of removed manifests whose files are still there."""
        return set(_ids_in(self._trash))

    def empty_trash(self) -> None:
        """Unlink removed manifests: they hold whole conversations. Raises: StoreFailed."""
        with translated("empty", self._trash):
            for backup_id in self.trashed():
                (self._trash / (backup_id + SUFFIX)).unlink(missing_ok=True)

    def remove(self, backup_id: str) -> None:
        """Move a manifest to the trash, durably; where that fails it stays. Raises: BackupNotFound, StoreFailed."""
        path = self.path(backup_id)
        try:
            os.replace(path, self._trash / path.name)
            sync_folder(self._trash)
            sync_folder(self._folder)
        except FileNotFoundError as error:
            raise BackupNotFound(f"backup {backup_id} has no manifest") from error
        except OSError as error:
            self.put_back(backup_id)
            raise store_error(error, "remove", path) from error

    def put_back(self, backup_id: str) -> None:
        """Take a manifest out of the trash again, if it is there and the disk lets us: its removal failed."""
        path = self.path(backup_id)
        with suppress(OSError):
            os.replace(self._trash / path.name, path)


def _ids_in(folder: Path) -> Iterator[BackupId]:
    with translated("list", folder), os.scandir(folder) as entries:
        for entry in entries:
            stem = entry.name.removesuffix(SUFFIX)
            if stem != entry.name and is_backup_id(stem):
                yield BackupId(stem)
