"""A bucket in memory that keeps the contract of sync/bucket.py to the letter, with a clock that the test turns.

It is as awkward as real servers may be: listings come in no useful order and page by page, each page as things are when
it is asked for; times are whole seconds of the server's clock.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

from torpor.state.errors import BadInput, ObjectExists, ObjectNotFound, RemoteRefused
from torpor.sync.bucket import ObjectInfo

PIECE = 64 << 10


@dataclass(frozen=True, slots=True)
class Stored:
    data: bytes
    modified_at: float


@dataclass(slots=True)
class MemoryServer:
    """What one server holds. Several buckets over it are several machines."""

    clock: Callable[[], float] = time.time
    page_size: int = 1000
    objects: dict[str, Stored] = field(default_factory=dict)
    uploads: dict[str, tuple[str, dict[int, bytes]]] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)
    begun: int = 0


class MemoryBucket:
    """A Bucket over a MemoryServer, under a prefix."""

    def __init__(self, server: MemoryServer | None = None, *, prefix: str = "") -> None:
        self.server = server or MemoryServer()
        self.prefix = prefix

    def put(self, name: str, body: BinaryIO, size_bytes: int, *, only_new: bool = False) -> None:
        data = _read(body, 0, size_bytes)
        with self.server.lock:
            if only_new and self.prefix + name in self.server.objects:
                raise ObjectExists(f"put {name}: it exists")
            self._store(name, data)

    @contextmanager
    def get(self, name: str, *, offset: int = 0) -> Iterator[Iterator[bytes]]:
        data = self._stored(name, "get").data
        yield (data[at : at + PIECE] for at in range(offset, len(data), PIECE))

    def head(self, name: str) -> ObjectInfo:
        stored = self._stored(name, "head")
        return ObjectInfo(name, len(stored.data), stored.modified_at)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        behind: str | None = None
        while page := self._page(self.prefix + prefix, behind):
            yield from (
                ObjectInfo(name.removeprefix(self.prefix), len(stored.data), stored.modified_at)
                for name, stored in page
            )
            behind = _rank(page[-1][0])

    def delete(self, name: str) -> None:
        with self.server.lock:
            self.server.objects.pop(self.prefix + name, None)

    def now(self) -> float:
        return float(math.floor(self.server.clock()))

    def start_upload(self, name: str) -> str:
        with self.server.lock:
            self.server.begun += 1
            upload_id = f"upload-{self.server.begun}"
            self.server.uploads[upload_id] = (self.prefix + name, {})
            return upload_id

    def put_part(self, name: str, upload_id: str, number: int, body: BinaryIO, offset: int, size_bytes: int) -> str:
        data = _read(body, offset, size_bytes)
        with self.server.lock:
            self._upload(name, upload_id)[number] = data
            return _etag(data)

    def parts(self, name: str, upload_id: str) -> Mapping[int, tuple[str, int]]:
        with self.server.lock:
            return {number: (_etag(data), len(data)) for number, data in self._upload(name, upload_id).items()}

    def finish_upload(self, name: str, upload_id: str, parts: Mapping[int, str]) -> None:
        with self.server.lock:
            if upload_id not in self.server.uploads and self.prefix + name in self.server.objects:
                return
            held = self._upload(name, upload_id)
            if not parts or any(number not in held or _etag(held[number]) != tag for number, tag in parts.items()):
                raise RemoteRefused(f"finish {name}: a part is missing or another one")
            self._store(name, b"".join(held[number] for number in sorted(parts)))
            del self.server.uploads[upload_id]

    def abort_upload(self, name: str, upload_id: str) -> None:
        with self.server.lock:
            self.server.uploads.pop(upload_id, None)

    def close(self) -> None:
        """Nothing is open."""

    def _store(self, name: str, data: bytes) -> None:
        self.server.objects[self.prefix + name] = Stored(data, self.now())

    def _stored(self, name: str, operation: str) -> Stored:
        with self.server.lock:
            stored = self.server.objects.get(self.prefix + name)
        if stored is None:
            raise ObjectNotFound(f"{operation} {name}: there is no such object")
        return stored

    def _page(self, prefix: str, behind: str | None) -> list[tuple[str, Stored]]:
        with self.server.lock:
            found = [n for n in self.server.objects if n.startswith(prefix) and (behind is None or _rank(n) > behind)]
            return [(n, self.server.objects[n]) for n in sorted(found, key=_rank)[: self.server.page_size]]

    def _upload(self, name: str, upload_id: str) -> dict[int, bytes]:
        found = self.server.uploads.get(upload_id)
        if found is None or found[0] != self.prefix + name:
            raise ObjectNotFound(f"{name}: there is no such upload")
        return found[1]


def _read(body: BinaryIO, offset: int, size_bytes: int) -> bytes:
    body.seek(offset)
    data = body.read(size_bytes)
    if len(data) != size_bytes:
        raise BadInput(f"the file ends {size_bytes - len(data)} bytes early")
    return data


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def _rank(name: str) -> str:
    """Order names as nobody would expect."""
    return hashlib.md5(name.encode()).hexdigest()
