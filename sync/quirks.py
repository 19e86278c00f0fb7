"""What a storage can do, found out by trying, once for each repository, and remembered.

Providers differ in what no version number tells: whether `If-None-Match: *` is kept (some answer 501, some ignore it),
and which checksum of a body they look at (some refuse the newer headers, some ignore all).
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from ..state.errors import ObjectExists, RemoteFailed, RemoteRefused, TorporError
from .s3_errors import remote_status

Checksum = Literal["crc32", "md5", "none"]  # cheapest first
_KINDS: tuple[Checksum, ...] = get_args(Checksum)
PROBES_PREFIX = "probes/"


@dataclass(frozen=True, slots=True)
class Quirks:
    """What a storage can do. `conditional_put`: it keeps `If-None-Match: *`. `checksum`: which one it checks."""

    conditional_put: bool
    checksum: Checksum


class QuirksMemory(Protocol):
    """Where it is remembered; losing it costs six small requests."""

    def read(self) -> Mapping[str, Any] | None:
        """Return what was remembered."""
        ...

    def write(self, found: Mapping[str, Any]) -> None:
        """Remember what can be written as JSON."""
        ...


class InProcess:
    """Remembers as long as the process lives."""

    def __init__(self) -> None:
        self._found: Mapping[str, Any] | None = None

    def read(self) -> Mapping[str, Any] | None:
        """Return what was remembered."""
        return self._found

    def write(self, found: Mapping[str, Any]) -> None:
        """Remember."""
        self._found = found


class QuirkBook:
    """The quirks of one storage; `server` tells another one apart that took its place in the settings."""

    def __init__(self, memory: QuirksMemory, server: str, probe: Callable[[], Quirks]) -> None:
        self._memory, self._server, self._probe = memory, server, probe
        self._lock = threading.Lock()
        self._known: Quirks | None = None
        self._was_doubted = False

    def known(self) -> Quirks:
        """Return the quirks; the first one who asks finds them out. Raises: what a request raises."""
        with self._lock:
            if self._known is None:
                self._known = self._remembered()
            return self._known or self._found_out()

    def doubted(self, seen: Quirks) -> Quirks:
        """Find out again after a refusal, at most once: the storage may have been changed. Returns what is so now.

        A storage that refuses everything tells nothing of this: then all stays as it was.
        """
        with self._lock:
            if self._was_doubted or self._known != seen:
                return self._known or seen
            self._was_doubted = True
            try:
                return self._found_out()
            except TorporError:
                return seen

    def _found_out(self) -> Quirks:
        self._known = self._probe()
        self._memory.write(
            {"server": self._server, "conditional_put": self._known.conditional_put, "checksum": self._known.checksum}
        )
        return self._known

    def _remembered(self) -> Quirks | None:
        found = self._memory.read() or {}
        conditional, kinds = found.get("conditional_put"), [k for k in _KINDS if k == found.get("checksum")]
        if found.get("server") != self._server or not isinstance(conditional, bool) or not kinds:
            return None
        return Quirks(conditional, kinds[0])


class Probed(Protocol):
    """What a probe needs of a bucket."""

    def put_as(self, name: str, body: io.BytesIO, size_bytes: int, quirks: Quirks, *, only_new: bool) -> None:
        """Store an object as if the storage had these quirks."""
        ...

    def delete(self, name: str) -> None:
        """Delete an object."""
        ...


def probe(bucket: Probed, name: str) -> Quirks:
    """Find out what a storage can do, with an object of a name that was never used."""
    try:
        found = Quirks(_keeps_conditions(bucket, name), _checksum(bucket, name))
    except BaseException:  # somebody waits for this and may press Ctrl-C: the object is taken back all the same
        with suppress(TorporError):
            bucket.delete(name)
        raise
    bucket.delete(name)
    return found


def _keeps_conditions(bucket: Probed, name: str) -> bool:
    """Tell whether the second conditional write of one name fails, as it must."""
    for _ in range(2):
        try:
            bucket.put_as(name, io.BytesIO(b"1"), 1, Quirks(True, "none"), only_new=True)
        except RemoteRefused:
            return False
        except ObjectExists:
            return True
    return False


def _checksum(bucket: Probed, name: str) -> Checksum:
    """Return the cheapest checksum that the storage takes where it is right, and refuses where it is wrong."""
    for kind in _KINDS[:-1]:
        if _accepts(bucket, name, kind, io.BytesIO(b"1")) and not _accepts(bucket, name, kind, _Altered(b"1")):
            return kind
    bucket.put_as(name, io.BytesIO(b"1"), 1, Quirks(False, "none"), only_new=False)  # it refuses these, and not all
    return "none"


def _accepts(bucket: Probed, name: str, kind: Checksum, body: io.BytesIO) -> bool:
    try:
        bucket.put_as(name, body, 1, Quirks(False, kind), only_new=False)
    except RemoteRefused:
        return False
    except RemoteFailed as error:
        if 400 <= remote_status(error) < 500:
            return False
        raise
    return True


class _Altered(io.BytesIO):
    """A body that changes after it was summed."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._reads = 0

    def read(self, size: int | None = -1) -> bytes:
        """Return other bytes from the second time on."""
        data = super().read(size)
        self._reads += bool(data)
        return data if self._reads <= 1 else bytes(byte ^ 1 for byte in data)
