"""Import a state file as a backup: check its structure, store its leaves, commit a manifest.

The id of a backup that is made from a plain state follows from the file's bytes and the session, so the same file is
imported once, however often it is tried; what a killed import has stored is found again by its digest.
"""

from __future__ import annotations

import errno
import math
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3
from ulid import ULID

from ..codec import manifest_file
from ..codec.bundle import blob_refs
from ..state.backup import Backup
from ..state.errors import (
    BackupNotFound,
    BadInput,
    Conflict,
    FileChanged,
    MissingBlobs,
    TorporError,
)
from ..state.ids import parse_session_id
from ..state.manifest import BlobRef, Manifest
from ..state.quota import on_disk
from ..state.watching import Signature
from ..store.files import store_error
from .api import Api
from .blob_access import BlobAccess
from .room import STEP_BYTES, Promise, RoomDesk
from .save import MAX_ATTEMPTS
from .sources import Source, open_source
from .transfer import Counted, FileFormat, Progress, format_of, no_progress, signature_of

_PASSES = {"v1": 3, "bundle": 2, "safetensors": 2, "pt": 1}  # over the file: one for its digest
_HASH_BYTES = 1 << 20
_AHEAD_S = 86_400.0  # that another machine's clock may be: what claims to be later still would be the newest for ever


@dataclass(frozen=True, slots=True)
class Imported:
    """A backup that was made from a file; `known` when it was there already. `seen` is the file that was read."""

    backup: Backup
    known: bool
    format: FileFormat
    seen: Signature


class Importer:
    """Imports files into the store of a daemon."""

    def __init__(self, api: Api, blobs: BlobAccess, desk: RoomDesk, clock: Callable[[], float] = time.time) -> None:
        self._api, self._blobs, self._desk, self._clock = api, blobs, desk, clock

    def run(
        self,
        path: str | Path,
        session_id: str | None = None,
        progress: Progress = no_progress,
        *,
        follow: bool = True,
        expected: Signature | None = None,
        name: str | None = None,
    ) -> Imported:
        """Import one file. Without `follow`, a symbolic link is refused; with `expected`, a file that looks otherwise.

        `name` is what the file was called before it came to lie under `path`.

        Raises: UnknownFormat, NewerFormat, InvalidFile, FileDamaged, TooLarge, UnsupportedState, MissingExtra,
        FileChanged, and what storing raises. Nothing is listed and nothing kept then.
        """
        if session_id is not None:
            parse_session_id(session_id)
        for _ in range(MAX_ATTEMPTS - 1):
            with suppress(MissingBlobs):  # somebody's import that failed took back what this one counted on
                return self._run(path, session_id, progress, follow, expected, name)
        return self._run(path, session_id, progress, follow, expected, name)

    def _run(
        self,
        path: str | Path,
        session_id: str | None,
        progress: Progress,
        follow: bool,
        expected: Signature | None,
        name: str | None,
    ) -> Imported:
        named = Path(name if name is not None else path)
        with ExitStack() as stack, _translated(path):
            file = stack.enter_context(_open(path, follow))
            seen = signature_of(os.fstat(file.fileno()))
            if expected is not None and not seen.matches(expected):
                raise FileChanged(f"{path} is not the file that was to be read")
            stack.enter_context(_unless_changed(path, file, seen))
            head = file.read(512)
            kind = format_of(head, named.name)
            counted: Any = Counted(file, _PASSES[kind] * seen.size_bytes, progress)
            # The structure comes before the digest: a few bytes refuse what is no such file.
            source = open_source(kind, counted, seen.size_bytes, stack)
            digest = _digest(counted)
            made = _Import(self._api, self._blobs, self._desk, source, named, seen, digest, session_id, self._clock())
            backup, known = made.run(lambda: signature_of(os.fstat(file.fileno())))
        return Imported(backup, known, kind, seen)


