"""Export a backup as one file, which is complete and verified before it has its name.

What is written goes to `FILE.partial`. The writers give the same bytes every time, so an export that was interrupted
compares what is there and goes on behind it. A file that exists is never touched unless that is asked for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import orjson
from blake3 import blake3

from ..codec import lz4_stream
from ..codec.bundle import FOLDER, Bundle, blob_refs, write_bundle
from ..codec.leaves import LeafDigests, ReadBlob
from ..codec.safetensors_file import SafetensorsFile, write_safetensors
from ..codec.state_file import PLAIN_LAYERS, load_own
from ..codec.v1_read import V1File
from ..codec.v1_write import Losses, write_v1
from ..state.errors import (
    BadInput,
    Conflict,
    FileExists,
    StoreFailed,
    StoreFull,
    TorporError,
)
from ..state.manifest import BlobRef, Manifest
from ..store.files import store_error, sync_folder
from .blob_access import BlobAccess
from .transfer import ExportFormat, Progress, check_format, no_progress

_COMPARE_BYTES = 1 << 20
_PARTIAL = ".partial"
_MAX_NAME_BYTES = 255  # of a file name, on every file system that people use
_FULL_HINT = "The disk may be full, or its file system may not hold files of this size; run the same command to go on."


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written and read back. `resumed_bytes` of it were there from an export before."""

    path: Path
    format: ExportFormat
    size_bytes: int
    digest: str
    resumed_bytes: int
    losses: Losses = field(default_factory=Losses)


class Exporter:
    """Exports backups whose blobs one can read."""

    def __init__(self, blobs: BlobAccess) -> None:
        self._blobs = blobs

    def run(
        self,
        raw: bytes,
        path: str | Path,
        kind: ExportFormat,
        progress: Progress = no_progress,
        *,
        strict: bool = False,
        force: bool = False,
    ) -> Exported:
        """Export the backup whose manifest's JSON is `raw`.

        Durability: on return the file survives power loss. Raises: BadInput, FileExists, Conflict (another export
        writes it), StoreFull, StoreFailed, UnsupportedState, InvalidManifest, BlobNotFound, BlobDamaged.
        """
        if check_format(kind) != "v1" and strict:
            raise BadInput("strict is a way to write v1", hint="Add --format v1.")
        manifest, target, losses = load_own(raw), Path(os.path.abspath(path)), Losses()
        with _translated(target):
            _check_target(target, force)
        done, total = 0, 2 * (sum(ref.size_bytes for ref in blob_refs(manifest)) + len(raw))

        def told(count: int) -> None:
            nonlocal done
            done += count
            progress(min(done, total), total)

        def read(ref: BlobRef) -> memoryview:
            told(ref.size_bytes)
            return self._blobs.read(ref)

        pieces = _pieces(kind, raw, manifest, read, losses, strict)
        with _translated(target), _partial(target) as file:
            written = _write(file, pieces)
            _verify(file, kind, manifest, written, None if strict else self._blobs.read, told)
            _publish(file, target, force)
        progress(total, total)
        return Exported(target, kind, written.size_bytes, written.digest, written.resumed_bytes, losses)


def _check_target(target: Path, force: bool) -> None:
    if not target.parent.is_dir():
        raise BadInput(f"there is no folder {target.parent}", hint="Make it first, or choose another name.")
    if target.is_dir():
        raise BadInput(f"{target} is a folder", hint="Name a file.")
    if os.path.lexists(target) and not force:
        raise FileExists(f"{target} exists")


def _pieces(
    kind: ExportFormat,
    raw: bytes,
    manifest: Manifest,
    read: Callable[[BlobRef], memoryview],
    losses: Losses,
    strict: bool,
) -> Iterable[bytes | memoryview]:
    if kind == "v1":
        return write_v1(manifest, read, version("torpor"), losses, strict=strict)
    return write_bundle(raw, read) if kind == "bundle" else write_safetensors(raw, read)


