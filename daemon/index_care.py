"""An index that is damaged or gone is made again from the files; the old one is moved aside, and never deleted.

Files say all that a listing shows: manifests what was saved, sidecars what the user said. The queue is derived again.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ..db.choices import Choices, apply_choices, every_choice
from ..db.salvage import enter_salvage, salvage
from ..db.soundness import check_index, log_of
from ..store.files import sync_folder, translated
from ..store.home import Home
from ..store.sidecars import Sidecar
from .catalog import Catalog
from .reconcile import Reconciled

log = logging.getLogger("torpor.index")
CHECK_S = 5.0  # of a start; what is larger is looked at by the scrub as well
ASIDE = "index.damaged-"


@dataclass(frozen=True, slots=True)
class SetAside:
    """An index that was moved aside: why, and where it lies now (None: there was no file)."""

    reason: str
    path: str | None


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What a rebuild made: backups that are listed, those whose manifest cannot be used, removals that wait again."""

    backups: int
    unusable: int
    removals: int
    aside: str | None
    reason: str


def set_aside_if_damaged(home: Home, now: float) -> SetAside | None:
    """Move a damaged index aside, so that a new one is made in its place. The caller holds the instance lock.

    Raises: StoreFailed when it cannot be read or moved.
    """
    found = check_index(home.index, CHECK_S)
    if found.faults:
        return set_aside(home, "; ".join(found.faults)[:500], now)
    with translated("look for", home.index):
        gone = not home.index.exists() and _has_manifests(home)
    return SetAside("it was gone", None) if gone else None


def _has_manifests(home: Home) -> bool:
    with translated("list", home.store / "manifests"), os.scandir(home.store / "manifests") as entries:
        return any(True for _ in entries)


def set_aside(home: Home, reason: str, now: float) -> SetAside:
    """Move the index and its log aside. A crash in between leaves what the next start moves aside too."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    target = home.root / f"{ASIDE}{stamp}.sqlite"
    shared = home.index.with_name(home.index.name + "-shm")
    with translated("move aside", home.index):
        for count in range(2, 1000):
            if not (target.exists() or log_of(target).exists()):
                break
            target = home.root / f"{ASIDE}{stamp}-{count}.sqlite"
        for old, new in ((home.index, target), (log_of(home.index), log_of(target))):
            if os.path.lexists(old):
                os.replace(old, new)
        shared.unlink(missing_ok=True)  # memory that connections share: nothing is in it that is not in the log
        sync_folder(home.root)
    log.warning("the index is damaged and was moved to %s: %s", target, reason)
    return SetAside(reason, str(target))


def settle_index(catalog: Catalog, aside: SetAside | None, found: Reconciled) -> Rebuilt | None:
    """Behind `reconcile`: bring in what the sidecars say, and of an index that was moved aside what only it knew."""
    mended = mend_sidecars(catalog)
    with catalog.index.writing() as connection:
        said = (catalog.sidecars.read(session_id) for session_id in catalog.sidecars.sessions())
        changed = sum(apply_choices(connection, _choices(sidecar)) for sidecar in said)
    if changed or mended:
        log.info("%d rows follow their sidecars now, %d sidecars were written anew", changed, mended)
    return None if aside is None else _tell(catalog, aside, found)


def _choices(said: Sidecar) -> Choices:
    of_session = {name: getattr(said, name) for name in ("title", "no_sync", "ttl_s", "keep_newest")}
    return Choices(said.session_id, of_session, said.pinned, said.expires_at, said.dropped_at)


def _tell(catalog: Catalog, aside: SetAside, found: Reconciled) -> Rebuilt:
    removals = 0
    if aside.path is not None:
        left = salvage(Path(aside.path), catalog.now())
        with catalog.index.writing() as connection:
            removals = enter_salvage(connection, left, catalog.now())
    where = "" if aside.path is None else f"; the old file is {aside.path}"
    detail = f"the index was made again from {found.imported} manifests ({aside.reason}){where}"
    catalog.note("warning", "index-rebuilt", detail)
    log.warning("%s", detail)
    return Rebuilt(found.imported, found.unusable, removals, aside.path, aside.reason)


def mend_sidecars(catalog: Catalog) -> int:
    """Write sidecars that cannot be read anew from the index, the old ones aside; return how many there were."""
    damaged = set(catalog.sidecars.unreadable())
    if not damaged:
        return 0
    for path in damaged:
        with translated("move aside", path):
            os.replace(path, path.with_suffix(".damaged"))
    with catalog.index.reading() as connection:
        known = [each for each in every_choice(connection) if catalog.sidecars.path(each.session_id) in damaged]
    for each in known:
        made = Sidecar(each.session_id, pinned=set(each.pinned), **each.of_session)
        made.expires_at, made.dropped_at = dict(each.expires_at), dict(each.dropped_at)
        catalog.sidecars.write(made)
    detail = f"{len(damaged)} damaged sidecars were moved aside, {len(known)} made again from the index"
    catalog.note("warning", "sidecars-mended", detail)
    return len(known)
