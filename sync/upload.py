"""One blob on its way up: read, checked, brought into its cold form, and put under a name that is new."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import BinaryIO, cast

from blake3 import blake3

from ..codec.keys import KeyRing, blob_leaf
from ..codec.objects import encode
from ..state.errors import BlobDamaged
from ..state.manifest import BlobRef
from ..state.remote import RemoteObject, blob_associated, blob_name
from .bucket import Bucket
from .multipart import put_object
from .ports import LocalBlobs, PartJournal, Turn
from .spool import Spool

LARGE_BYTES = 64 << 20  # raw: from here on in parts, which are remembered across restarts


class Uploader:
    """Sends blobs. Safe to use from several threads."""

    def __init__(
        self,
        bucket: Bucket,
        blobs: LocalBlobs,
        ring: KeyRing | None,
        spool: Spool,
        journal: PartJournal,
        *,
        new_upload: Callable[[], str],
    ) -> None:
        self._bucket, self._blobs, self._ring, self._spool = bucket, blobs, ring, spool
        self._journal, self._new_upload = journal, new_upload

    def send(self, ref: BlobRef, turn: Turn) -> RemoteObject:
        """Send a blob; return where it lies then.

        Raises: BlobNotFound, BlobDamaged (nothing was sent), StoreFull, StoreFailed, Interrupted, the bucket's errors.
        """
        turn.next_blob()
        return self._send_large(ref, turn) if ref.size_bytes >= LARGE_BYTES else self._send_small(ref, turn)

    def _send_small(self, ref: BlobRef, turn: Turn) -> RemoteObject:
        name = self._new_name(ref.digest)
        with self._spool.room(ref.size_bytes) as file:
            stored = self._encode(ref, file, turn)
            self._bucket.put(name, counted(file, turn), stored)
        return RemoteObject(ref.digest, ref.size_bytes, name, stored)

    def _send_large(self, ref: BlobRef, turn: Turn) -> RemoteObject:
        """Send a blob whose cold form has a file: an upload that was begun goes on out of the same bytes."""
        name = self._journal.of_digest(ref.digest)
        file = None if name is None else self._spool.kept(name)
        if name is None or file is None:
            name = self._new_name(ref.digest)
            file = self._spool.keep(name, lambda target: self._encode(ref, target, turn))
        with file:
            stored = file.seek(0, io.SEEK_END)
            body = counted(file, turn)
            put_object(self._bucket, self._journal, name, ref.digest, body, stored, next_part=turn.next_blob)
        self._spool.drop(name)
        return RemoteObject(ref.digest, ref.size_bytes, name, stored)

    def copy(self, found: RemoteObject, turn: Turn) -> RemoteObject:
        """Send an object that is still in the bucket again, under a new name: this machine does not have the blob.

        Raises: ObjectNotFound, StoreFull, StoreFailed, Interrupted, the bucket's errors.
        """
        turn.next_blob()
        name = self._new_name(found.digest)
        with self._spool.room(found.stored_bytes) as file:
            with self._bucket.get(found.name) as pieces:
                stored = sum(file.write(piece) for piece in pieces)
            self._bucket.put(name, counted(file, turn), stored)
        return RemoteObject(found.digest, found.size_bytes, name, stored)

    def _new_name(self, digest: str) -> str:
        return blob_name(blob_leaf(digest, self._ring), self._new_upload())

    def _encode(self, ref: BlobRef, target: BinaryIO, turn: Turn) -> int:
        with self._blobs.open(ref.digest) as source:
            hashed = _Hashed(source, turn)
            stored = encode(cast(BinaryIO, hashed), target, associated=blob_associated(ref.digest), ring=self._ring)
        if hashed.hexdigest() != ref.digest:  # what is damaged here must not become the copy that heals it
            raise BlobDamaged(f"blob {ref.digest[:16]}… is damaged on this machine; it was not sent")
        return stored


class _Hashed:
    """A file whose bytes are hashed as they are read. The turn may end it there: a large one takes minutes."""

    def __init__(self, file: BinaryIO, turn: Turn) -> None:
        self._file, self._turn, self._hasher = file, turn, blake3()

    def read(self, size: int = -1) -> bytes:
        self._turn.sent(0)
        data = self._file.read(size)
        self._hasher.update(data)
        return data

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()


class _Counted:
    """The body of a request, which tells the turn of each byte once, however often it is read again."""

    def __init__(self, file: BinaryIO, turn: Turn) -> None:
        self._file, self._turn, self._told = file, turn, 0

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        at = self._file.tell()
        self._turn.sent(max(0, at - self._told))
        self._told = max(self._told, at)
        return data

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


def counted(file: BinaryIO, turn: Turn) -> BinaryIO:
    """Return a file that tells a turn of what is read of it."""
    file.seek(0)
    return cast(BinaryIO, _Counted(file, turn))
