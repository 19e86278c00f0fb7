"""Backups as pages see them: read from manifests and blobs, those of the last sessions from memory.

A page that saves after each message goes on from what it saved a moment ago, so that is kept: the files hold it all the
same, and what is kept counts only for the very manifest that the index names.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..codec import manifest_file, tree
from ..state.backup import Backup
from ..state.manifest import Manifest
from ..state.page_view import View, view_or_nothing
from .blob_reads import BlobReads
from .catalog import Catalog

KEPT = 8  # sessions whose pages save
KEPT_BYTES = 2 << 20  # of one of them, as JSON


@dataclass(frozen=True, slots=True)
class Seen:
    """A backup as it is read for a page: its text layer decoded (tensors as leaves), and what a page sees of it."""

    backup: Backup
    manifest: Manifest
    text: Mapping[str, Any]
    view: View


@dataclass(frozen=True, slots=True)
class _Kept:
    digest: str
    manifest: Manifest
    text: Mapping[str, Any]
    view: View


class Looks:
    """Looks at backups. Safe to call from several threads."""

    def __init__(self, catalog: Catalog, reads: BlobReads) -> None:
        self._catalog, self._reads, self._lock = catalog, reads, threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # session id -> its newest that a page saved
        catalog.tell_changes_with(self._forget_removed)

    def look(self, backup: Backup) -> Seen:
        """Read a backup as a page sees it.

        Raises: BackupNotFound, Damaged, InvalidManifest, BlobNotFound, StoreFailed.
        """
        kept = self._kept.get(backup.session_id)
        if kept is not None and kept.digest == backup.manifest_digest:
            return Seen(backup, kept.manifest, kept.text, kept.view)
        manifest = manifest_file.load(self._catalog.manifest_of(backup))
        text = self.decoded(manifest, "text_context")
        return Seen(backup, manifest, text, view_or_nothing(text))

    def decoded(self, manifest: Manifest, layer: str) -> dict[str, Any]:
        """Return a layer's value where it is a mapping. Raises: as `look`."""
        found = tree.decode(manifest.layers.get(layer), self._reads.joined, lambda leaf: leaf)
        return found if isinstance(found, dict) else {}

    def keep(self, manifest: Manifest, raw: bytes, text: Mapping[str, Any]) -> None:
        """Keep what was committed of a session; `text` is its text layer as it would be decoded."""
        made = _Kept(manifest_file.digest_of(raw), manifest, text, view_or_nothing(text))
        with self._lock:
            self._kept.pop(manifest.session_id, None)
            if len(raw) <= KEPT_BYTES:
                self._kept[manifest.session_id] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)

    def forget(self, session_id: str) -> None:
        """Keep nothing of a session: it is removed, or not all of it is on the disk any more."""
        with self._lock:
            self._kept.pop(session_id, None)

    def _forget_removed(self, session_ids: Iterable[str], removed: bool) -> None:
        for session_id in session_ids if removed else ():
            self.forget(session_id)