@contextlib.contextmanager
def _translated(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        made = store_error(error, "write", target)
        hint = _FULL_HINT if isinstance(made, StoreFull) else "Check the folder's permissions and the disk."
        raise type(made)(made.detail, hint=hint) from error


def _partial_of(target: Path) -> Path:
    """Return the name of the file that becomes the target; a long name leaves no room for a suffix."""
    name = target.name + _PARTIAL
    if len(os.fsencode(name)) > _MAX_NAME_BYTES:
        name = blake3(os.fsencode(target.name)).hexdigest()[:32] + _PARTIAL
    return target.with_name(name)


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[BinaryIO]:
    """Open the file that becomes the target, held by a lock. It stays when the export can be gone on with."""
    path = _partial_of(target)
    with _held(path) as file:
        if not _is_export(os.pread(file.fileno(), 32, 0)):
            hint = "Move it away, or choose another name."
            raise FileExists(f"{path} exists, and is no export that was interrupted", hint=hint)
        try:
            yield file
        except TorporError as error:
            if not error.retryable:
                path.unlink(missing_ok=True)
            raise


def _held(path: Path) -> BinaryIO:
    """Open a file and lock it; it has this name and no other. Raises: Conflict."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        file = os.fdopen(fd, "r+b", buffering=0)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise Conflict(f"another export writes {path}", hint="Wait for it, or choose another name.") from None
        status = os.fstat(fd)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(status, os.lstat(path)):
                if status.st_nlink == 1:
                    return file
                path.unlink()  # killed when it had its name already: what has that name is never written to
        file.close()  # an export published or removed it between our two calls


def _is_export(head: bytes) -> bool:
    """Tell whether a file begins as an export does; one of zeros is what a power loss may leave."""
    starts = (lz4_stream.MAGIC, f"{FOLDER}/".encode())
    table = len(head) > 8 and _agree(head[8:], b'{"__metadata__"')
    return table or not head.strip(b"\0") or any(_agree(head, start) for start in starts)


def _agree(head: bytes, start: bytes) -> bool:
    return head[: len(start)] == start[: len(head)]


@dataclass(slots=True)
class _Written:
    size_bytes: int
    resumed_bytes: int
    digest: str


def _write(file: BinaryIO, pieces: Iterable[bytes | memoryview]) -> _Written:
    """Write pieces over what is there: as long as it is the same it is left alone."""
    hasher, at, there = blake3(), 0, os.fstat(file.fileno()).st_size
    resumed = 0
    for piece in pieces:
        hasher.update(piece)
        view = memoryview(piece).cast("B")
        same = _same_bytes(file, view, at) if resumed == at and at < there else 0
        if same < view.nbytes:
            if resumed == at:
                os.ftruncate(file.fileno(), at + same)
            _write_at(file, view[same:], at + same)
        resumed += same if resumed == at else 0
        at += view.nbytes
    os.ftruncate(file.fileno(), at)
    os.fsync(file.fileno())
    return _Written(at, resumed, hasher.hexdigest())


def _same_bytes(file: BinaryIO, view: memoryview, at: int) -> int:
    """Return how many leading bytes of a piece stand in the file already."""
    done = 0
    while done < view.nbytes:
        there = os.pread(file.fileno(), min(_COMPARE_BYTES, view.nbytes - done), at + done)
        if not there:
            break
        if there != view[done : done + len(there)]:
            return done + next(i for i, (a, b) in enumerate(zip(there, view[done:], strict=False)) if a != b)
        done += len(there)
    return done


def _write_at(file: BinaryIO, view: memoryview, at: int) -> None:
    while view:
        count = os.pwrite(file.fileno(), view, at)
        at, view = at + count, view[count:]


def _verify(
    file: BinaryIO,
    kind: ExportFormat,
    manifest: Manifest,
    written: _Written,
    read: ReadBlob | None,
    told: Callable[[int], None],
) -> None:
    """Read the file back from the disk, and as its format; `read` gives blobs to compare with. Raises: StoreFailed."""
    fd = file.fileno()
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    hasher = blake3()
    file.seek(0)
    while data := file.read(_COMPARE_BYTES):
        hasher.update(data)
        told(len(data))
    if hasher.hexdigest() != written.digest:
        raise StoreFailed("what was written reads back as something else", hint="The disk of the file may be failing.")
    file.seek(0)
    sound = _reads_as(manifest, file, read) if kind == "v1" else _holds(manifest, file, kind, written.size_bytes)
    if not sound:
        raise StoreFailed("the file does not read back as the backup", hint="This is a defect; please report it.")


def _reads_as(manifest: Manifest, file: BinaryIO, read: ReadBlob | None) -> bool:
    digests = LeafDigests()
    found = V1File(file).layers(digests)
    wanted = {name: manifest.layers[name] for name in PLAIN_LAYERS if name in manifest.layers}
    if read is None:
        return True
    return orjson.dumps(found) == orjson.dumps({name: digests.tree(layer, read) for name, layer in wanted.items()})


def _holds(manifest: Manifest, file: BinaryIO, kind: ExportFormat, size_bytes: int) -> bool:
    found = Bundle(file, size_bytes) if kind == "bundle" else SafetensorsFile(file, size_bytes)
    for _ in found.blobs():  # checks every digest
        pass
    return found.manifest == manifest


def _publish(file: BinaryIO, target: Path, force: bool) -> None:
    """Give the file its name, durably and without replacing another."""
    partial = _partial_of(target)
    if force:
        os.replace(partial, target)
    else:
        _rename_new(partial, target)
    with contextlib.suppress(OSError):  # some file systems of USB sticks cannot sync a folder
        sync_folder(target.parent)


def _rename_new(partial: Path, target: Path) -> None:
    try:
        os.link(partial, target)
    except FileExistsError:
        raise FileExists(f"{target} exists") from None
    except OSError:  # no hard links there (FAT, exFAT)
        if os.path.lexists(target):
            raise FileExists(f"{target} exists") from None
        os.rename(partial, target)
    else:
        os.unlink(partial)
