"""Read a blob from the disk to see whether its bytes are still right, without a trace in the page cache.

Reads are direct (`O_DIRECT`): they ask the disk and not memory, and push nobody's pages out. Where a file system cannot
do that, each piece is let go of (`POSIX_FADV_DONTNEED`) as soon as it was hashed.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import stat
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from blake3 import blake3

from ..state.manifest import BlobRef
from .files import store_error

Verdict = Literal["sound", "gone", "wrong", "unreadable"]
READ_BYTES = 1 << 20
AGAIN_S = 1.0  # between a read that the disk failed and the second one
# What a disk or a file system says when it cannot give back what it was given.
DISK_ERRORS = {errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.ENODATA}
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "i686": 289, "ppc64le": 273, "s390x": 282}
_IDLE, _CLASS_SHIFT, _THIS_THREAD = 3, 13, 1


@dataclass(frozen=True, slots=True)
class Examined:
    """What a look at a blob's file gave. `doubt` is what the first of two reads said when the second was right.

    `identity` (device and inode) tells the file that was read from another that takes its name meanwhile.
    """

    verdict: Verdict
    detail: str = ""
    identity: tuple[int, int] | None = None
    doubt: str | None = None


class GentleReader:
    """Examines blobs, one at a time. `told` learns of bytes as they are read, and may wait or raise."""

    def __init__(self, told: Callable[[int], None], sleep: Callable[[float], object] = time.sleep) -> None:
        self._told, self._sleep = told, sleep
        self._buffer = memoryview(mmap.mmap(-1, READ_BYTES))  # aligned to pages, as direct reads want it

    def examine(self, path: Path, ref: BlobRef) -> Examined:
        """Read a blob's file; nothing is held against it that a second read does not find too.

        Raises: StoreFailed for what says nothing of the bytes: no permission, too many open files.
        """
        first = self._once(path, ref)
        if first.verdict in ("sound", "gone"):
            return first
        if first.verdict == "unreadable":
            self._sleep(AGAIN_S)
        second = self._once(path, ref)
        return replace(second, doubt=first.detail) if second.verdict == "sound" else second

    def _once(self, path: Path, ref: BlobRef) -> Examined:
        try:
            fd = _open(path)
        except FileNotFoundError:
            return Examined("gone", "the file is gone")
        except OSError as error:
            return _failed(error, path, None)
        try:
            status = os.fstat(fd)
            identity = (status.st_dev, status.st_ino)
            if not stat.S_ISREG(status.st_mode):
                return Examined("wrong", "it is not a file", _identity(path))
            if status.st_size != ref.size_bytes:
                return Examined("wrong", f"it has {status.st_size} bytes instead of {ref.size_bytes}", identity)
            try:
                right = self._digest(fd) == ref.digest
            except OSError as error:
                return _failed(error, path, identity)
            return Examined("sound", "", identity) if right else Examined("wrong", "other bytes", identity)
        finally:
            os.close(fd)

    def _digest(self, fd: int) -> str:
        hasher, offset = blake3(), 0
        while count := os.preadv(fd, [self._buffer], offset):
            hasher.update(self._buffer[:count])
            if not _is_direct(fd):
                os.posix_fadvise(fd, offset, count, os.POSIX_FADV_DONTNEED)
            offset += count
            self._told(count)
        return hasher.hexdigest()


def _open(path: Path) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags | getattr(os, "O_DIRECT", 0))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags)


def _is_direct(fd: int) -> bool:
    import fcntl

    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0))


def _failed(error: OSError, path: Path, identity: tuple[int, int] | None) -> Examined:
    if error.errno in DISK_ERRORS:
        return Examined("unreadable", f"the disk fails: {os.strerror(error.errno)}", identity or _identity(path))
    if error.errno == errno.ELOOP:
        return Examined("wrong", "it is a symbolic link", _identity(path))
    raise store_error(error, "read blob", path) from error


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        status = os.lstat(path)
        return status.st_dev, status.st_ino
    return None


def be_idle() -> bool:
    """Let this thread read only when nobody else wants the disk; return whether the kernel agreed."""
    number = _IOPRIO_SET.get(platform.machine())
    if not sys.platform.startswith("linux") or number is None:
        return False
    with suppress(OSError, AttributeError):
        result = ctypes.CDLL(None, use_errno=True).syscall(number, _THIS_THREAD, 0, _IDLE << _CLASS_SHIFT)
        return bool(result == 0)
    return False
