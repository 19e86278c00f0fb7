"""A real systemd of a user's own, in namespaces and control groups of its own: it sees no process but its own.

It runs as somebody without rights, as on a desktop, since what a unit may ask for depends on that. `systemctl` is the
real one, entered into its namespaces by a script of that name that goes first in `PATH`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torpor.desktop.own_command import own_command

from support.control_groups import own_groups, remove_group
from support.waiting import until

UID = 64123  # nobody's
UNITS = Path("/usr/lib/systemd/user")
_BASIC = ("basic", "default", "shutdown", "exit", "paths", "sockets", "timers")
# What a machine's own systemd has made by then; and what a checkout in a closed folder needs to be read by somebody else.
_INSIDE = """
set -e
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/system /run/systemd/unit-root /run/user/{uid}
mount --bind {folder}/run /run/user/{uid}
for closed in {closed}; do
    mkdir -p {folder}/open/$closed/up {folder}/open/$closed/work
    mount -t overlay overlay -o lowerdir=$closed,upperdir={folder}/open/$closed/up,workdir={folder}/open/$closed/work $closed
    chmod a+rx $closed
done
unset DBUS_SESSION_BUS_ADDRESS
export SYSTEMD_UNIT_PATH={folder}/home/.config/systemd/user:{folder}/units SYSTEMD_LOG_TARGET=console
export HOME={folder}/home XDG_RUNTIME_DIR=/run/user/{uid}
setpriv --reuid={uid} --regid={uid} --clear-groups --bounding-set=-all --inh-caps=-all /usr/lib/systemd/systemd --user &
echo $! > {folder}/manager
wait
"""
_SYSTEMCTL = """#!/bin/sh
exec nsenter --mount --pid --target {pid} setpriv --reuid={uid} --regid={uid} --clear-groups --inh-caps=-all \
    env XDG_RUNTIME_DIR=/run/user/{uid} {systemctl} "$@"
"""


@dataclass(frozen=True, slots=True)
class Session:
    """A user's session: its folder (with `home` in it), its environment, and the process whose namespaces it has."""

    folder: Path
    environ: dict[str, str]
    pid: int

    @property
    def command(self) -> tuple[str, ...]:
        return own_command("serve")

    @property
    def home(self) -> Path:
        return self.folder / "home" / ".local" / "share" / "torpor"

    def systemctl(self, *words: str) -> str:
        done = subprocess.run(
            ["systemctl", "--user", *words], env=self.environ, capture_output=True, text=True, check=True
        )
        return done.stdout

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command as that user, where the session's services run."""
        entered = ["nsenter", "--mount", "--pid", "--target", str(self.pid)]
        as_user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all"]
        environ = {**self.environ, "PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": f"/run/user/{UID}"}
        return subprocess.run([*entered, *as_user, *command], env=environ, capture_output=True, text=True, cwd="/")


def why_not() -> str | None:
    """Say why it cannot be had here."""
    if os.geteuid() != 0:
        return "a systemd of its own needs root, for namespaces and control groups"
    missing = [name for name in ("unshare", "nsenter", "setpriv", "systemctl") if shutil.which(name) is None]
    if missing or not (UNITS / "default.target").exists():
        return f"systemd is not installed ({', '.join(missing)})"
    return None


@contextmanager
def session() -> Iterator[Session]:
    """Start one; it ends with everything that it started."""
    folder = Path(tempfile.mkdtemp(prefix="torpor-user-", dir="/tmp"))
    folder.chmod(0o755)
    for name in ("run", "home", "bin", "units"):
        (folder / name).mkdir()
    for name in ("run", "home"):
        os.chown(folder / name, UID, UID)
    for name in _BASIC:
        (folder / "units" / f"{name}.target").symlink_to(UNITS / f"{name}.target")
    (folder / "units" / "app.slice").symlink_to(UNITS / "app.slice")
    groups = own_groups(folder.name, UID)
    script = _INSIDE.format(folder=folder, uid=UID, closed=" ".join(map(str, _closed())))
    apart = ["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]
    log = open(folder / "log", "wb")  # noqa: SIM115
    process = subprocess.Popen(
        ["unshare", *apart, "sh", "-c", script],
        preexec_fn=lambda: [(group / "cgroup.procs").write_text("0") for group in groups],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield _entered(folder, process.pid)
    finally:
        process.send_signal(signal.SIGKILL)  # its child, the first of its processes, goes with it, and all the others
        process.wait()
        log.close()
        for group in groups:
            remove_group(group)
        shutil.rmtree(folder)


def _entered(folder: Path, unshared: int) -> Session:
    def first() -> int | None:
        found = Path(f"/proc/{unshared}/task/{unshared}/children").read_text().split()
        return int(found[0]) if found and (folder / "manager").exists() else None

    said = folder / "log"
    pid = until(first, said.read_text)
    real = shutil.which("systemctl")
    script = folder / "bin" / "systemctl"
    script.write_text(_SYSTEMCTL.format(pid=pid, uid=UID, systemctl=real))
    script.chmod(0o755)
    environ = {
        "PATH": f"{script.parent}:{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "XDG_RUNTIME_DIR": str(folder / "run"),
    }
    made = Session(folder, environ, pid)

    def runs() -> bool:
        done = subprocess.run(["systemctl", "--user", "is-system-running"], env=environ, capture_output=True, text=True)
        return done.stdout.strip() in ("running", "degraded")

    until(runs, said.read_text)
    return made


def _closed() -> list[Path]:
    """Return folders that somebody else may not look into, and that the interpreter or the code lie in."""
    places = {
        Path(sys.executable).absolute(),
        Path(sys.executable).resolve(),
        Path(__file__).resolve(),
        Path(sys.prefix),
    }
    places |= {Path(each).absolute() for each in sys.path if each}
    above = {folder for place in places for folder in (place, *place.parents) if folder.is_dir()}
    return sorted(folder for folder in above if folder.stat().st_mode & 0o005 != 0o005)
