"""What is known of a bucket, kept in memory: as much of the port as those who fetch need."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence

from blake3 import blake3
from torpor.codec.keys import KeyRing, blob_leaf
from torpor.codec.objects import encode
from torpor.state.manifest import BlobRef
from torpor.state.remote import RemoteObject, blob_associated, blob_name
from torpor.sync.bucket import Bucket


class KnownObjects:
    """Objects by digest, the newest first."""

    def __init__(self) -> None:
        self.known: dict[str, list[RemoteObject]] = {}

    def note_objects(self, objects: Iterable[RemoteObject]) -> None:
        for each in objects:
            self.known.setdefault(each.digest, []).insert(0, each)

    def objects(self, digests: Iterable[str]) -> Mapping[str, RemoteObject]:
        return {digest: self.known[digest][0] for digest in digests if self.known.get(digest)}

    def every_object(self, digest: str) -> Sequence[RemoteObject]:
        return tuple(self.known.get(digest, ()))

    def forget_objects(self, names: Iterable[str]) -> None:
        gone = set(names)
        for digest, found in self.known.items():
            self.known[digest] = [each for each in found if each.name not in gone]


def upload(bucket: Bucket, known: KnownObjects, data: bytes, ring: KeyRing | None = None) -> BlobRef:
    """Store the cold form of a blob in a bucket under a fresh name, and note it."""
    ref = BlobRef(blake3(data).hexdigest(), len(data))
    body = io.BytesIO()
    stored = encode(io.BytesIO(data), body, associated=blob_associated(ref.digest), ring=ring)
    name = blob_name(blob_leaf(ref.digest, ring), os.urandom(13).hex())
    bucket.put(name, body, stored)
    known.note_objects([RemoteObject(ref.digest, ref.size_bytes, name, stored)])
    return ref
