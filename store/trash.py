"""Blobs that no backup needs any more, for a while: whoever needs one after all takes it back.

A blob's time of modification says here when it came. The daemon alone moves blobs in and out, under the catalog's lock;
others only read them (`BlobStore.open`). Folders of shards are made and removed as they are needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from ..state.ids import is_digest, parse_digest
from .blobs import BlobStore
from .files import make_private_folder, sync_folder, translated

_STAMP_S = 2  # the coarsest resolution of a file system's times


class BlobTrash:
    """The trash beside a blob store, on the same file system."""

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        self._folder, self._blobs = folder, blobs

    def path(self, digest: str) -> Path:
        """Return where a blob would lie. Raises: BadInput when it is not a digest."""
        checked = parse_digest(digest)
        return self._folder / checked[:2] / checked

    def throw(self, digest: str, now: float) -> bool:
        """Move a blob here; return False when it is gone, or a save touched it in this very moment: then it stays.

        Raises: StoreFailed, StoreFull.
        """
        source, target, stamp = self._blobs.path(digest), self.path(digest), int(now) // _STAMP_S * _STAMP_S
        with translated("move to the trash", source):
            if not target.parent.is_dir():
                make_private_folder(target.parent)
            try:
                os.utime(source, (stamp, stamp), follow_symlinks=False)  # before the move: a crash between starts anew
                os.replace(source, target)
            except FileNotFoundError:
                return False
            if os.lstat(target).st_mtime == stamp:
                return True
            _give_back(target, source)
        return False

    def take_back(self, digests: Iterable[str]) -> list[str]:
        """Give blobs back to the store; return those that were here.

        Durability: on return they are in the store for good. Raises: StoreFailed, StoreFull.
        """
        found, folders = list[str](), set[Path]()
        for digest in digests:
            source, target = self.path(digest), self._blobs.path(digest)
            with translated("take back", source), suppress(FileNotFoundError):
                _give_back(source, target)
                found.append(digest)
                folders.add(target.parent)
        for folder in sorted(folders):
            with translated("sync", folder):
                sync_folder(folder)
        return found

    def drop(self, digest: str) -> bool:
        """Unlink a blob for good; return whether it was here. Raises: StoreFailed."""
        path = self.path(digest)
        with translated("remove", path):
            try:
                path.unlink()
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def shards(self) -> list[Path]:
        """Return the folders that are there."""
        with translated("list", self._folder), suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False))
        return []

    def digests(self, shard: Path) -> Iterator[str]:
        """Yield the digests of a folder."""
        with translated("list", shard), suppress(FileNotFoundError), os.scandir(shard) as entries:
            yield from (entry.name for entry in entries if is_digest(entry.name))

    def tidy(self, shard: Path) -> None:
        """Remove a folder that is empty: one that held many names stays slow to list for ever on some file systems."""
        with suppress(OSError):
            shard.rmdir()


def _give_back(source: Path, target: Path) -> None:
    """Move a file back unless its name is taken: a save has written the same bytes again, perhaps sound ones."""
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        pass
    except FileNotFoundError:
        raise
    except OSError:  # no hard links on this file system
        if not os.path.lexists(target):
            os.replace(source, target)
            return
    source.unlink()
