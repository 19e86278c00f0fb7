"""A state file that was opened to be looked at or imported: its structure is read and checked, its bytes are not yet.

The id of a backup that is made from a plain state follows from the file's bytes and the session, so the same file is
one backup, however often it is tried.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from blake3 import blake3
from ulid import ULID

from ..state.errors import BadInput, FileChanged
from ..state.ids import parse_session_id
from ..state.manifest import Manifest
from ..state.watching import Signature
from ..store.files import store_error
from .sources import Source, open_source
from .transfer import Counted, FileFormat, Progress, format_of, signature_of

_PASSES = {"v1": 3, "bundle": 2, "safetensors": 2, "pt": 1}  # over the file: one for its digest
_HASH_BYTES = 1 << 20
_AHEAD_S = 86_400.0  # that another machine's clock may be: what claims to be later still would be the newest for ever


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file's backup belongs. `whole` is the manifest of a backup that comes back under its own id."""

    session_id: str
    backup_id: str
    whole: Manifest | None


@dataclass(frozen=True, slots=True)
class Opened:
    """An open file. `path` is what it is called, `seen` what it looked like, `ctime_ns` when anything of it changed."""

    path: Path
    file: BinaryIO
    kind: FileFormat
    source: Source
    seen: Signature
    ctime_ns: int
    digest: str

    def check_unchanged(self) -> None:
        """Make sure that nobody wrote to it, nor to it and then to its time. Raises: FileChanged."""
        now = os.fstat(self.file.fileno())
        if (signature_of(now), now.st_ctime_ns) != (self.seen, self.ctime_ns):
            raise FileChanged(f"{self.path} was written to while it was read")

    def own_time(self) -> float:
        """Return when it says that it was made; without a word of its own, when it was last written to."""
        return self.source.created_at if self.source.created_at is not None else self.seen.mtime_ns / 1e9

    def place(self, wanted_session: str | None, now: float) -> Place:
        """Return the session and the id of its backup."""
        session_id = wanted_session or self.source.session_id or _session_of(self.path)
        whole = self.source.manifest
        if whole is not None and whole.session_id == session_id and whole.created_at < now + _AHEAD_S:
            return Place(session_id, whole.id, whole)
        return Place(session_id, self._new_id(session_id), None)

    def _new_id(self, session_id: str) -> str:
        milliseconds = int(min(max(self.own_time(), 0.0), 1e11) * 1000)
        noise = blake3(f"{self.digest}|{session_id}".encode()).digest(10)
        return str(ULID.from_bytes(milliseconds.to_bytes(6, "big") + noise))


@contextmanager
def opened(
    path: str | Path,
    progress: Progress,
    *,
    follow: bool = True,
    expected: Signature | None = None,
    digest: str | None = None,
    name: str | None = None,
) -> Iterator[Opened]:
    """Open a file and read its structure. Nobody is blamed for what is wrong with one that was written to meanwhile.

    Without `follow`, a symbolic link is refused; with `expected`, a file that looks otherwise; with `digest`, one that
    holds other bytes, whatever it looks like. `name` is what the file was called before it came to lie under `path`.

    Raises: UnknownFormat, NewerFormat, InvalidFile, FileDamaged, TooLarge, UnsupportedState, MissingExtra, FileChanged.
    """
    named = Path(name if name is not None else path)
    with ExitStack() as stack, reading(path):
        file = stack.enter_context(_open(path, follow))
        status = os.fstat(file.fileno())
        seen = signature_of(status)
        if expected is not None and not seen.matches(expected):
            raise FileChanged(f"{path} is not the file that was to be read")
        stack.enter_context(_unless_changed(path, file, seen))
        head = file.read(512)
        kind = format_of(head, named.name)
        counted: Any = Counted(file, _PASSES[kind] * seen.size_bytes, progress)
        # The structure comes before the digest: a few bytes refuse what is no such file.
        source = open_source(kind, counted, seen.size_bytes, stack)
        found = _digest(counted)
        if digest not in (None, found):
            raise FileChanged(f"{path} holds other bytes than when it was looked at")
        yield Opened(named, file, kind, source, seen, status.st_ctime_ns, found)


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Translate what a file that cannot be read raises. Raises: StoreFailed."""
    try:
        yield
    except OSError as error:
        made = store_error(error, "read", path)
        raise type(made)(made.detail, hint="Check the permissions of the file and the disk.") from error


@contextmanager
def _unless_changed(path: str | Path, file: BinaryIO, seen: Signature) -> Iterator[None]:
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


def _session_of(path: Path) -> str:
    """Return a session id that a file's name gives."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._:@+=-") else "-" for c in path.stem)
    kept = kept.lstrip("._:@+=-").replace("..", ".-")[:128]
    return parse_session_id(kept or "import")
