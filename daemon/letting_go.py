"""Blobs leave this machine: noted first, then unlinked, a few at a time, so that no save is held up.

A batch is one moment in which nothing is committed, taken in or removed. In it the index is asked again whether it is
still right (db/eviction.py), told that the blobs are no longer here, and then their files are unlinked. What a crash
leaves between the two is a file that the index takes for absent: the collector finds it, and it leaves another time.

A save that counts on such a blob is told by its commit (MissingBlobs) and writes it again; a restore that has it open
reads on, and one that opens it later fetches it, or takes less. What is being restored is left alone (in_use.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from ..db import eviction, retention
from ..db.eviction import Gone, Terms
from ..state.eviction import ORDINARY
from ..state.manifest import rebuildable
from .catalog import Catalog
from .in_use import InUse

log = logging.getLogger("torpor.retention")
BATCH = 32  # blobs of one moment: KV blocks of some MiB, unlinked in a few milliseconds
PAUSE_S = 0.001  # between two: whoever waits for the lock gets it

# Open while files are unlinked; it is told how many bytes they took.
Unlinking = Callable[[], AbstractContextManager[Callable[[int], None]]]


def untold() -> AbstractContextManager[Callable[[int], None]]:
    """Stand for an `Unlinking` that nobody wants to know of."""
    return nullcontext(lambda size_bytes: None)


class LettingGo:
    """Lets blobs and backups go. `machine` returns this one's name in the bucket, None without one."""

    def __init__(
        self,
        catalog: Catalog,
        machine: Callable[[], str | None],
        in_use: InUse,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._catalog, self._machine, self._in_use, self._sleep = catalog, machine, in_use, sleep
        self._unlinking = untold

    def tell(self, unlinking: Unlinking) -> None:
        """Open this around each batch, and tell it the bytes that were unlinked."""
        self._unlinking = unlinking

    def drop(self, backup_id: str, provided: Callable[[], bool], *, is_removed_next: bool = False) -> int | None:
        """Let KV cache and embeddings of a backup go, as far as no other keeps them; return the bytes.

        None where it is not to be (any more), or where they are being sent.
        Raises: BackupNotFound, StoreFull, StoreFailed.
        """
        with self._catalog.locked():
            if not provided() or backup_id in self._in_use.ids():
                return None
            backup, now = self._catalog.index.backup(backup_id), self._catalog.trusted()
            if not rebuildable(backup.layers):
                return 0
            with self._catalog.index.reading() as connection:
                if retention.being_sent(connection, [backup_id]):
                    return None
            if not is_removed_next:
                self._note_dropped([(backup_id, backup.session_id)], now)
            with self._catalog.index.writing() as connection:
                if not retention.drop(connection, backup_id, now):
                    return None
        with self._catalog.index.reading() as connection:
            digests = eviction.leftovers(connection, backup_id)
        return self.blobs(digests, Terms("leftover", ORDINARY, 0, self._machine(), frozenset()))

    def _note_dropped(self, backups: Sequence[tuple[str, str]], now: float) -> None:
        """Tell the sidecars, before the index."""
        for session_id in {session_id for _, session_id in backups}:
            sidecar = self._catalog.sidecars.read(session_id)
            new = {backup_id for backup_id, session in backups if session == session_id} - sidecar.dropped_at.keys()
            if new:
                sidecar.dropped_at.update(dict.fromkeys(new, now))
                self._catalog.sidecars.write(sidecar)

    def blobs(self, digests: Sequence[str], terms: Terms, enough_bytes: int | None = None) -> int:
        """Let blobs go as far as it is still right, until enough is freed; return the bytes.

        Raises: StoreFull, StoreFailed.
        """
        freed = 0
        for at in range(0, len(digests), BATCH):
            if enough_bytes is not None and freed >= enough_bytes:
                break
            freed += self._batch(digests[at : at + BATCH], terms)
            self._sleep(PAUSE_S)
        return freed

    def _batch(self, digests: Sequence[str], terms: Terms) -> int:
        index, checkpoint = self._catalog.index, self._catalog.checkpoint
        with self._unlinking() as unlinked, self._catalog.locked():
            wanted = [digest for digest in digests if not self._catalog.spared.has(digest)]
            now = self._catalog.trusted()
            if terms.kind == "rebuildable":
                with index.reading() as connection:
                    going = [each.digest for each in eviction.still(connection, wanted, terms)]
                    keepers = eviction.keepers(connection, going)
                self._note_dropped(keepers, now)
            with index.writing() as connection:
                gone = eviction.let_go(connection, wanted, terms, now)
            checkpoint("letting-go.noted")
            freed = sum(self._unlink(each) for each in gone)
            checkpoint("letting-go.unlinked")
            unlinked(freed)
        return freed

    def _unlink(self, gone: Gone) -> int:
        try:
            self._catalog.blobs.path(gone.digest).unlink()
        except FileNotFoundError:
            return 0
        except OSError as error:
            log.warning("blob %s cannot be removed: %s", gone.digest[:16], error)
            return 0
        return gone.size_bytes
