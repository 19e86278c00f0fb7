"""What is done about a blob that is not what was written: put aside, healed from another copy, or else said of it.

Order: the file goes into quarantine, then the index says that the blob is damaged, then copies are tried. A crash in
between leaves a blob that is not here, which the next look at it tries to heal.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from ..db.damage import damaged_blobs, is_missed, is_present, mark_damaged, needed_by
from ..db.presence import note_present
from ..state.errors import TorporError
from ..state.manifest import BlobRef
from ..store.gentle_reads import Examined, GentleReader
from ..store.quarantine import Quarantine
from .catalog import Catalog

log = logging.getLogger("torpor.repair")
Outcome = Literal["healed", "damaged", "not-needed"]
NAMED = 3  # backups in an event


@dataclass(frozen=True, slots=True)
class Copies:
    """Somewhere that may have another copy of a blob. `bring` puts it into the store and tells whether it had one."""

    name: str
    bring: Callable[[BlobRef], bool]


class Repair:
    """Puts damaged blobs right as far as it can. Safe to call from several threads."""

    def __init__(self, catalog: Catalog, quarantine: Quarantine, copies: Sequence[Copies]) -> None:
        self._catalog, self.quarantine, self._copies = catalog, quarantine, copies

    def put_right(self, ref: BlobRef, seen: Examined, reader: GentleReader) -> Outcome:
        """See to a blob that was examined and is not sound. Raises: StoreFailed, StoreFull."""
        if not self._put_aside(ref, seen):
            return "not-needed"  # it was removed, or written again, while it was looked at
        return self._heal(ref, seen.detail, reader)

    def _put_aside(self, ref: BlobRef, seen: Examined) -> bool:
        with self._catalog.locked():  # no commit may count on it in this moment
            with self._catalog.index.reading() as connection:
                if not is_present(connection, ref.digest):
                    return False
            if seen.verdict != "gone" and not self.quarantine.take(ref.digest, seen.identity):
                return False
            if seen.verdict == "gone" and self._catalog.blobs.has(ref):
                return False
            with self._catalog.index.writing() as connection:
                mark_damaged(connection, ref.digest, self._catalog.now())
        return True

    def _heal(self, ref: BlobRef, detail: str, reader: GentleReader) -> Outcome:
        reasons: list[str] = []
        for source in self._copies:
            try:
                if source.bring(ref) and self._is_back(ref, reader):
                    self._note("info", "blob-healed", ref, f"{detail}; healed from {source.name}")
                    return "healed"
            except TorporError as error:
                reasons.append(f"{source.name}: {error.detail}")
        why = f" ({'; '.join(reasons)})" if reasons else ""
        self._note("error", "blob-damaged", ref, f"{detail}; no other copy of it can be had now{why}")
        return "damaged"

    def _is_back(self, ref: BlobRef, reader: GentleReader) -> bool:
        """Believe a copy when it was read back from the disk; put aside one that is damaged too."""
        seen = reader.examine(self._catalog.blobs.path(ref.digest), ref)
        if seen.verdict != "sound":
            with self._catalog.locked():
                self.quarantine.take(ref.digest, seen.identity)
            return False
        with self._catalog.locked(), self._catalog.index.writing() as connection:
            note_present(connection, [ref.digest])
        self.quarantine.drop(ref.digest)
        return True

    def try_again(self, reader: GentleReader, go_on: Callable[[], bool] = lambda: True) -> int:
        """Try to heal what was damaged before: a bucket may be reachable by now. Return how many blobs are healed."""
        with self._catalog.index.reading() as connection:
            waiting = damaged_blobs(connection)
        healed = 0
        for ref in waiting:
            if not go_on():
                break
            healed += self._try_one(ref, reader)
        return healed

    def _try_one(self, ref: BlobRef, reader: GentleReader) -> bool:
        if self._is_back(ref, reader):  # somebody saved it again, or the disk is back
            return True
        for source in self._copies:
            try:
                if source.bring(ref) and self._is_back(ref, reader):
                    self._note("info", "blob-healed", ref, f"healed from {source.name}")
                    return True
            except TorporError as error:
                log.info("blob %s… is not healed from %s: %s", ref.digest[:16], source.name, error.detail)
        return False

    def tidy(self) -> int:
        """Remove from quarantine what was healed, or is needed by no backup any more. Return how many there were."""
        removed = 0
        for digest in list(self.quarantine.digests()):
            with self._catalog.locked():
                removed += not self._is_waited_for(digest) and self.quarantine.drop(digest)
        return removed

    def _is_waited_for(self, digest: str) -> bool:
        """Tell whether a blob is needed and not here; after a crash the index may not say so yet."""
        with self._catalog.index.reading() as connection:
            if is_missed(connection, digest):
                return True
            return is_present(connection, digest) and not self._catalog.blobs.path(digest).exists()

    def _note(self, level: str, kind: str, ref: BlobRef, detail: str) -> None:
        with self._catalog.index.reading() as connection:
            count, ids = needed_by(connection, ref.digest, NAMED)
        named = ", ".join(ids) + (f" and {count - len(ids)} more" if count > len(ids) else "")
        self._catalog.note(
            level, kind, f"blob {ref.digest[:16]}…: {detail}; needed by {named}", ids[0] if ids else None
        )
        log.warning("%s: blob %s: %s; needed by %d backups", kind, ref.digest, detail, count)
