"""The blob store: immutable files named by the BLAKE3 digest of their bytes.

Write order (MUST): a new file in staging (`O_EXCL`), written, its length checked, fsync, `os.replace` into place,
fsync of the folder. Only then may a manifest name it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from ..codec.kv_blocks import cut_up
from ..state.crash_points import Checkpoint, no_checkpoint
from ..state.errors import BlobDamaged, BlobNotFound, StoreFailed
from ..state.ids import Digest, is_digest, parse_digest
from ..state.manifest import BlobRef
from .files import (
    Appending,
    create_exclusive,
    make_private_folder,
    read_run,
    store_error,
    sync_folder,
    translated,
    unlinked,
    write_all,
)
from .staging import Staging

READ_BYTES = 512 << 10  # of one read: stays in the second-level cache until it is hashed


@dataclass(frozen=True, slots=True)
class PutResult:
    """A blob that is in the store, and whether this call wrote it."""

    ref: BlobRef
    written: bool


def digest_buffers(buffers: Iterable[memoryview]) -> Digest:
    """Return the BLAKE3 digest of buffers taken one after the other."""
    hasher = blake3()
    for buffer in buffers:
        hasher.update(buffer)
    return Digest(hasher.hexdigest())


def _read_and_digest(fd: int, buffers: Iterable[memoryview]) -> tuple[int, Digest]:
    """Fill buffers from the start of a file, hashing each piece while it is in the processor's cache."""
    hasher, offset = blake3(), 0
    for piece in cut_up(buffers, READ_BYTES):
        count = read_run(fd, [piece], offset)
        offset += count
        hasher.update(piece)
        if count < piece.nbytes:
            break
    return offset, Digest(hasher.hexdigest())


