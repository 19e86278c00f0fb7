"""Puts together what looks after the bytes on the disk: scrub, verification, repair and its copies."""

from __future__ import annotations

import time
from collections.abc import Callable

from ulid import ULID

from ..db.soundness import check_index
from ..store.home import Home
from ..store.quarantine import Quarantine
from .catalog import Catalog
from .chores import Chore
from .copies import WatchedCopies, from_bucket, from_trash
from .fetch_api import BackFromBucket
from .manifest_care import ManifestCare
from .repair import Repair
from .scrub import Scrub, ScrubSettings
from .settings import Settings
from .sync_memory import SyncMemory
from .verify import Verifier

TURN_S, FIRST_TURN_S = 600.0, 300.0
INDEX_S = 600.0  # for the whole of the index


class Care:
    """The parts, and their end."""

    def __init__(
        self,
        home: Home,
        catalog: Catalog,
        memory: SyncMemory,
        back: BackFromBucket | None,
        settings: Settings,
        powered: Callable[[], bool] = lambda: True,
    ) -> None:
        """Put it together; the scrub rests while `powered` says no."""
        self._watched = WatchedCopies(catalog, str(home.root))
        copies = [from_trash(catalog), self._watched.copies()]
        copies += [] if back is None else [from_bucket(back.fetches)]
        self.repair = Repair(catalog, Quarantine(home.store / "quarantine", catalog.blobs), copies)
        rate = ScrubSettings(settings.scrub_mib_s * (1 << 20), settings.scrub_days * 86_400.0)
        self.manifests = ManifestCare(catalog, None if back is None else lambda ref: back.backups.record(ref).manifest)

        def index_faults() -> tuple[str, ...]:
            return check_index(home.index, INDEX_S).faults

        self.scrub = Scrub(
            catalog, self.repair, self.manifests, memory, rate, index_faults=index_faults, powered=powered
        )

        def in_bucket(digests: list[str]) -> set[str]:
            return set() if back is None else set(back.objects.objects(digests))

        self.verifier = Verifier(catalog, self.repair, self.manifests, lambda: str(ULID()), in_bucket, time.sleep)

    def chore(self) -> Chore:
        """Return what begins a scrub when one is due; not with the start, which others wait for."""
        return Chore("scrub", TURN_S, self.scrub.turn, first_s=FIRST_TURN_S)

    def stop(self) -> None:
        """End everything, at once."""
        self._watched.stop()
        self.verifier.stop()
        self.scrub.stop()
