"""Blobs that no collector may take although no backup of the index names them: manifests that are not in it do, or may.

Such a manifest is damaged, or of a newer version, or its commit failed and it could not be removed again.
"""

from __future__ import annotations

from collections.abc import Iterable


class Spared:
    """What is spared, for as long as the daemon runs or until the manifests were looked at again."""

    def __init__(self) -> None:
        self._digests: set[str] = set()
        self.everything = False

    def add(self, digests: Iterable[str]) -> None:
        """Spare some blobs."""
        self._digests.update(digests)

    def add_all(self) -> None:
        """Spare every blob: nobody can tell what an unreadable manifest names."""
        self.everything = True

    def has(self, digest: str) -> bool:
        """Tell whether a blob is spared."""
        return self.everything or digest in self._digests
