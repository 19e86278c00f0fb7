"""Remember the digests of tensors that do not change between saves, so that they are neither hashed nor written again.

A leaf carries `memo = (tensor, version)`: torch counts every in-place change of a tensor in `_version`. An entry
counts only for the same living tensor at the same version.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from typing import Any

from ..codec.tree import Leaf
from ..state.errors import SnapshotLost
from ..state.manifest import BlobRef


class DigestMemo:
    """Blobs of living tensors."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Any], int, list[BlobRef]]] = {}
        self._lock = threading.Lock()

    def known(self, leaf: Leaf) -> list[BlobRef] | None:
        """Return the blobs of a leaf that was stored before, or None."""
        if not isinstance(leaf.memo, tuple):
            return None
        tensor, version = leaf.memo
        with self._lock:
            entry = self._entries.get(id(tensor))
        if entry is None or entry[0]() is not tensor or entry[1] != version:
            return None
        return entry[2]

    @staticmethod
    def check(leaf: Leaf) -> None:
        """Make sure that a leaf which shares a tensor's memory was not changed meanwhile. Raises: SnapshotLost."""
        if isinstance(leaf.memo, tuple) and leaf.memo[0]._version != leaf.memo[1]:
            raise SnapshotLost("a tensor of the session was changed in place while it was being saved")

    def remember(self, leaf: Leaf, refs: list[BlobRef]) -> None:
        """Note the blobs of a leaf, which are committed now."""
        if not isinstance(leaf.memo, tuple):
            return
        tensor, version = leaf.memo
        key = id(tensor)

        def drop(_: object) -> None:
            self._entries.pop(key, None)  # no lock: a collection may call this in a thread that holds it

        with self._lock:
            self._entries[key] = (weakref.ref(tensor, drop), version, refs)

    def forget(self, digests: Iterable[str]) -> None:
        """Forget every entry that names one of some blobs."""
        gone = set(digests)
        with self._lock:
            for key, (_, _, refs) in list(self._entries.items()):
                if any(ref.digest in gone for ref in refs):
                    self._entries.pop(key, None)
