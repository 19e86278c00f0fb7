"""The bucket as everything here sees it: a small port over S3, with the contract that every implementation keeps.

Contract (tests/contract/test_bucket.py runs one suite over all of them):
- `put` is all or nothing: an object is there whole under its name, or not at all. What it raised may have been done all
  the same (a lost reply); asking again is harmless, since names are never used for two contents.
- after `put` has returned, every `head`, `get` and `list` sees the object, and after `delete` none does.
- `list` yields every object of the prefix in any order, or raises: never a part of them without an error.
- times are those of the server's clock.
- errors are those of state/errors.py: Offline, Throttled, RemoteFailed, RemoteDenied, ClockSkewed, RemoteRefused,
  BucketNotFound, ObjectNotFound, ObjectExists, and Timeout when a transfer does not get on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO, Protocol


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object: its name (without the prefix of the repository), size in bytes, and time in the server's seconds."""

    name: str
    size_bytes: int
    modified_at: float


class Bucket(Protocol):
    """Objects of one bucket under one prefix. Safe to use from several threads."""

    def put(self, name: str, body: BinaryIO, size_bytes: int, *, only_new: bool = False) -> None:
        """Store `size_bytes` of a seekable file, from its beginning, in one request.

        With `only_new`, only where no object has the name (`If-None-Match: *`), as far as the server knows how.
        Raises: ObjectExists with `only_new`, and as the contract says.
        """
        ...

    def get(self, name: str, *, offset: int = 0) -> AbstractContextManager[Iterator[bytes]]:
        """Open an object from an offset on; the iterator yields its bytes as they arrive.

        An offset at or behind the end yields nothing. Whether the bytes are right is for the caller to check: every
        object that is read here has a digest or a checksum of its own. Raises: ObjectNotFound.
        """
        ...

    def head(self, name: str) -> ObjectInfo:
        """Describe an object. Raises: ObjectNotFound."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield all objects whose name begins so."""
        ...

    def delete(self, name: str) -> None:
        """Delete an object; one that is not there is deleted already."""
        ...

    def now(self) -> float:
        """Ask the server for its time, in seconds since the epoch."""
        ...

    def start_upload(self, name: str) -> str:
        """Begin a multipart upload; return its id."""
        ...

    def put_part(self, name: str, upload_id: str, number: int, body: BinaryIO, offset: int, size_bytes: int) -> str:
        """Store part `number` (from 1 on) out of a seekable file; return its ETag."""
        ...

    def parts(self, name: str, upload_id: str) -> Mapping[int, tuple[str, int]]:
        """Return the parts that the server holds: number -> (ETag, size in bytes). Raises: ObjectNotFound."""
        ...

    def finish_upload(self, name: str, upload_id: str, parts: Mapping[int, str]) -> None:
        """Join parts (number -> ETag) to the object. One that was finished before is finished."""
        ...

    def abort_upload(self, name: str, upload_id: str) -> None:
        """Forget a multipart upload; one that is not there is forgotten."""
        ...
