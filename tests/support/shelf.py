"""Blobs in memory, for codecs without a daemon."""

from __future__ import annotations

from blake3 import blake3
from torpor.state.manifest import BlobRef


class Shelf(dict[str, bytes]):
    """Blobs by digest."""

    def put(self, data: memoryview) -> BlobRef:
        digest = blake3(data).hexdigest()
        self[digest] = bytes(data)
        return BlobRef(digest, data.nbytes)

    def read(self, ref: BlobRef) -> memoryview:
        assert len(self[ref.digest]) == ref.size_bytes
        return memoryview(self[ref.digest])

    def read_all(self, refs: list[BlobRef]) -> memoryview:
        return memoryview(b"".join(self.read(ref) for ref in refs))
