"""What a disk may hold after the power went: a recording of tests/support/faulty_fs.c, played up to some moment.

Only what POSIX promises counts. The bytes of a file are there once it was synced, a name once its folder was synced, and
of everything else any part may be there or not, in any order: single sectors of a write, a new length without its bytes,
the new name of a rename without the end of the old one.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path

ENTRY = struct.Struct("<IIIIQQ")
SECTOR_BYTES = 512


class Kind(IntEnum):
    CREATE, WRITE, TRUNCATE, SYNC, SYNC_FOLDER, RENAME, UNLINK, MKDIR, RMDIR, LINK, NOTE = range(1, 12)


@dataclass(frozen=True, slots=True)
class Entry:
    """One change, sync or note of a recording. `path` is relative to the recorded root."""

    kind: Kind
    path: str
    data: bytes
    inode: int
    offset: int


def read_record(path: Path) -> list[Entry]:
    """Read a recording; the last entry may be cut off when its writer was killed."""
    raw, at, found = path.read_bytes(), 0, []
    while at + ENTRY.size <= len(raw):
        kind, path_bytes, data_bytes, _, inode, offset = ENTRY.unpack_from(raw, at)
        start = at + ENTRY.size
        at = start + path_bytes + data_bytes
        name = raw[start : start + path_bytes].decode(errors="surrogateescape")
        found.append(Entry(Kind(kind), name, raw[start + path_bytes : at], inode, offset))
    return found


@dataclass(slots=True, eq=False)
class File:
    """A file: the bytes that are safe, and the changes since (an offset and bytes, or a new length)."""

    safe: bytes = b""
    since: list[tuple[int, bytes | None]] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Folder:
    """A folder: its names now, those that are safe, and the changes since (None: the name goes)."""

    now: dict[str, File | Folder] = field(default_factory=dict)
    safe: dict[str, File | Folder] = field(default_factory=dict)
    since: list[tuple[str, File | Folder | None]] = field(default_factory=list)

    def put(self, name: str, what: File | Folder | None) -> None:
        self.since.append((name, what))
        if what is None:
            self.now.pop(name, None)
        else:
            self.now[name] = what


@dataclass(frozen=True, slots=True)
class Luck:
    """How much of what is not safe has come to the disk: the share of names, of sectors, of lengths without bytes."""

    names: float
    sectors: float
    lengths: float = 0.0


LUCKS = {
    "nothing": Luck(0, 0),
    "all": Luck(1, 1),
    "names without bytes": Luck(1, 0),
    "names and lengths without bytes": Luck(1, 0, 1),
    "bytes without names": Luck(0, 1),
    "most": Luck(0.9, 0.9, 0.5),
    "half": Luck(0.5, 0.5, 0.5),
    "little": Luck(0.1, 0.1, 0.1),
}


class Disk:
    """A disk that is played a recording. `forgets` leaves out syncs: what a program without them would leave behind."""

    def __init__(self, forgets: Callable[[Entry], bool] = lambda entry: False) -> None:
        self.root, self._forgets = Folder(), forgets
        self._inodes: dict[int, File | Folder] = {}

    def play(self, entry: Entry) -> None:
        """Let one thing happen."""
        match entry.kind:
            case Kind.CREATE:
                self._appear(entry, File())
            case Kind.MKDIR:
                self._appear(entry, Folder())
            case Kind.WRITE:
                self._file(entry).since.append((entry.offset, entry.data))
            case Kind.TRUNCATE:
                self._file(entry).since.append((entry.offset, None))
            case Kind.SYNC if not self._forgets(entry):
                file = self._file(entry)
                file.safe, file.since = applied(file.safe, file.since), []
            case Kind.SYNC_FOLDER if not self._forgets(entry):
                folder = self._inodes.get(entry.inode, self.root)
                assert isinstance(folder, Folder)
                folder.safe, folder.since = dict(folder.now), []
            case Kind.RENAME | Kind.LINK:
                folder, name = self._place(entry.path)
                other, new = self._place(entry.data.decode(errors="surrogateescape"))
                other.put(new, folder.now[name])
                if entry.kind == Kind.RENAME:
                    folder.put(name, None)
            case Kind.UNLINK | Kind.RMDIR:
                folder, name = self._place(entry.path)
                folder.put(name, None)

    def _appear(self, entry: Entry, what: File | Folder) -> None:
        folder, name = self._place(entry.path)
        folder.put(name, what)
        self._inodes[entry.inode] = what

    def _file(self, entry: Entry) -> File:
        found = self._inodes[entry.inode]
        assert isinstance(found, File)
        return found

    def _place(self, path: str) -> tuple[Folder, str]:
        *above, name = path.strip("/").split("/")
        folder = self.root
        for part in above:
            below = folder.now[part]
            assert isinstance(below, Folder), path
            folder = below
        return folder, name

    def leave(self, at: Path, luck: Luck, rng: random.Random) -> None:
        """Write what the disk holds when the power goes now into a new folder."""
        at.mkdir(mode=0o700)
        _leave(self.root, at, luck, rng, {})


def _leave(folder: Folder, at: Path, luck: Luck, rng: random.Random, seen: dict[File, bytes]) -> None:
    names = dict(folder.safe)
    for name, what in folder.since:
        if rng.random() < luck.names:
            if what is None:
                names.pop(name, None)
            else:
                names[name] = what
    for name, what in names.items():
        if isinstance(what, Folder):
            (at / name).mkdir(mode=0o700)
            _leave(what, at / name, luck, rng, seen)
        elif not name.endswith("-shm"):  # shared memory of SQLite: no part of what it keeps
            if what not in seen:
                seen[what] = applied(what.safe, list(_partly(what, luck, rng)))
            (at / name).write_bytes(seen[what])
            (at / name).chmod(0o600)


def applied(content: bytes, changes: list[tuple[int, bytes | None]]) -> bytes:
    """Return a file's bytes behind some changes."""
    buffer = bytearray(content)
    for offset, data in changes:
        if data is None:
            del buffer[offset:]
            buffer.extend(bytes(offset - len(buffer)))
        else:
            buffer.extend(bytes(max(offset + len(data) - len(buffer), 0)))
            buffer[offset : offset + len(data)] = data
    return bytes(buffer)


def _partly(file: File, luck: Luck, rng: random.Random) -> Iterator[tuple[int, bytes | None]]:
    """Yield those parts of a file's changes that came to the disk: sectors, and lengths."""
    longest = len(file.safe)
    for offset, data in file.since:
        if data is None:
            if rng.random() < luck.sectors:
                yield offset, None
                longest = offset
            continue
        if offset + len(data) > longest and rng.random() < luck.lengths:
            yield longest, bytes(offset + len(data) - longest)
            longest = offset + len(data)
        start = offset
        while start < offset + len(data):
            stop = min((start // SECTOR_BYTES + 1) * SECTOR_BYTES, offset + len(data))
            if rng.random() < luck.sectors:
                yield start, data[start - offset : stop - offset]
                longest = max(longest, stop)
            start = stop
