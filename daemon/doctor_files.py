"""The doctor's look at files: home, permissions, small files, disk, what was left behind."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from ..state.errors import DaemonAlreadyRunning, TorporError
from ..store import staging
from ..store.files import create_exclusive, sync_folder
from ..store.home import Home
from ..store.watch_list import read_watch_list
from .checkup import Check, Patient
from .index_care import ASIDE
from .instance import InstanceLock, load_token
from .mounts import is_network, type_at

LOW_BYTES, LOW_SHARE, NO_BYTES, LOW_FILES = 2 << 30, 0.05, 64 << 20, 1000


def check_home(patient: Patient) -> Iterator[Check]:
    """Look whether there is a home, on a disk of this machine."""
    root = patient.home.root
    if not os.path.lexists(root):
        yield Check("home", "warning", f"{root} does not exist yet", "`torpor init` makes it; TORPOR_HOME names it.")
        return
    status = os.lstat(root)
    if not stat.S_ISDIR(status.st_mode):
        yield Check("home", "error", f"{root} is a symbolic link or not a folder", "Set TORPOR_HOME to a folder.")
        return
    if status.st_uid != os.geteuid():
        yield Check("home", "error", f"{root} belongs to user {status.st_uid}", "Choose a folder of yours.")
        return
    kind = type_at(str(root))
    if is_network(kind):
        hint = "Locks and fsync cannot be trusted there: `torpor home move FOLDER` to a disk of this machine."
        yield Check("home", "error", f"{root} lies on a network file system ({kind})", hint)
        return
    yield Check("home", "ok", f"{root} on {kind or 'a file system of an unknown kind'}")


def check_permissions(patient: Patient) -> Iterator[Check]:
    """Look whether anybody else can get in, and whether a link leads out."""
    links, foreign, open_ones = [], [], []
    for path in _own_paths(patient.home):
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            links.append(path)
        elif status.st_uid != os.geteuid():
            foreign.append(path)
        elif status.st_mode & 0o077:
            open_ones.append(path)
    if links:
        hint = "Nothing of Torpor's is a link: look where it leads, and remove it."
        yield Check("links", "error", f"{_some(links)} are symbolic links", hint)
    if foreign:
        yield Check(
            "owner", "error", f"{_some(foreign)} belong to somebody else", f"chown -R $USER {patient.home.root}"
        )
    if open_ones:
        hint = f"chmod -R go= {patient.home.root}"
        yield Check("permissions", "error", f"{_some(open_ones)} are open to others", hint, partial(_close, open_ones))
    if not (links or foreign or open_ones):
        yield Check("permissions", "ok", "everything is yours alone")


def _own_paths(home: Home) -> Iterator[Path]:
    """Yield the home, its folders, and its files but for blobs and manifests, which lie behind closed doors."""
    if not home.root.is_dir():
        return
    yield home.root
    for folder, folders, files in os.walk(home.root):
        at = Path(folder)
        yield from (at / name for name in folders)
        if at.name != "manifests" and home.store / "blobs" not in (at, *at.parents):
            yield from (at / name for name in files)


def _close(paths: list[Path]) -> str:
    for path in paths:
        with suppress(FileNotFoundError):
            mode = os.lstat(path).st_mode
            if not stat.S_ISLNK(mode):
                os.chmod(path, stat.S_IMODE(mode) & 0o700)
    return f"closed {len(paths)} files and folders to others"


def _some(paths: list[Path]) -> str:
    return str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def check_token(patient: Patient) -> Iterator[Check]:
    """Look whether the token can be used."""
    if not os.path.lexists(patient.home.token):
        yield Check("token", "ok", "there is none yet; the first start makes it")
        return
    if os.lstat(patient.home.token).st_mode & 0o077:
        return  # the look at permissions says so, and reading it would close it
    try:
        load_token(patient.home)
    except TorporError as error:
        fix = None if patient.running else partial(_aside, patient.home.token)
        yield Check("token", "error", error.detail, "Move the file away and restart the daemon: it makes another.", fix)
        return
    yield Check("token", "ok", "256 random bits, readable by you alone")


def check_small_files(patient: Patient) -> Iterator[Check]:
    """Look whether the files that hold choices can be read."""
    home = patient.home
    said = {
        home.sync_json: "pause, limits and policy",
        home.tokens_json: "tokens that were given to others",
        home.clock_json: "the last moment whose time was trusted",
        home.daemon_json: "where the daemon listens",
    }
    for path, words in said.items():
        if path.exists() and not isinstance(_json(path), dict):
            fix = None if patient.running else partial(_aside, path)
            hint = "Move it away while no daemon runs: the defaults count then."
            yield Check(path.name, "warning", f"{path} is damaged; it holds {words}", hint, fix)
    try:
        read_watch_list(home.watch_json)
    except TorporError as error:
        yield Check("watch.json", "error", error.detail, error.hint, partial(_aside, home.watch_json))
    if not patient.running and home.daemon_json.exists() and _owner(home) is None:
        hint = "It was killed, or the machine lost power; the next start replaces the file."
        yield Check("daemon.json", "warning", "a daemon that is gone left it", hint, partial(_aside, home.daemon_json))


def _json(path: Path) -> Any:
    try:
        return orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError:
        return None


def _aside(path: Path) -> str:
    target = path.with_name(f"{path.name}.damaged")
    os.replace(path, target)
    return f"moved {path} to {target.name}"


def check_daemon(patient: Patient) -> Iterator[Check]:
    """Look for a daemon that owns the home and does not answer."""
    if patient.running or not patient.home.lock.exists():
        return
    owner = _owner(patient.home)
    if owner is not None:
        hint = f"It may be starting; see {patient.home.logs}. If it hangs, end it and start it again."
        yield Check("daemon", "error", f"{owner}, and does not answer", hint)


def _owner(home: Home) -> str | None:
    """Return who owns a home, None when nobody does."""
    if not home.lock.exists():
        return None
    try:
        InstanceLock(home).close()
    except DaemonAlreadyRunning as error:
        return error.detail
    return None


def check_disk(patient: Patient) -> Iterator[Check]:
    """Look whether the disk has room, and takes what is written."""
    folder = _existing(patient.home.store)
    found = os.statvfs(folder)
    free, total = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    said = f"{free / (1 << 30):.1f} GiB free of {total / (1 << 30):.1f}"
    hint = "`torpor rm`, `torpor gc`, or another disk; `torpor status` says what takes the room."
    if found.f_flag & os.ST_RDONLY:
        yield Check("disk", "error", f"{folder} is mounted read-only", "Look at `dmesg`: a failing disk is one reason.")
    elif free < NO_BYTES:
        yield Check("disk", "error", said, hint)
    elif free < LOW_BYTES and free < total * LOW_SHARE:
        yield Check("disk", "warning", said, hint)
    elif found.f_files and found.f_favail < LOW_FILES:
        yield Check("disk", "error", f"room for {found.f_favail} more files only", "`df -i` says who has so many.")
    elif folder != patient.home.store:
        yield Check("disk", "ok", said)  # there is no home yet, and the folders above it are somebody's
    elif (failure := _try_to_write(folder)) is not None:
        hint = "Look at `dmesg` and at the permissions; nothing can be saved until this works."
        yield Check("disk", "error", f"writing to {folder} fails: {failure}", hint)
    else:
        yield Check("disk", "ok", f"{said}; a file was written, synced and removed")


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _try_to_write(folder: Path) -> str | None:
    """Write a file as saves do; say what fails."""
    path = folder / f".doctor.{os.getpid()}.tmp"
    try:
        fd = create_exclusive(path)
        try:
            if os.write(fd, bytes(4096)) != 4096:
                return os.strerror(errno.ENOSPC)
            os.fsync(fd)
        finally:
            os.close(fd)
            path.unlink()
        sync_folder(folder)
    except OSError as error:
        return error.strerror
    return None


def check_leftovers(patient: Patient) -> Iterator[Check]:
    """Look for what killed writers left, and for what was moved aside."""
    home = patient.home
    if (
        home.store.joinpath("staging").is_dir()
        and not patient.running
        and any(home.store.joinpath("staging").iterdir())
    ):
        hint = "The next start of the daemon removes them."
        yield Check("staging", "warning", "writers that are gone left unfinished files", hint, partial(_sweep, home))
    aside = sorted(path for path in home.root.glob(f"{ASIDE}*") if path.is_file())
    if aside:
        size = sum(path.stat().st_size for path in aside) / (1 << 20)
        hint = "They were kept in case somebody wants to look into them: remove them when nobody does."
        yield Check("old indexes", "warning", f"{len(aside)} files of damaged indexes, {size:.1f} MiB", hint)


def _sweep(home: Home) -> str:
    with ExitStack() as stack:
        stack.callback(InstanceLock(home).close)
        return f"removed {staging.sweep(home.store / 'staging')} folders"


LOOKS = [check_home, check_daemon, check_permissions, check_token, check_small_files, check_disk, check_leftovers]
