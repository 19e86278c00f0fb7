"""Blobs that no backup needs: what a failed save wrote, and what removed backups leave."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from ..store.files import store_error
from .catalog import Catalog


def discard(catalog: Catalog, digests: Iterable[str]) -> int:
    """Unlink those of some blobs that no backup needs: what a failed save wrote. Return how many there were."""
    with catalog.locked():
        return sum(_unlink_unneeded(catalog, digest, grace_s=0.0) for digest in digests)


def remove_orphans(catalog: Catalog, grace_s: float, batch: int = 256) -> int:
    """Unlink blobs that no backup needs and no writer has touched for `grace_s`; return how many.

    A save that counts on such a blob in the same moment is told by its commit (MissingBlobs) and writes it again.
    """
    removed, digests = 0, catalog.blobs.digests()
    while group := list(islice(digests, batch)):
        with catalog.locked():
            removed += sum(_unlink_unneeded(catalog, digest, grace_s) for digest in group)
    return removed


def _unlink_unneeded(catalog: Catalog, digest: str, grace_s: float) -> bool:
    path = catalog.blobs.path(digest)
    try:
        if catalog.spared.has(digest):
            return False
        if catalog.now() - path.stat().st_mtime < grace_s or catalog.index.needs_blob(digest):
            return False
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise store_error(error, "collect", path) from error
    return True