@contextmanager
def _translated(path: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        made = store_error(error, "read", path)
        raise type(made)(made.detail, hint="Check the permissions of the file and the disk.") from error


@contextmanager
def _unless_changed(path: str | Path, file: BinaryIO, seen: Signature) -> Iterator[None]:
    """Blame nobody for what is wrong with a file that was written to while it was read."""
    try:
        yield
    except BadInput as error:
        if signature_of(os.fstat(file.fileno())) == seen:
            raise
        raise FileChanged(f"{path} was written to while it was read") from error


def _open(path: str | Path, follow: bool) -> BinaryIO:
    """Open a file, and nothing else; a pipe would wait, a device would go on for ever. Raises: BadInput."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
    try:
        fd = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        raise BadInput(f"there is no file {path}", hint="Check its name.") from None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise BadInput(f"{path} is a symbolic link", hint="Name the file that it points to.") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise BadInput(f"{path} is not a file", hint="Name a file, or a folder of files.")
    return os.fdopen(fd, "rb", buffering=0)


def _digest(file: BinaryIO) -> str:
    hasher, at = blake3(), file.tell()
    file.seek(0)
    while data := file.read(_HASH_BYTES):
        hasher.update(data)
    file.seek(at)
    return hasher.hexdigest()


@dataclass(slots=True)
class _Import:
    """One import that is going on."""

    api: Api
    blobs: BlobAccess
    desk: RoomDesk
    source: Source
    path: Path
    seen: Signature
    digest: str
    wanted_session: str | None
    now: float

    def run(self, look_again: Callable[[], Signature]) -> tuple[Backup, bool]:
        session_id = self.wanted_session or self.source.session_id or _session_of(self.path)
        whole = self.source.manifest
        same = whole is not None and whole.session_id == session_id and whole.created_at < self.now + _AHEAD_S
        backup_id = whole.id if whole is not None and same else self._new_id(session_id)
        known = self._known(backup_id, whole if same else None)
        if known is not None and self._is_whole(known):
            return known, True
        written: list[BlobRef] = []
        promise = self.desk.promise(backup_id)
        try:
            layers = self.source.layers(lambda chunk: self._put(chunk, written, promise))
            self.blobs.settle()
            if look_again() != self.seen:
                raise FileChanged(f"{self.path} was written to while it was read")
            if known is not None:
                return known, True
            made = whole if whole is not None and same else self._manifest(backup_id, session_id, layers, written)
            return self._commit(made, same), False
        except BaseException:
            with suppress(TorporError):
                self.api.discard(written)
            with suppress(TorporError):
                promise.end()
            raise

    def _known(self, backup_id: str, whole: Manifest | None) -> Backup | None:
        """Return the backup that the file is already. Raises: Conflict when other content has its id."""
        try:
            backup = self.api.backup(backup_id, ask=False)  # it is made of a file that is here
        except BackupNotFound:
            return None
        if whole is not None and backup.manifest_digest != manifest_file.digest_of(manifest_file.dump(whole)):
            raise Conflict(f"backup {backup_id} exists with other content")
        return backup

    def _is_whole(self, backup: Backup) -> bool:
        """Tell whether the store has all blobs of a backup; what it lost comes back from the file."""
        return not self.blobs.missing(blob_refs(manifest_file.load(self.api.manifest(backup.id))))

    def _commit(self, manifest: Manifest, same: bool) -> Backup:
        try:
            return self.api.commit(manifest.id, manifest_file.dump(manifest))
        except Conflict:
            if same:
                raise
            return self.api.backup(manifest.id)  # another process has imported this very file meanwhile

    def _put(self, chunk: memoryview, written: list[BlobRef], promise: Promise) -> BlobRef:
        promise.need(on_disk(chunk.nbytes), ahead_bytes=min(self.seen.size_bytes, STEP_BYTES))
        result = self.blobs.put([chunk], within=promise.name)
        promise.wrote(on_disk(chunk.nbytes))
        if result.written:
            written.append(result.ref)
        return result.ref

    def _own_time(self) -> float:
        return self.source.created_at if self.source.created_at is not None else self.seen.mtime_ns / 1e9

    def _created_at(self) -> float:
        """Return when the state was captured. What a foreign file claims may never change: then its mtime counts."""
        if self.source.ours:  # just before the backup that it was exported from, which holds more
            return max(math.nextafter(min(self._own_time(), self.now), 0.0), 0.0)
        return min(max(self._own_time(), self.seen.mtime_ns / 1e9), self.now)

    def _new_id(self, session_id: str) -> str:
        milliseconds = int(min(max(self._own_time(), 0.0), 1e11) * 1000)
        noise = blake3(f"{self.digest}|{session_id}".encode()).digest(10)
        return str(ULID.from_bytes(milliseconds.to_bytes(6, "big") + noise))

    def _manifest(self, backup_id: str, session_id: str, layers: dict[str, Any], written: list[BlobRef]) -> Manifest:
        size = sum(ref.size_bytes for ref in written)
        whole = self.source.manifest
        if whole is not None:
            moved = replace(whole, id=backup_id, session_id=session_id, parent_id=None, group=None, bytes_written=size)
            return replace(moved, created_at=min(whole.created_at, self.now), imported=True)
        newest = self.api.backups(session_id=session_id, limit=1)
        return Manifest(
            id=backup_id,
            session_id=session_id,
            created_at=self._created_at(),
            adapter="plain",
            layers=layers,
            parent_id=newest[0].id if newest else None,
            bytes_written=size,
            imported=True,
        )


def _session_of(path: Path) -> str:
    """Return a session id that a file's name gives."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._:@+=-") else "-" for c in path.stem)
    kept = kept.lstrip("._:@+=-").replace("..", ".-")[:128]
    return parse_session_id(kept or "import")
