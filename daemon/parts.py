"""What a daemon consists of: made in daemon/service.py, and all that the API is built over."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..store.home import Home
from .attached import Attachments
from .care import Care
from .catalog import Catalog
from .changes import Changes
from .fetch_api import BackFromBucket
from .garbage import Garbage
from .imports import Imports
from .pairing import Pairing
from .power import Power
from .remote import RemoteSide
from .retention import Retention
from .room import Room
from .search_care import SearchCare
from .settings import Settings
from .tokens import Tokens
from .watches import Watches


@dataclass(frozen=True, slots=True)
class Parts:
    """What a daemon consists of. `back` is None without S3."""

    home: Home
    settings: Settings
    tokens: Tokens
    catalog: Catalog
    room: Room
    side: RemoteSide
    back: BackFromBucket | None
    retention: Retention
    garbage: Garbage
    care: Care
    watches: Watches
    imports: Imports
    search: SearchCare
    pairing: Pairing
    power: Power
    attached: Attachments = field(default_factory=Attachments)
    changes: Changes = field(default_factory=Changes)

    def __post_init__(self) -> None:
        """Let every part tell of what changes in it."""
        for part in (self.catalog.index, self.tokens, self.side, self.pairing, self.attached, self.watches):
            part.tell(self.changes.note)
        self.power.listen(self.side.power_changed)
        self.power.listen(self.changes.note)

    def stop(self) -> None:
        """End what runs of it, and whatever waits for the bucket. A second time changes nothing."""
        self.attached.close()
        self.power.stop()
        self.watches.stop()
        self.imports.stop()
        self.care.stop()
        if self.back is not None:
            self.back.close()  # requests that wait for the bucket end now
        self.side.stop()  # and those that speak with it
        self.search.stop()
        self.garbage.stop()
        self.retention.stopping.set()
