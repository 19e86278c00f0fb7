"""Where a blob's cold form lies while it goes up: in memory, or where it is large in a file.

A file that is complete keeps its name, which is that of its object: an upload of it goes on after a restart, since
encrypting the blob again would give other bytes.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from ..state.errors import StoreFailed, StoreFull

MEMORY_BYTES = 16 << 20
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Spool:
    """Cold forms under one folder, which belongs to it alone."""

    def __init__(self, folder: Path, memory_bytes: int = MEMORY_BYTES) -> None:
        self._folder, self._memory_bytes = folder, memory_bytes

    @contextlib.contextmanager
    def room(self, size_bytes: int) -> Iterator[BinaryIO]:
        """Lend a place for about so many bytes, which nothing remembers. Raises: StoreFull, StoreFailed."""
        if size_bytes <= self._memory_bytes:
            with io.BytesIO() as memory:
                yield memory
            return
        with self._translated():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder) as file:
                yield cast(BinaryIO, file)

    def kept(self, name: str) -> BinaryIO | None:
        """Open the complete file of an object, None when there is none."""
        with self._translated():
            try:
                return self._path(name).open("rb")
            except FileNotFoundError:
                return None

    def keep(self, name: str, write: Callable[[BinaryIO], object]) -> BinaryIO:
        """Have an object's file written, and open it. What `write` raises leaves nothing.

        Durability: on return it survives power loss. Raises: StoreFull, StoreFailed.
        """
        path, partial = self._path(name), self._path(name).with_suffix(".partial")
        with self._translated():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                with open(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "r+b") as file:
                    write(file)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(partial, path)
                self._sync()
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
            return path.open("rb")

    def drop(self, name: str) -> None:
        """Remove an object's file; one that is not there is removed already. Raises: StoreFailed."""
        with self._translated():
            self._path(name).unlink(missing_ok=True)

    def clean(self, is_begun: Callable[[str], bool]) -> None:
        """Remove what a killed process left and nobody goes on with. Raises: StoreFailed."""
        with self._translated():
            if not self._folder.is_dir():
                return
            for entry in os.scandir(self._folder):
                if not entry.name.endswith(".object") or not is_begun(_object(entry.name)):
                    os.unlink(entry.path)

    def _path(self, name: str) -> Path:
        return self._folder / (name.replace("/", "_") + ".object")

    def _sync(self) -> None:
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            made = StoreFull if error.errno in _FULL else StoreFailed
            raise made(f"cannot use {self._folder}: {os.strerror(error.errno or 0)}") from error


def _object(file: str) -> str:
    return file.removesuffix(".object").replace("_", "/")
