"""An index that is damaged or gone is made again from the files; the old one is moved aside, and never deleted.

Files say all that a listing shows: manifests what was saved, sidecars what the user said. The queue is derived again.
"""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import Any

import orjson

from ..db.choices import Choices, apply_choices, every_choice, stays_here
from ..db.engine import journal_of
from ..db.salvage import enter_salvage, salvage
from ..db.soundness import check_index, log_of
from ..store.files import sync_folder, translated, write_private
from ..store.home import Home
from ..store.sidecars import Sidecar
from .catalog import Catalog
from .reconcile import Reconciled

log = logging.getLogger("torpor.index")
CHECK_S = 5.0  # of a start; what is larger is looked at by the scrub as well
ASIDE, MARK = "index.damaged-", "index.rebuilding"
NAMED = 10  # sessions in an event


@dataclass(frozen=True, slots=True)
class SetAside:
    """An index that was moved aside: why, where it lies now (None: there was no file), and what marks that."""

    reason: str
    path: str | None
    mark: Path | None = None


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
    if not gone:
        return _left_by_a_crash(home)
    return _marked(home, SetAside("it was gone", None, home.root / MARK))


def _left_by_a_crash(home: Home) -> SetAside | None:
    """Return the index whose rebuild did not come to its end: the one that is there knows only what it had got to."""
    mark = home.root / MARK
    with translated("read", mark), suppress(orjson.JSONDecodeError):
        if not mark.exists():
            return None
        said: Any = orjson.loads(mark.read_bytes())
        if isinstance(said, dict) and isinstance(said.get("path"), (str, NoneType)):
            return SetAside(str(said.get("reason")), said.get("path"), mark)
    return SetAside("a rebuild was cut off", None, mark)


def _marked(home: Home, made: SetAside) -> SetAside:
    write_private(home.root / MARK, orjson.dumps({"reason": made.reason, "path": made.path}))
    return made


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
        made = _marked(home, SetAside(reason, str(target), home.root / MARK))
        moves = [(home.index, target)]
        moves += [(beside(home.index), beside(target)) for beside in (log_of, journal_of)]  # or the new index gets them
        for old, new in moves:
            if os.path.lexists(old):
                os.replace(old, new)
        shared.unlink(missing_ok=True)  # memory that connections share: nothing is in it that is not in the log
        sync_folder(home.root)
    log.warning("the index is damaged and was moved to %s: %s", target, reason)
    return made


def settle_index(catalog: Catalog, aside: SetAside | None, found: Reconciled) -> Rebuilt | None:
    """Behind `reconcile`: bring in what the sidecars say, and of an index that was moved aside what only it knew."""
    mended = mend_sidecars(catalog, index_is_new=aside is not None)
    with catalog.index.writing() as connection:
        staying = set(stays_here(connection))
        said = (_read(catalog, session_id, staying) for session_id in catalog.sidecars.sessions())
        changed = sum(apply_choices(connection, choices_of(sidecar)) for sidecar in said)
    if changed or mended:
        log.info("%d rows follow their sidecars now, %d sidecars were written anew", changed, mended)
    if aside is None:
        return None
    made = _tell(catalog, aside, found)
    if aside.mark is not None:
        with translated("remove", aside.mark):
            aside.mark.unlink(missing_ok=True)
    return made


def _read(catalog: Catalog, session_id: str, staying: set[str]) -> Sidecar:
    """Return a sidecar. A session that stays here by either of the two stays: only the user sends it away."""
    said = catalog.sidecars.read(session_id)
    if session_id in staying and not said.no_sync:  # it was written over a damaged one, or a crash came between the two
        said.no_sync = True
        catalog.sidecars.write(said)
    return said


def choices_of(said: Sidecar) -> Choices:
    """Return what a sidecar says of its session, as the index takes it."""
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


def mend_sidecars(catalog: Catalog, *, index_is_new: bool = False) -> int:
    """Write sidecars that cannot be read anew from the index, the old ones aside; return how many there were.

    A new index knows no more than the sidecar did. Then nothing of the session leaves this machine until the user says
    so, and its TTLs begin again: it may have been kept here, and pinned.
    """
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
        if index_is_new:
            soonest = catalog.now() + (made.ttl_s or catalog.ttl_s)
            made.no_sync, made.expires_at = True, {id_: max(at, soonest) for id_, at in made.expires_at.items()}
        catalog.sidecars.write(made)
    detail = f"{len(damaged)} damaged sidecars were moved aside, {len(known)} made again from the index"
    if index_is_new:
        detail += "; it is new, so these sessions stay on this machine until `torpor no-sync --off` says otherwise: "
        detail += ", ".join(each.session_id for each in known[:NAMED])
    catalog.note("warning", "sidecars-mended", detail)
    return len(known)
