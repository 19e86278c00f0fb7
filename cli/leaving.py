"""What of Torpor is on this machine and beyond it, and what `torpor uninstall` does with each."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..client import connect
from ..desktop import autostart, login_entries, registration, service
from ..desktop.unit import UNIT
from ..state.errors import Conflict, InvalidSettings, TorporError
from ..state.quota import in_words
from ..store.home import Home
from ..store.home_removal import Held, earlier_places, look
from . import running

_ENTRIES = (autostart.DAEMON_FILE, autostart.TRAY_FILE)


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing: what it is, where it lies, whether it goes, and what there is to say of it."""

    name: str
    where: str
    goes: bool
    about: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """What there is: the home, and what was put around it. `key` is what the daemon says of its bucket's keys."""

    home: Home
    held: Held
    places: tuple[Path, ...]
    daemon: Mapping[str, Any] | None
    service: service.Service
    tray: int | None
    entries: tuple[Path, ...]
    files: tuple[Path, ...]
    bucket: str | None
    waiting: int
    keyring: str | None
    watched: tuple[str, ...]

    @classmethod
    def of(cls, home: Home, environ: Mapping[str, str]) -> Found:
        """Look at everything; nothing is changed. Raises: StoreFailed, ServiceFailed."""
        daemon = running.status_of(home)
        waiting, keyring = (0, None) if daemon is None else _asked(home, daemon)
        names = (name for name in _ENTRIES if login_entries.is_of(name, home, environ))
        return cls(
            home=home,
            held=look(home),
            places=tuple(earlier_places(home)),
            daemon=daemon,
            service=service.status(environ),
            tray=_tray_of(home, environ),
            entries=tuple(autostart.place(name, environ) for name in names),
            files=tuple(registration.installed(environ)),
            bucket=_bucket(home, environ),
            waiting=waiting,
            keyring=keyring,
            watched=() if daemon is None else tuple(each["folder"] for each in daemon["watches"]),
        )


def _tray_of(home: Home, environ: Mapping[str, str]) -> int | None:
    """Return the process of this user's icon for a home; None without one."""
    from ..tray.instance import Instance

    try:
        lock = Instance(str(home.root), environ)
    except OSError:  # no folder where one could be: then there is no icon either
        return None
    lock.close()
    return lock.pid or None


def _asked(home: Home, daemon: Mapping[str, Any]) -> tuple[int, str | None]:
    """Ask a daemon how many items wait for the bucket, and which repository's key the keyring has."""
    if daemon["remote"] is None:
        return 0, None
    with connect(home=home.root) as keeper:
        try:
            key = keeper.api.json("GET", "/v1/key")
        except TorporError:  # the bucket cannot be reached: its name stands there all the same
            key = {"kept_in": None, "repo_id": None}
    return int(daemon["remote"]["waiting_count"]), key["repo_id"] if key["kept_in"] == "keyring" else None


def _bucket(home: Home, environ: Mapping[str, str]) -> str | None:
    from ..daemon.remote_settings import load_remote_settings

    with suppress(InvalidSettings):
        found = load_remote_settings(environ, None, home.root).s3
        if found is not None:
            prefix = f", under {found.prefix}/" if found.prefix else ""
            return f"{found.bucket} at {found.endpoint or 'AWS'}{prefix}"
    return None


def plan(found: Found, *, purge: bool, executable: str = sys.executable) -> list[Thing]:
    """Say what goes and what stays. Pure."""
    return [*_programs(found), *_data(found, purge=purge), *_elsewhere(found, purge=purge), _installation(executable)]


def _programs(found: Found) -> Iterator[Thing]:
    if found.daemon is not None:
        yield Thing("daemon", f"process {found.daemon['pid']}", True, "it is asked to end, and saves what it has to")
    if found.service.installed:
        about = "" if _is_own(found.service) else "the package's file stays with the package; it is switched off"
        if not _serves(found):
            about = f"it is of another home, {found.service.home}"
        yield Thing("service", found.service.unit or UNIT, _serves(found), about)
    if found.tray is not None:
        yield Thing("tray", f"process {found.tray}", True)
    for path in found.entries:
        yield Thing("autostart", str(path), True)
    for path in found.files:
        yield Thing("desktop", str(path), True)


