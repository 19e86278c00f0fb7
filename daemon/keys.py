"""Where this machine keeps the keys of its buckets: the OS keyring, or else a file of the owner's alone.

`key_storage` decides: `keyring`, `file`, or `auto`, which takes the keyring where a real one answers. A keyring is
asked in a thread of its own and never waited for longer than DEADLINE_S: one that is locked opens a prompt that nobody
may see, and a session bus may be dead.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import orjson

from ..codec.keys import KeyRing, dump_ring, load_ring
from ..state.errors import KeyMissing, ObjectDamaged, StoreFailed, Timeout, TorporError, UnsafeHome
from ..store.files import translated, write_private

log = logging.getLogger("torpor.keys")
KeyStorage = Literal["auto", "keyring", "file"]
Place = Literal["keyring", "file"]
SERVICE = "torpor"
FILE_FORMAT = "torpor-keys/v1"
MAX_FILE_BYTES = 4 << 20
DEADLINE_S = 5.0
FILE_WARNING = (
    "The key lies in a file that only you can read, not in a keyring: whoever gets this disk or your account's files "
    "can read the backups in the bucket."
)
_T = TypeVar("_T")


class KeyStore:
    """The rings of this machine by repository. Safe to use from several threads."""

    def __init__(self, file: Path, storage: KeyStorage = "auto", deadline_s: float = DEADLINE_S) -> None:
        self._file, self._storage = file, storage
        self._places: dict[str, Place] = {}
        self._keyring, self._lock = _Keyring(deadline_s, only_secure=storage == "auto"), threading.Lock()

    def load(self, repo_id: str) -> KeyRing | None:
        """Return the ring of a repository that is encrypted, None when it is not here.

        Raises: KeyMissing when a keyring that may have it does not answer, UnsafeHome when others can read the file,
        ObjectDamaged, StoreFailed.
        """
        try:
            return self._find(repo_id)[0]
        except Timeout as error:
            raise KeyMissing(f"the bucket is encrypted, and {error.detail}", hint=_LOCKED_HINT) from error

    def find(self, repo_id: str) -> tuple[KeyRing | None, Place | None]:
        """Return the ring of a repository and where it lies; a keyring that does not answer has none.

        Raises: UnsafeHome, ObjectDamaged, StoreFailed.
        """
        try:
            return self._find(repo_id)
        except Timeout:
            return None, None

    def in_file(self, repo_id: str) -> bool:
        """Tell whether a ring that was loaded or saved lies in the file; nothing is read or asked for that."""
        return self._places.get(repo_id) == "file"

    def _find(self, repo_id: str) -> tuple[KeyRing | None, Place | None]:
        with self._lock:
            raw = self._read_file().get(repo_id)
        if raw is not None:
            self._places[repo_id] = "file"
            return load_ring(raw.encode()), "file"
        if self._storage == "file":
            return None, None
        try:
            found = self._keyring.get(_account(repo_id))
        except StoreFailed as error:
            log.info("no keyring is used: %s", error.detail)
            return None, None
        if found is None:
            return None, None
        self._places[repo_id] = "keyring"
        return load_ring(found.encode()), "keyring"

    def kept(self) -> int:
        """Return how many rings the file holds. Raises: UnsafeHome, ObjectDamaged, StoreFailed."""
        with self._lock:
            return len(self._read_file())

    def keyring_name(self) -> str:
        """Return the name of the keyring that would be used. Raises: Timeout, StoreFailed."""
        return self._keyring.name()

    def save(self, repo_id: str, ring: KeyRing) -> Place:
        """Keep a ring, and return where. It has been read back when this returns.

        Durability: in the file, it survives power loss on return; of a keyring that is the keyring's affair.
        Raises: StoreFailed, StoreFull, UnsafeHome; Timeout when `keyring` is demanded and does not answer.
        """
        with self._lock:
            self._places[repo_id] = place = self._save(repo_id, dump_ring(ring).decode())
            return place

    def forget(self, repo_id: str) -> bool:
        """Take a repository's ring out of the keyring; tell whether it was there. The file goes with its home.

        Raises: Timeout, StoreFailed.
        """
        if self._keyring.get(_account(repo_id)) is None:
            return False
        self._keyring.delete(_account(repo_id))
        return True

    def _save(self, repo_id: str, text: str) -> Place:
        kept = self._read_file()
        if repo_id in kept:  # first: a kill between the two must not leave an older ring there, which is read first
            self._write_file({**kept, repo_id: text})
        if self._storage != "file" and self._into_keyring(repo_id, text):
            if kept.pop(repo_id, None) is not None:
                self._write_file(kept)
            return "keyring"
        if repo_id not in kept:
            self._write_file({**kept, repo_id: text})
        return "file"

    def _into_keyring(self, repo_id: str, text: str) -> bool:
        try:
            self._keyring.set(_account(repo_id), text)
            if self._keyring.get(_account(repo_id)) != text:
                raise StoreFailed("the keyring does not give back what it took", hint=_FILE_HINT)
            return True
        except TorporError as error:
            if self._storage == "keyring":
                raise
            log.info("no keyring is used: %s", error.detail)
            return False

    def _read_file(self) -> dict[str, str]:
        with translated("read", self._file):
            try:
                fd = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            except FileNotFoundError:
                return {}
            except OSError as error:
                if error.errno == errno.ELOOP:
                    raise UnsafeHome(f"{self._file} is a symbolic link") from error
                raise
            try:
                _refuse_open_file(self._file, os.fstat(fd))
                raw = os.read(fd, MAX_FILE_BYTES)
            finally:
                os.close(fd)
        return _parse_file(self._file, raw)

    def _write_file(self, rings: dict[str, str]) -> None:
        write_private(self._file, orjson.dumps({"format": FILE_FORMAT, "rings": rings}, option=orjson.OPT_INDENT_2))


_FILE_HINT = "Set TORPOR_KEY_STORAGE=file to keep the key in a file of yours alone."


def _account(repo_id: str) -> str:
    return f"bucket {repo_id}"


def _refuse_open_file(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeHome(f"{path} is not a file")
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise UnsafeHome(
            f"{path} holds keys, and others than you can read it",
            hint=f"chmod 600 {path}; whoever read it can read the bucket: `torpor key rotate` protects what comes.",
        )


def _parse_file(path: Path, raw: bytes) -> dict[str, str]:
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError:
        value = None
    rings = value.get("rings") if isinstance(value, dict) and value.get("format") == FILE_FORMAT else None
    if not isinstance(rings, dict) or not all(isinstance(text, str) for text in rings.values()):
        raise ObjectDamaged(
            f"{path} is damaged", hint="Move the file away and unlock the bucket anew with `torpor key init`."
        )
    return rings


class _Keyring:
    """The OS keyring behind a deadline. While a call hangs, no other is made."""

    def __init__(self, deadline_s: float, *, only_secure: bool) -> None:
        self._deadline_s, self._only_secure, self._busy = deadline_s, only_secure, threading.Lock()

    def get(self, account: str) -> str | None:
        """Return a secret. Raises: Timeout, StoreFailed."""
        found: str | None = self._ask(lambda backend: backend.get_password(SERVICE, account))
        return found

    def set(self, account: str, secret: str) -> None:
        """Keep a secret. Raises: Timeout, StoreFailed."""
        self._ask(lambda backend: backend.set_password(SERVICE, account, secret))

    def delete(self, account: str) -> None:
        """Remove a secret that is there. Raises: Timeout, StoreFailed."""
        self._ask(lambda backend: backend.delete_password(SERVICE, account))

    def name(self) -> str:
        """Return what the keyring calls itself. Raises: Timeout, StoreFailed."""
        return str(self._ask(lambda backend: backend.name))

    def _ask(self, question: Callable[[Any], _T]) -> _T:
        if not self._busy.acquire(blocking=False):
            raise Timeout("the keyring still does not answer; it may be locked", hint=_LOCKED_HINT)
        answer: list[_T] = []
        failure: list[Exception] = []

        def run() -> None:
            try:
                answer.append(question(_real_backend(self._only_secure)))
            except Exception as error:  # whatever a backend raises becomes one of ours below
                failure.append(error)
            finally:
                self._busy.release()

        thread = threading.Thread(target=run, name="keyring", daemon=True)
        thread.start()
        thread.join(self._deadline_s)
        if answer:
            return answer[0]
        if not failure:
            raise Timeout(f"the keyring did not answer in {self._deadline_s:.0f} s", hint=_LOCKED_HINT)
        if isinstance(failure[0], TorporError):
            raise failure[0]
        raise StoreFailed(f"the keyring failed: {type(failure[0]).__name__}", hint=_FILE_HINT) from failure[0]


_LOCKED_HINT = "Unlock your keyring; or set TORPOR_KEY_STORAGE=file and run `torpor key init`."


def _real_backend(only_secure: bool) -> Any:
    """Return the keyring of this desktop. Raises: StoreFailed when there is none that keeps a secret.

    `only_secure` leaves out those that the library itself ranks below 1: plain files and such.
    """
    import keyring  # late: its backends look for a session bus
    from keyring.backends import chainer, fail, null

    backend = keyring.get_keyring()
    unreal = (fail.Keyring, null.Keyring)
    if isinstance(backend, unreal) or (isinstance(backend, chainer.ChainerBackend) and not backend.backends):
        raise StoreFailed("there is no keyring here", hint=_FILE_HINT)
    if only_secure and backend.priority < 1:
        raise StoreFailed(f"{backend.name} is no better than a file", hint=_FILE_HINT)
    return backend
