"""Durable file operations. After `publish` and `sync_folder` have returned, the file survives power loss."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..codec.kv_blocks import pieces
from ..state.errors import StoreFailed, StoreFull, TorporError, UnsafeHome
from .writeback import start_writeback

WRITE_BYTES = 1 << 20  # of what the disk is asked to begin with: less at a time costs more calls, more begins late
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def store_error(error: OSError, action: str, path: Path | str) -> TorporError:
    """Translate an OSError into the tree."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _FULL:
        return StoreFull(f"cannot {action} {path}: {reason}")
    return StoreFailed(f"cannot {action} {path}: {reason}")


@contextlib.contextmanager
def translated(action: str, path: Path | str) -> Iterator[None]:
    """Run a block of file operations, translating what it raises. Raises: StoreFull, StoreFailed."""
    try:
        yield
    except OSError as error:
        raise store_error(error, action, path) from error


def make_private_folder(path: Path) -> None:
    """Create a folder (and its parents) for the owner alone. Raises: UnsafeHome, StoreFailed."""
    with translated("create folder", path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = os.lstat(path)
        if not stat.S_ISDIR(status.st_mode):
            raise UnsafeHome(f"{path} is a symbolic link or not a folder")
        if status.st_uid != os.geteuid():
            raise UnsafeHome(f"{path} belongs to user {status.st_uid}, not to you ({os.geteuid()})")
        if status.st_mode & 0o077:
            os.chmod(path, 0o700)


def refuse_foreign_folder(path: Path) -> None:
    """Refuse a home that is somebody's folder for other things, such as /tmp: it would be closed to all others.

    Raises: UnsafeHome, StoreFailed.
    """
    with translated("look into", path):
        if not path.is_dir() or path.is_symlink() or not os.lstat(path).st_mode & 0o077:
            return
        names = set(os.listdir(path))
    if names - {"config.toml", "token"} and "daemon.lock" not in names:
        raise UnsafeHome(
            f"{path} is open to others and holds other files",
            hint="Choose a new or empty folder; its permissions become 0700.",
        )


def create_exclusive(path: Path) -> int:
    """Open a new file for writing, mode 0600. It must not exist; links are not followed."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


class Appending:
    """Writes buffers one behind the other, from an offset of a file.

    The disk starts on each `WRITE_BYTES` while the next are being written, so that a later fsync finds little to do.
    """

    def __init__(self, fd: int, offset: int = 0) -> None:
        self._fd, self._begun, self.end = fd, offset, offset

    def write(self, run: Sequence[memoryview]) -> None:
        """Write buffers that one vectored call can take."""
        wanted = sum(b.nbytes for b in run)
        done = os.pwritev(self._fd, run, self.end)
        while done < wanted:  # a short write: go on behind it
            done += os.pwritev(self._fd, _behind(run, done), self.end + done)
        self.end += wanted
        if self.end - self._begun >= WRITE_BYTES:
            start_writeback(self._fd, self._begun, self.end - self._begun)
            self._begun = self.end


def write_all(fd: int, buffers: Sequence[memoryview], offset: int = 0) -> int:
    """Write buffers one after the other from an offset of a file; return where they end."""
    file = Appending(fd, offset)
    for run in pieces(buffers, WRITE_BYTES):
        file.write(run)
    return file.end


def read_run(fd: int, run: Sequence[memoryview], offset: int) -> int:
    """Fill buffers that one vectored call can take from an offset; return the bytes read, fewer at the file's end."""
    wanted, done = sum(b.nbytes for b in run), 0
    while done < wanted:
        count = os.preadv(fd, _behind(run, done) if done else list(run), offset + done)
        if count == 0:
            break
        done += count
    return done


def _behind(run: Sequence[memoryview], done: int) -> list[memoryview]:
    rest: list[memoryview] = []
    for buffer in run:
        if done >= buffer.nbytes:
            done -= buffer.nbytes
        else:
            rest.append(buffer[done:])
            done = 0
    return rest


def sync_folder(path: Path) -> None:
    """Make renames and unlinks in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def unlinked(path: Path) -> bool:
    """Unlink a file; return whether it was there. Raises: StoreFailed."""
    with translated("remove", path):
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError):
            return False
    return True


def write_private(path: Path, data: bytes) -> None:
    """Replace a small file of the owner's alone, durably. Raises: StoreFull, StoreFailed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with translated("write", path):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        fd = create_exclusive(temporary)
        try:
            write_all(fd, [memoryview(data)])
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(temporary, path)
        sync_folder(path.parent)
