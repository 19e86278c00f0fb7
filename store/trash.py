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
from .files import make_private_folder, sync_folder, translated, unlinked


class BlobTrash:
    """The trash beside a blob store, on the same file system."""

    def __init__(self, folder: Path, blobs: BlobStore) -> None:
        self._folder, self._blobs = folder, blobs

    def path(self, digest: str) -> Path:
        """Return where a blob would lie. Raises: BadInput when it is not a digest."""
        checked = parse_digest(digest)
        return self._folder / checked[:2] / checked

    def throw(self, digest: str, seen_ns: int, now: float) -> bool:
        """Move a blob here that was last modified at `seen_ns`; return whether it is here.

        One that a save has touched since then stays in the store. Raises: StoreFailed, StoreFull.
        """
        source, target = self._blobs.path(digest), self.path(digest)
        with translated("move to the trash", source):
            if not target.parent.is_dir():
                make_private_folder(target.parent)
            try:
                os.replace(source, target)
            except FileNotFoundError:
                return False
            if os.lstat(target).st_mtime_ns != seen_ns:  # only now nobody can touch it any more
                _give_back(target, source)
                return False
            os.utime(target, (now, now), follow_symlinks=False)
        return True

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
        return unlinked(self.path(digest))

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
