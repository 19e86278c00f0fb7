"""Blobs that were found damaged, put aside: nothing reads them any more, and nothing of them is lost yet.

They stay until the blob is healed, or until no backup needs it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..state.ids import is_digest, parse_digest
from .blobs import BlobStore
from .files import make_private_folder, sync_folder, translated, unlinked


class Quarantine:
    """The folder of damaged blobs, on the same file system as the store. Only the daemon moves blobs here."""

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        self._folder, self._blobs = folder, blobs

    def path(self, digest: str) -> Path:
        """Return where a damaged blob would lie. Raises: BadInput when it is not a digest."""
        return self._folder / parse_digest(digest)

    def take(self, digest: str, identity: tuple[int, int] | None) -> bool:
        """Put aside the very file that was read; False when another one has its name by now, and then nothing moved.

        Durability: on return it survives power loss. Raises: StoreFailed, StoreFull.
        """
        source, target = self._blobs.path(digest), self.path(digest)
        if identity is None:
            return False
        with translated("put aside", source):
            make_private_folder(self._folder)
            try:
                if _identity(source) != identity:
                    return False
                os.replace(source, target)
            except FileNotFoundError:
                return False
            if _identity(target) != identity:  # a writer put it there in this very moment: give it back
                with suppress(FileExistsError):
                    os.link(target, source, follow_symlinks=False)
                target.unlink()
                return False
            sync_folder(self._folder)
            sync_folder(source.parent)
        return True

    def drop(self, digest: str) -> bool:
        """Unlink a damaged blob for good; return whether it was here. Raises: StoreFailed."""
        return unlinked(self.path(digest))

    def digests(self) -> Iterator[str]:
        """Yield the digests of what is here."""
        with translated("list", self._folder), suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            yield from (entry.name for entry in entries if is_digest(entry.name))

    def size_bytes(self) -> int:
        """Return how many bytes lie here."""
        total = 0
        for digest in self.digests():
            with suppress(FileNotFoundError):
                total += os.lstat(self.path(digest)).st_size
        return total


def _identity(path: Path) -> tuple[int, int]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino
