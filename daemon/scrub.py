"""The scrub: manifests and blobs are read again from the disk once in a while, slowly; what is damaged is put right.

It runs in a thread of its own, in the kernel's idle class for disks, at a set rate; on battery it rests. Where it
stopped outlives a restart. A pass ends at the last blob; the next one begins when the time between two passes is over.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..db.damage import damaged_blobs, present_after, present_bytes
from ..state.errors import BackupNotFound, IndexDamaged, StoreFailed, TorporError
from ..state.manifest import BlobRef
from ..state.scrub import Pace
from ..store.gentle_reads import GentleReader, be_idle
from .catalog import Catalog
from .manifest_care import ManifestCare
from .repair import Repair
from .sync_memory import SyncMemory

log = logging.getLogger("torpor.scrub")
KEY = "scrub"
FIRST = "00" * 32  # a digest that no blob has: BLAKE3 of nothing known
PAGE = 256  # blobs of one look into the index
REMEMBER_S = 30.0
IN_A_ROW = 16  # failures without a sound blob between them: it is the disk, not the blobs
STOP_S = 10.0


class Ended(Exception):  # noqa: N818  (no failure: the pass goes on another time)
    """The scrub is to rest."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a pass is, and what it has found. Times in seconds since the epoch, sizes in bytes."""

    cursor: str = FIRST
    began_at: float | None = None
    ended_at: float | None = None
    read_bytes: int = 0
    sound: int = 0
    healed: int = 0
    damaged: int = 0
    unsure: int = 0  # right at the second reading


@dataclass(frozen=True, slots=True)
class ScrubSettings:
    """Bytes a second (0: never by itself), and seconds from the beginning of one pass to that of the next."""

    rate_bytes_s: float
    every_s: float


class Scrub:
    """Reads the store again. Safe to call from several threads."""

    def __init__(
        self,
        catalog: Catalog,
        repair: Repair,
        manifests: ManifestCare,
        memory: SyncMemory,
        settings: ScrubSettings,
        *,
        index_faults: Callable[[], Sequence[str]] = tuple,
        powered: Callable[[], bool] = lambda: True,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self._catalog, self._repair, self._manifests = catalog, repair, manifests
        self._memory, self._settings = memory, settings
        self._index_faults, self._powered, self._steady = index_faults, powered, steady
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._progress, self._resting = _read(memory), False
        self._trouble: TorporError | None = None

    def turn(self) -> None:
        """Begin a pass, or go on with one, if that is due; what was damaged before is tried to be healed."""
        due = bool(self._settings.rate_bytes_s) and self._is_due()
        self._resting = due and not self._powered()
        begun = due and not self._resting and self.begin()
        if not begun:  # a pass tries that first
            self._repair.try_again(self._reader(None), lambda: not self._stop.is_set())
            self._repair.tidy()

    def begin(self) -> bool:
        """Go on, or begin a new pass, due or not; return False when one runs already."""
        with self._lock:
            if self._stop.is_set() or (self._thread is not None and self._thread.is_alive()):
                return False
            self._thread = threading.Thread(target=self._run, name="scrub", daemon=True)
            self._thread.start()
        return True

    def stop(self) -> None:
        """End at once; where it was is kept."""
        self._stop.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join(STOP_S)

    def describe(self) -> dict[str, Any]:
        """Tell how it is. `state`: off, running, resting (on battery), idle."""
        thread, progress = self._thread, self._progress
        running = thread is not None and thread.is_alive()
        off = not self._settings.rate_bytes_s and not running
        with self._catalog.index.reading() as connection:
            left = present_bytes(connection, progress.cursor) if running else 0
            damaged = len(damaged_blobs(connection))
        return {
            "state": "off" if off else "running" if running else "resting" if self._resting else "idle",
            "rate_bytes_s": self._settings.rate_bytes_s,
            "every_s": self._settings.every_s,
            **asdict(progress),
            "left_bytes": left,
            "damaged_blobs": damaged,
            "quarantine_bytes": self._repair.quarantine.size_bytes(),
            "trouble": None if self._trouble is None else self._trouble.detail,
        }

    @property
    def resting(self) -> bool:
        """Tell whether it waits for mains power."""
        return self._resting

    @property
    def trouble(self) -> TorporError | None:
        """Return what stopped the last turn."""
        return self._trouble

    def _is_due(self) -> bool:
        """Tell whether there is something to read. A clock that was set back makes the next pass due."""
        at, now = self._progress, self._catalog.now()
        if at.began_at is None or at.ended_at is None:
            return True
        return not 0 <= now - at.began_at < self._settings.every_s

    def _reader(self, pace: Pace | None) -> GentleReader:
        def told(count: int) -> None:
            if self._stop.wait(pace.delay_s(count, self._steady()) if pace is not None else 0.0):
                raise Ended

        return GentleReader(told, self._stop.wait)

    def _run(self) -> None:
        be_idle()
        rate = self._settings.rate_bytes_s
        reader = self._reader(Pace(rate, self._steady()) if rate else None)
        try:
            self._resting, self._trouble = False, None
            self._repair.try_again(reader, lambda: not self._stop.is_set())
            self._pass(reader)
            self._repair.tidy()
        except Ended:
            log.info("the scrub rests at %s", self._progress.cursor[:16])
        except (TorporError, OSError) as error:
            self._trouble = error if isinstance(error, TorporError) else StoreFailed(str(error))
            log.warning("the scrub stopped and goes on later: %s", self._trouble.detail)
        finally:
            with suppress(TorporError):  # a pass is begun anew then
                self._remember()

    def _pass(self, reader: GentleReader) -> None:
        if self._progress.began_at is None or self._progress.ended_at is not None:
            self._progress = Progress(began_at=self._catalog.now())
        if self._progress.cursor == FIRST:
            self._rest_on_battery()
            self._look_at_index()
            self._look_at_manifests()
        remembered_at, bad = float("-inf"), 0
        while refs := self._page():
            for ref in refs:
                self._rest_on_battery()
                bad = 0 if self._look(ref, reader) else bad + 1
                if bad >= IN_A_ROW:
                    raise StoreFailed(f"{bad} blobs in a row could not be read: look at the disk, not at the blobs")
                if (now := self._steady()) - remembered_at >= REMEMBER_S:
                    remembered_at = now
                    self._remember()
        self._progress = replace(self._progress, ended_at=self._catalog.now(), cursor=FIRST)
        self._tell()

    def _rest_on_battery(self) -> None:
        if self._stop.is_set() or not self._powered():
            self._resting = not self._stop.is_set()
            raise Ended

    def _look_at_index(self) -> None:
        """Read the index whole: a start gives that a few seconds only."""
        if faults := self._index_faults():
            with suppress(TorporError):
                detail = f"the index is damaged: {faults[0]}; a restart of the daemon makes it again from the files"
                self._catalog.note("error", "index-damaged", detail)
            raise IndexDamaged(f"the index is damaged: {faults[0]}")

    def _look_at_manifests(self) -> None:
        """Read every manifest; they are small beside the blobs."""
        rate, due = self._settings.rate_bytes_s, Pace(self._settings.rate_bytes_s or 1.0, self._steady())
        for backup_id in sorted(self._catalog.index.all_ids(), reverse=True):
            self._rest_on_battery()
            found, at = self._manifests.look(backup_id), self._progress
            healed, damaged = at.healed + (found == "healed"), at.damaged + (found == "damaged")
            self._progress = replace(at, healed=healed, damaged=damaged)
            if rate and found == "sound":
                self._stop.wait(due.delay_s(self._size_of(backup_id), self._steady()))

    def _size_of(self, backup_id: str) -> int:
        try:
            return self._catalog.manifests.size_bytes(backup_id)
        except BackupNotFound:
            return 0

    def _page(self) -> list[BlobRef]:
        with self._catalog.index.reading() as connection:
            return present_after(connection, self._progress.cursor, PAGE)

    def _look(self, ref: BlobRef, reader: GentleReader) -> bool:
        """Examine one blob and see to it; return whether it is sound."""
        seen, at = reader.examine(self._catalog.blobs.path(ref.digest), ref), self._progress
        if seen.verdict == "sound":
            if seen.doubt is not None:
                detail = f"blob {ref.digest[:16]}…: right only at the second reading ({seen.doubt}); look at the disk"
                self._catalog.note("warning", "blob-unsure", detail)
            found = {"sound": at.sound + 1, "unsure": at.unsure + (seen.doubt is not None)}
        else:
            outcome = self._repair.put_right(ref, seen, reader)
            found = {
                "healed": at.healed + (outcome == "healed"),
                "damaged": at.damaged + (outcome == "damaged"),
            }
        self._progress = replace(at, cursor=ref.digest, read_bytes=at.read_bytes + ref.size_bytes, **found)
        return seen.verdict == "sound"

    def _tell(self) -> None:
        at = self._progress
        log.info("scrubbed %d bytes: %d sound, %d healed, %d damaged", at.read_bytes, at.sound, at.healed, at.damaged)
        if at.healed or at.damaged:
            level = "error" if at.damaged else "info"
            detail = f"{at.sound} blobs are sound, {at.healed} were healed, {at.damaged} are damaged"
            self._catalog.note(level, "scrubbed", detail)

    def _remember(self) -> None:
        self._memory.write(KEY, asdict(self._progress))


def _read(memory: SyncMemory) -> Progress:
    """Return where the last pass stopped; from the start where that is not known."""
    found = memory.read(KEY)
    try:
        return Progress(**found) if isinstance(found, dict) else Progress()
    except TypeError:  # of another version
        return Progress()