def _open_regular(path: Path) -> int:
    """Open a file for reading; one that would hang its reader, or lead elsewhere, is refused. Raises: BlobDamaged."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BlobDamaged(f"blob {path.name[:16]}… is not a file")
    return fd


class BlobStore:
    """Blobs under one folder. Safe to use from several threads and processes at once.

    With `trash` (store/trash.py) a blob is also read where it waits to be removed.
    """

    def __init__(self, folder: Path, checkpoint: Checkpoint = no_checkpoint, trash: Path | None = None) -> None:
        self.folder, self._checkpoint, self._trash = folder, checkpoint, trash

    def path(self, digest: str) -> Path:
        """Return where a blob lies. Raises: BadInput when it is not a digest."""
        checked = parse_digest(digest)
        return self.folder / checked[:2] / checked

    def has(self, ref: BlobRef) -> bool:
        """Tell whether a blob of the right size is in the store (its bytes are not read). Raises: StoreFailed."""
        with translated("look at blob", ref.digest[:16]):
            try:
                return os.lstat(self.path(ref.digest)).st_size == ref.size_bytes
            except FileNotFoundError:
                return False

    def put(
        self,
        staging: Staging,
        buffers: Sequence[memoryview],
        unsynced: set[Path],
        still_good: Callable[[], None] | None = None,
    ) -> PutResult:
        """Store the bytes of some buffers under their digest, unless they are there already.

        `still_good` raises when the buffers were changed since they were hashed; it is asked before anything is named.

        Durability: the bytes are on disk on return; the name is once `sync_folders(unsynced)` has returned.
        Raises: StoreFull, StoreFailed.
        """
        ref = BlobRef(digest_buffers(buffers), sum(b.nbytes for b in buffers))
        if self._is_there(ref, unsynced):
            return PutResult(ref, written=False)
        with self._new_file(staging) as (temporary, fd):
            write_all(fd, buffers)
            self._sync(fd, ref)
            if still_good is not None:
                still_good()
            self.publish(temporary, ref, unsynced)
        return PutResult(ref, written=True)

    def put_pieces(self, staging: Staging, pieces: Iterable[memoryview], unsynced: set[Path]) -> PutResult:
        """Store the bytes of pieces that are made one by one, perhaps in the same memory: as `put` does.

        Each is hashed and written while it is in the processor's cache. That the store has the blob already is only
        known at the end, so this is for what it hardly ever has.
        """
        with self._new_file(staging) as (temporary, fd):
            hasher, file = blake3(), Appending(fd)
            for piece in pieces:
                hasher.update(piece)
                file.write([piece])
            ref = BlobRef(Digest(hasher.hexdigest()), file.end)
            if self._is_there(ref, unsynced):
                return PutResult(ref, written=False)
            self._sync(fd, ref)
            self.publish(temporary, ref, unsynced)
        return PutResult(ref, written=True)

    def _is_there(self, ref: BlobRef, unsynced: set[Path]) -> bool:
        if not (self._touch(ref) and self.is_sound(ref)):
            return False
        # Found, but perhaps renamed a moment ago by another writer that has not synced the folder yet.
        unsynced.add(self.path(ref.digest).parent)
        return True

    @contextmanager
    def _new_file(self, staging: Staging) -> Iterator[tuple[Path, int]]:
        """Open a file in staging; it is gone at the end unless it was published. Raises: StoreFull, StoreFailed."""
        temporary = staging.new_path()
        try:
            fd = create_exclusive(temporary)
            try:
                self._checkpoint("blob.created")
                yield temporary, fd
            finally:
                os.close(fd)
        except OSError as error:
            raise store_error(error, "write a blob under", self.folder) from error
        finally:
            with suppress(OSError):  # there only when something failed; the staging folder goes as a whole
                temporary.unlink(missing_ok=True)

    def _sync(self, fd: int, ref: BlobRef) -> None:
        self._checkpoint("blob.written")
        if os.fstat(fd).st_size != ref.size_bytes:
            raise StoreFailed(f"a blob of {ref.size_bytes} bytes came out with another length")
        os.fsync(fd)
        self._checkpoint("blob.synced")

    def publish(self, temporary: Path, ref: BlobRef, unsynced: set[Path]) -> None:
        """Move a synced staging file to its name. The caller has checked its digest and length."""
        target = self.path(ref.digest)
        if not target.parent.is_dir():
            make_private_folder(target.parent)
            unsynced.add(self.folder)
        os.replace(temporary, target)
        unsynced.add(target.parent)
        self._checkpoint("blob.replaced")

    def sync_folders(self, unsynced: set[Path]) -> None:
        """Make the names of published blobs durable. Raises: StoreFailed."""
        for folder in sorted(unsynced):
            with translated("sync", folder):
                sync_folder(folder)
        self._checkpoint("blob.directory-synced")

    def _touch(self, ref: BlobRef) -> bool:
        """Renew a blob's mtime, so that the collector's grace time starts again; False when it is not there."""
        if not self.has(ref):
            return False
        with translated("renew blob", ref.digest[:16]):
            try:
                os.utime(self.path(ref.digest), follow_symlinks=False)
            except FileNotFoundError:
                return False
        return True

    def is_sound(self, ref: BlobRef) -> bool:
        """Read a blob and tell whether its bytes are whole: what is about to be shared, sent, or fetched again."""
        try:
            with self.path(ref.digest).open("rb", buffering=0) as file:
                hasher, buffer = blake3(), bytearray(1 << 20)
                while count := file.readinto(buffer):
                    hasher.update(memoryview(buffer)[:count])
        except OSError:
            return False
        return hasher.hexdigest() == ref.digest

    def missing(self, refs: Iterable[BlobRef]) -> list[str]:
        """Return the digests that are not in the store at their right size, or cannot even be looked at."""
        return [ref.digest for ref in refs if not self._seems_there(ref)]

    def _seems_there(self, ref: BlobRef) -> bool:
        try:
            return self.has(ref)
        except StoreFailed:
            return False

    def open(self, digest: str) -> int:
        """Open a blob for reading, also one in the trash; the caller closes it. Raises: BlobNotFound, StoreFailed."""
        for path in self._places(digest):
            try:
                return _open_regular(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise store_error(error, "open", path) from error
        raise BlobNotFound(f"blob {digest[:16]}… is not in the store")

    def find(self, ref: BlobRef) -> Path | None:
        """Return where a blob of the right size seems to lie, in the store or in the trash."""
        for path in self._places(ref.digest):
            with suppress(OSError):  # what cannot even be looked at cannot be read
                if os.lstat(path).st_size == ref.size_bytes:
                    return path
        return None

    def _places(self, digest: str) -> list[Path]:
        """Return where to look for a blob, in this order: one may be taken back between two looks."""
        path = self.path(digest)
        return [path] if self._trash is None else [path, self._trash / digest[:2] / digest, path]

    def read_into(self, ref: BlobRef, buffers: Iterable[memoryview]) -> None:
        """Read a blob into buffers and check it; what the buffers hold is worthless when this raises.

        Each buffer is full and hashed before the next one is asked for, so it may be the same memory again and again.
        Raises: BlobNotFound, BlobDamaged (size or digest), StoreFailed (the disk).
        """
        fd = self.open(ref.digest)
        try:
            with translated("read blob", ref.digest[:16]):
                size = os.fstat(fd).st_size
                if size != ref.size_bytes:
                    raise BlobDamaged(f"blob {ref.digest[:16]}… has {size} bytes instead of {ref.size_bytes}")
                count, digest = _read_and_digest(fd, buffers)
        finally:
            os.close(fd)
        if count != ref.size_bytes or digest != ref.digest:
            raise BlobDamaged(f"blob {ref.digest[:16]}… does not match its digest")

    def read(self, ref: BlobRef) -> memoryview:
        """Read a whole blob into fresh memory, checked. Raises: as `read_into`."""
        if self.find(ref) is None:
            os.close(self.open(ref.digest))
        buffer = memoryview(bytearray(ref.size_bytes))
        self.read_into(ref, [buffer])
        return buffer

    def remove(self, digest: str) -> bool:
        """Unlink a blob; return whether it was there. Raises: StoreFailed."""
        return unlinked(self.path(digest))

    def digests(self) -> Iterator[str]:
        """Yield the digest of every blob in the store, one shard after the other."""
        for shard in range(256):
            yield from self.shard(shard)

    def shard(self, number: int) -> list[str]:
        """Return the digests of the blobs whose first byte is `number`. Raises: StoreFailed."""
        folder = self.folder / f"{number:02x}"
        with translated("list", folder), suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(folder).st_mode):
                with os.scandir(folder) as files:
                    return [file.name for file in files if is_digest(file.name)]
        return []
