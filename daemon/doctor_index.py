"""The doctor's look at the index, and at what it knows of damage."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial

from ..db.migrate import is_known
from ..db.soundness import IndexFacts, check_index, facts_of
from ..store.sidecars import SidecarStore
from .checkup import Check, Patient
from .compose import compose
from .index_care import set_aside_if_damaged, settle_index
from .index_rebuild import rebuild_index
from .instance import InstanceLock
from .reconcile import reconcile
from .settings import load_settings

WITHIN_S = 120.0
OLDEST_SQLITE, RESET_BUG_ENDS = (3, 35, 0), (3, 51, 3)


def check_sqlite(patient: Patient) -> Iterator[Check]:
    """Look at the version of SQLite."""
    yield judge_sqlite(sqlite3.sqlite_version_info)


def judge_sqlite(found: tuple[int, ...]) -> Check:
    """Say what a version of SQLite is good for."""
    said = ".".join(map(str, found))
    if found < OLDEST_SQLITE:
        return Check("sqlite", "error", f"{said} is too old", "Install a Python that was built with 3.35 or newer.")
    if found < RESET_BUG_ENDS:
        return Check("sqlite", "ok", f"{said}; it can lose its log with two writers, and Torpor has one")
    return Check("sqlite", "ok", said)


def check_index_file(patient: Patient) -> Iterator[Check]:
    """Look whether the index is sound, and agrees with the manifests on disk."""
    home = patient.home
    manifests = _manifests(patient)
    if not home.index.exists() and not manifests:
        yield Check("index", "ok", "there is none yet; the first start makes it")
        return
    fix = None if patient.running else partial(_rebuild, patient)
    hint = "Restart the daemon: a start makes it again from the files, and nothing is lost. Or `torpor index rebuild`."
    if not home.index.exists():
        yield Check("index", "error", f"it is gone, and {manifests} manifests are there", hint, fix)
        return
    found = check_index(home.index, WITHIN_S)
    if found.faults:
        yield Check("index", "error", f"it is damaged: {found.faults[0]}", hint, fix)
        return
    facts = facts_of(home.index)
    if facts.revision is not None and not is_known(facts.revision):
        hint = "Install the newer version again, or set TORPOR_HOME to another folder; nothing was changed."
        yield Check("index", "error", f"a newer version of Torpor wrote it (schema {facts.revision})", hint)
        return
    yield from _judge(patient, facts, manifests, finished=found.finished)


def _judge(patient: Patient, facts: IndexFacts, manifests: int, *, finished: bool) -> Iterator[Check]:
    said = f"{facts.backups} backups, schema {facts.revision}" + ("" if finished else "; not all of it was read")
    if facts.backups != manifests and not (patient.running and abs(facts.backups - manifests) < 2):
        hint = "A start of the daemon makes the two agree; manifests that it cannot use are told in its log."
        detail = f"it knows {facts.backups} backups, and {manifests} manifests are there"
        yield Check("index", "warning", detail, hint, None if patient.running else partial(_settle, patient))
    else:
        yield Check("index", "ok", said)
    if facts.damaged_blobs:
        hint = "`torpor verify --all` tries to heal them, and says what of each backup can still be restored."
        fix = partial(_try_again, patient) if patient.running else None
        yield Check("blobs", "error", f"{facts.damaged_blobs} damaged blobs, and no other copy was had", hint, fix)
    else:
        yield Check("blobs", "ok", f"{facts.present_blobs} blobs, none known to be damaged")


def _manifests(patient: Patient) -> int:
    folder = patient.home.store / "manifests"
    return sum(name.endswith(".qwnbak") for name in os.listdir(folder)) if folder.is_dir() else 0


def _rebuild(patient: Patient) -> str:
    made = rebuild_index(patient.home, load_settings(), patient.now)
    return f"made again from {made.backups} manifests; the old one is {made.aside or 'gone'}"


def _settle(patient: Patient) -> str:
    with ExitStack() as stack:
        stack.callback(InstanceLock(patient.home).close)
        aside = set_aside_if_damaged(patient.home, patient.now)  # else a new index vouches for what nobody knows
        catalog = compose(patient.home, load_settings(), stack)
        found = reconcile(catalog)
        settle_index(catalog, aside, found)
        return f"{found.imported} manifests entered the index, {found.dropped} rows left it"


def _try_again(patient: Patient) -> str:
    assert patient.ask is not None
    patient.ask("/v1/scrub", {})
    return "they are tried again now"


def check_sidecars(patient: Patient) -> Iterator[Check]:
    """Look whether what the user said of sessions can be read."""
    folder = patient.home.store / "sessions"
    damaged = SidecarStore(folder).unreadable() if folder.is_dir() else []
    if damaged:
        hint = "A start of the daemon makes them again from the index; the damaged ones are kept aside."
        fix = None if patient.running else partial(_settle, patient)
        yield Check("sidecars", "warning", f"{len(damaged)} files with pins and titles are damaged", hint, fix)
    else:
        yield Check("sidecars", "ok", "pins, TTLs and titles can be read")


def check_scrub(patient: Patient) -> Iterator[Check]:
    """Look how the re-reading of blobs goes on."""
    if patient.ask is None:
        return
    found = patient.ask("/v1/scrub", None)
    if found["trouble"] is not None:
        hint = "Look at the disk: `dmesg`, `smartctl -a`. It is tried again by itself."
        yield Check("scrub", "error", f"it stopped: {found['trouble']}", hint)
    elif found["unsure"]:
        detail = f"{found['unsure']} blobs were right only at the second reading"
        yield Check("scrub", "warning", detail, "Look at the disk and at the memory: `dmesg`, `smartctl -a`.")
    elif found["state"] == "off":
        yield Check("scrub", "warning", "blobs are never read again by themselves", "Set TORPOR_SCRUB_MIB_S.")
    elif found["ended_at"] is None:
        yield Check("scrub", "ok", f"{found['state']}; the first pass has not ended yet")
    else:
        days = (patient.now - found["ended_at"]) / 86_400
        yield Check("scrub", "ok", f"{found['state']}; the last pass ended {days:.1f} days ago")


LOOKS = [check_sqlite, check_index_file, check_sidecars, check_scrub]
