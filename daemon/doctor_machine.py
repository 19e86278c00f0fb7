"""The doctor's look at the machine: versions, clock, inotify, keyring."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from ..db.soundness import check_index, facts_of
from ..state.errors import StoreFailed, Timeout, TorporError
from ..state.trusted_clock import judge
from ..store.clock_anchor import read_anchor
from .checkup import Check, Patient
from .keys import KeyStore
from .settings import load_settings
from .trusted_time import read_clocks

EARLIEST = 1_735_689_600.0  # 2025: no clock that is right says less
AHEAD_S = 3600.0
FEW_WATCHES, FEW_INSTANCES = 8192, 32
EXTRAS = {"daemon": ("fastapi", "sqlalchemy", "boto3"), "transformers": ("torch", "transformers"), "tray": ("pystray",)}


def check_versions(patient: Patient) -> Iterator[Check]:
    """Look at versions, and whether the daemon that runs is the one that is installed."""
    ours, missing = version("torpor"), [name for name, parts in EXTRAS.items() if any(not find_spec(p) for p in parts)]
    said = f"torpor {ours}, Python {platform.python_version()}"
    said += f"; not installed: {', '.join(missing)}" if missing else ""
    if patient.ask is None:
        yield Check("versions", "ok", f"{said}; no daemon runs")
        return
    theirs = str(patient.ask("/v1/status", None)["version"])
    if theirs != ours:
        yield Check("versions", "warning", f"{said}, and the daemon that runs is {theirs}", "Restart the daemon.")
    else:
        yield Check("versions", "ok", f"{said}; the daemon that runs is the same")


def check_clock(patient: Patient) -> Iterator[Check]:
    """Look whether the clock can be right, and whether TTLs are judged by it."""
    newest = None
    if patient.home.index.exists() and not check_index(patient.home.index, 1.0).faults:
        newest = facts_of(patient.home.index).newest_at
    reading = replace(read_clocks(), wall=patient.now)
    anchor = read_anchor(patient.home.clock_json)
    distrust = None if anchor is None else judge(anchor, reading).distrust
    yield judge_clock(patient.now, newest, distrust, synchronised=reading.synchronised)


def judge_clock(now: float, newest_at: float | None, distrust: str | None, *, synchronised: bool) -> Check:
    """Say whether a time can be right."""
    hint = "timedatectl set-ntp true"
    if now < EARLIEST:
        return Check("clock", "error", "the clock says a year that is over: no TTL can be judged by it", hint)
    if distrust is not None:
        return Check("clock", "warning", distrust, f"{hint}; `torpor gc --trust-clock` if the clock is right.")
    if newest_at is not None and newest_at > now + AHEAD_S:
        hours = (newest_at - now) / 3600
        return Check("clock", "warning", f"the newest backup is {hours:.0f} h ahead of the clock", hint)
    return Check("clock", "ok", "synchronised" if synchronised else "not synchronised with a time server")


def check_inotify(patient: Patient) -> Iterator[Check]:
    """Look whether watched folders can be watched."""
    folder = patient.system / "proc/sys/fs/inotify"
    limits = {name: _number(folder / name) for name in ("max_user_watches", "max_user_instances")}
    low = [
        f"{name} is {found}"
        for (name, found), few in zip(limits.items(), (FEW_WATCHES, FEW_INSTANCES), strict=True)
        if found is not None and found < few
    ]
    if low:
        hint = "sudo sysctl fs.inotify.max_user_watches=524288 fs.inotify.max_user_instances=512"
        yield Check("inotify", "warning", f"{' and '.join(low)}: folders may have to be polled", hint)
    else:
        yield Check("inotify", "ok", ", ".join(f"{name} {found}" for name, found in limits.items()))
    watches = [] if patient.ask is None else patient.ask("/v1/status", None)["watches"]
    for each in watches:
        if each["problem"]:
            yield Check("watched folder", "error", each["problem"]["detail"], each["problem"]["hint"])
        elif each["failing_count"]:
            detail = f"{each['failing_count']} files in {each['folder']} cannot be imported"
            yield Check("watched folder", "warning", detail, "`torpor watch ls` says which and why.")


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def check_keyring(patient: Patient) -> Iterator[Check]:
    """Look where the key of an encrypted bucket is, or would be kept."""
    storage, file = load_settings().key_storage, patient.home.repo_key
    try:
        kept = KeyStore(file, "file").kept()
    except TorporError as error:
        fix = partial(_close_key, file) if file.is_file() and not file.is_symlink() else None
        yield Check("keys", "error", error.detail, error.hint, fix)
        return
    if storage == "file":
        yield Check("keys", "ok", f"a file of yours alone, {kept} keys in it")
        return
    try:
        yield Check("keys", "ok", f"the keyring is {KeyStore(file, storage).keyring_name()}")
    except (Timeout, StoreFailed) as error:
        if storage == "keyring":
            yield Check("keys", "error", error.detail, error.hint)
        else:
            yield Check("keys", "ok", f"{error.detail}: a file of yours alone is used, {kept} keys in it")


def _close_key(file: Path) -> str:
    os.chmod(file, 0o600)
    return f"closed {file}; whoever read it before can read the bucket: `torpor key rotate`"


LOOKS = [check_versions, check_clock, check_inotify, check_keyring]