def _is_own(found: service.Service) -> bool:
    return found.unit is None or not found.unit.startswith(("/usr/", "/lib/", "/etc/"))


def _serves(found: Found) -> bool:
    return found.service.home in (None, str(found.home.root))


def _data(found: Found, *, purge: bool) -> Iterator[Thing]:
    root, held = found.home.root, found.held
    if os.path.lexists(root):
        what = f"{_backups(held.backups)}, {in_words(held.size_bytes)}, with index, settings, tokens and logs"
        yield Thing("home", str(root), purge, what if purge else f"{what}; a new installation goes on with it")
    for path in held.foreign:
        yield Thing("not ours", str(path), False, "nobody but you knows what it is")
    for place in found.places:
        yield Thing("note", str(place), purge, "leads to the home")


def _elsewhere(found: Found, *, purge: bool) -> Iterator[Thing]:
    if found.bucket is not None:
        waits = f"; {found.waiting} items have not reached it" if found.waiting else ""
        about = "other machines may use it; your provider's tools empty it"
        yield Thing("bucket", found.bucket, False, about + waits)
    if found.keyring is not None:
        gone = "then only the passphrase or the recovery text opens the bucket"
        yield Thing("keyring", f"torpor, bucket {found.keyring}", purge, gone if purge else "the key of the bucket")
    elif found.bucket is not None and found.daemon is None:
        about = "may hold a key of the bucket under the name torpor; start the daemon first to have that looked at"
        yield Thing("keyring", "this user's", False, about)
    for folder in found.watched:
        yield Thing("watched", folder, False, "your files, which were only read")


def _installation(executable: str) -> Thing:
    if executable.startswith(("/usr/bin/", "/usr/lib/torpor/")):
        return Thing("package", "torpor", False, "`sudo apt remove torpor` removes the program")
    return Thing("package", str(Path(executable).parent.parent), False, "`pip uninstall torpor` removes the program")


def consent(found: Found) -> str:
    """Return what is typed by whoever means it: it says what is lost."""
    return f"delete {_backups(found.held.backups)}"


def _backups(count: int) -> str:
    return f"{count} backup{'s' * (count != 1)}"


def carry_out(found: Found, environ: Mapping[str, str], *, purge: bool) -> list[str]:
    """Do what the plan says; return what was done. Raises: Conflict, StoreFailed, ServiceFailed, UnsafeHome."""
    from ..store.files import translated

    done = []
    if found.service.installed and _serves(found):
        with translated("remove", "the service's unit"):
            done += ["service"] * service.remove(environ)
    with translated("remove", "what the desktop was given"):
        done += [path.name for path in found.entries if autostart.disable(path.name, environ)]
        done += [str(path) for path in registration.remove(environ)]
    if found.tray is not None and _tray_of(found.home, environ) == found.tray:  # its number may be another's by now
        with suppress(ProcessLookupError):
            os.kill(found.tray, signal.SIGTERM)
        done.append("tray")
    done += ["daemon"] * running.stop(found.home)
    if purge:
        done += _purge(found)
    return done


def _purge(found: Found) -> Iterator[str]:
    """Remove the home, then its key. Raises: Conflict while a process may be saving, UnsafeHome, StoreFailed."""
    from ..daemon.instance import InstanceLock
    from ..daemon.keys import KeyStore
    from ..store.home_removal import remove_home
    from ..store.staging import writers

    staging = found.home.store / "staging"
    if found.home.root.is_dir():
        lock = InstanceLock(found.home)
        try:
            if staging.is_dir() and (open_by := writers(staging)):
                raise Conflict(
                    f"process {open_by[0]} has the store open and may be saving",
                    hint="Close its keeper or end it, then try again; no backup was removed.",
                )
            remove_home(found.home)
        finally:
            lock.close()
        yield "home"
    if found.keyring is not None and KeyStore(found.home.repo_key).forget(found.keyring):
        yield "keyring"


def as_json(things: list[Thing]) -> list[dict[str, Any]]:
    """Return a plan for `--json`."""
    return [asdict(each) for each in things]
