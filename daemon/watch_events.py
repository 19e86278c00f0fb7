"""What inotify tells of, through watchdog. An event only says where to look.

watchdog's own observers follow sub-folders by themselves. They swallow the limit of watches below the root, tell no
handler of an overflow, look into a new sub-folder before they watch it, and take a thread a folder. So only its
reader of the kernel's queue is used here, and the scan decides what is watched: each folder before it is listed.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchCallback,
    WatchDescriptor,
)

from ..state.errors import Unavailable, WatchLimit
from ..state.watching import is_watched_name
from .watch_scan import FolderKey

_MASK = Mask(
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_DELETE
    | InotifyConstants.IN_MOVED_FROM
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_CLOSE_WRITE  # not IN_MODIFY: who writes either closes the file or is not done with it
    | InotifyConstants.IN_ATTRIB
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
    | InotifyConstants.IN_EXCL_UNLINK
)
_LIMITS = {errno.ENOSPC: ("max_user_watches", 524_288), errno.EMFILE: ("max_user_instances", 1024)}


class Notifier:
    """One inotify instance for all folders, opened when the first is watched. It sleeps while nothing happens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reader: InotifyFD | None = None

    def add(self, fd: int, subscriber: WatchCallback, id_: CallbackId) -> WatchDescriptor:
        """Watch an open folder: by its descriptor, so that it is this very one whatever its path leads to by now.

        Raises: OSError.
        """
        with self._lock:
            if self._reader is None:
                reader = InotifyFD()
                reader.start()
                self._reader = reader
            return self._reader.add_callback(b"/proc/self/fd/%d" % fd, _MASK, subscriber, id_)

    def remove(self, watches: list[WatchDescriptor], id_: CallbackId) -> None:
        """Stop watching some folders."""
        with self._lock:
            if self._reader is not None:
                self._reader.remove_callbacks([(watch, id_) for watch in watches])

    def close(self) -> None:
        """End the reader and all its watches."""
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.stop()
            reader.join()


class Subscription:
    """The watches of one folder tree. `on_change` gets the folder in which a file changed, or None: look at all.

    It is called in the reader's thread and must not block.
    """

    def __init__(self, notifier: Notifier, on_change: Callable[[str | None], None]) -> None:
        self._notifier, self._on_change, self._lock = notifier, on_change, threading.Lock()
        self._id = CallbackId(id(self))
        self._watches: dict[FolderKey, WatchDescriptor] = {}
        self._paths: dict[WatchDescriptor, str] = {}

    def cover(self, fd: int, key: FolderKey, path: str) -> None:
        """Watch an open folder, unless it is watched already. Raises: WatchLimit, Unavailable."""
        with self._lock:  # its end must not be told before it is noted
            watch = self._watches.get(key)
            if watch is None:
                try:
                    watch = self._watches[key] = self._notifier.add(fd, self, self._id)
                except OSError as error:
                    raise limit_error(error, path) from error
            self._paths[watch] = path

    def keep_only(self, keys: set[FolderKey]) -> None:
        """Stop watching the folders that are not among `keys`."""
        with self._lock:
            dropped = [self._watches.pop(key) for key in self._watches.keys() - keys]
            for watch in dropped:
                self._paths.pop(watch, None)
        if dropped:
            self._notifier.remove(dropped, self._id)

    def clear(self) -> None:
        """Stop watching."""
        self.keep_only(set())

    def on_event(self, event: InotifyEvent) -> None:
        """Look at the folder of a file that may be ours; at everything when folders change."""
        if event.is_directory or not event.name:
            self._on_change(None)
        elif is_watched_name(os.fsdecode(event.name)):
            self._on_change(self._paths.get(event.wd))

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Forget a folder that is gone; another may have taken its inode meanwhile."""
        with self._lock:
            self._paths.pop(wd, None)
            for key in [key for key, watch in self._watches.items() if watch == wd]:
                del self._watches[key]
        self._on_change(None)

    def on_queue_overflow(self) -> None:
        """Look at everything: events were lost."""
        self._on_change(None)


def limit_error(error: OSError, path: str) -> Unavailable:
    """Say what keeps a folder from being watched, with the command that mends it."""
    name, enough = _LIMITS.get(error.errno or 0, ("", 0))
    if not name:
        return Unavailable(f"{path} cannot be watched: {error.strerror}")
    limit = _read_limit(name)
    return WatchLimit(
        f"{path} cannot be watched: fs.inotify.{name} ({limit or 'unknown'}) is used up",
        hint=f"Run `sudo sysctl fs.inotify.{name}={max(enough, 2 * limit)}`, then `torpor watch rescan`; "
        "until then the folder is looked at every few seconds.",
    )


def _read_limit(name: str) -> int:
    try:
        return int(Path(f"/proc/sys/fs/inotify/{name}").read_text())
    except (OSError, ValueError):
        return 0
