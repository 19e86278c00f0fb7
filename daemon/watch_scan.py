"""List the files of a watched folder. Symbolic links are never followed, and only regular files count."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..state.watching import Found, Signature, is_watched_name, signed
from .mounts import makes_up_inodes, needs_polling, type_at

FolderKey = tuple[int, int]  # device, inode
_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(slots=True)
class Listing:
    """Files by path; folders that were listed and those that could not be; whether changes may come from elsewhere."""

    files: dict[str, Found] = field(default_factory=dict)
    folders: set[FolderKey] = field(default_factory=set)
    unreadable: dict[str, OSError] = field(default_factory=dict)
    remote: bool = False

    def covers(self, path: str) -> bool:
        """Tell whether a path would have been listed if it were there."""
        return not any(path.startswith(folder + "/") for folder in self.unreadable)


class Tree:
    """One watched folder. `type_at` says on what file system a path lies."""

    def __init__(self, root: str, fs_type_at: Callable[[str], str] = type_at) -> None:
        self.root, self._fs_type_at = root, fs_type_at
        self._made_up: set[int] = set()  # devices whose inodes mean nothing

    def list_all(self, on_folder: Callable[[int, FolderKey, str], None]) -> Listing:
        """List everything under the root. `on_folder` gets each folder, open, before its entries are read.

        Raises: OSError when the root itself cannot be listed.
        """
        listing, types, waiting = Listing(), dict[int, str](), [self.root]
        while waiting:
            path = waiting.pop()
            try:
                with self._opened(path) as fd:
                    status = os.fstat(fd)
                    key = (status.st_dev, status.st_ino)
                    if key in listing.folders:  # the same folder once more, by a bind mount
                        continue
                    if status.st_dev not in types:
                        types[status.st_dev] = self._enter_device(path, status.st_dev)
                    on_folder(fd, key, path)
                    waiting += self._list(fd, path, listing.files)
                    listing.folders.add(key)
            except OSError as error:
                if path == self.root:
                    raise
                if os.path.isdir(path) and not os.path.islink(path):  # else it went while we came
                    listing.unreadable[path] = error
        listing.remote = any(needs_polling(name) for name in types.values())
        return listing

    def _enter_device(self, path: str, device: int) -> str:
        found = self._fs_type_at(path)
        (self._made_up.add if makes_up_inodes(found) else self._made_up.discard)(device)
        return found

    def list_folder(self, path: str) -> dict[str, Found]:
        """List the files that lie directly in a folder. Raises: OSError."""
        files: dict[str, Found] = {}
        with self._opened(path) as fd:
            self._list(fd, path, files)
        return files

    def look_at(self, path: str) -> Found | None:
        """Return a file as it is now, or None when it is none any more."""
        folder, name = os.path.split(path)
        try:
            with self._opened(folder) as fd:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except OSError:
            return None
        return self._found(status) if stat.S_ISREG(status.st_mode) else None

    def _list(self, fd: int, path: str, files: dict[str, Found]) -> list[str]:
        """Add the files of one open folder; return its sub-folders."""
        folders = []
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                below = os.path.join(path, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(below)
                elif is_watched_name(entry.name) and entry.is_file(follow_symlinks=False):
                    try:
                        files[below] = self._found(entry.stat(follow_symlinks=False))
                    except FileNotFoundError:  # it went while we came
                        continue
        return folders

    def _found(self, status: os.stat_result) -> Found:
        inode = 0 if status.st_dev in self._made_up else status.st_ino
        return Found(Signature.of(status.st_size, status.st_mtime_ns, inode), signed(status.st_ctime_ns))

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        """Open a folder from the root on, a name at a time: one that has become a link leads nowhere."""
        fd = os.open(self.root, _FLAGS)
        try:
            for name in os.path.relpath(path, self.root).split(os.sep) if path != self.root else ():
                above, fd = fd, os.open(name, _FLAGS, dir_fd=fd)
                os.close(above)
            yield fd
        finally:
            os.close(fd)
