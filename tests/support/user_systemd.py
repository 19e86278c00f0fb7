"""A real systemd of a user's own, in namespaces and control groups of its own: it sees no process but its own.

It runs as somebody without rights, as on a desktop, since what a unit may ask for depends on that. `systemctl` is the
real one, entered into its namespaces by a script of that name that goes first in `PATH`.
"""

from __future__ import annotations

import json
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
from typing import Any

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
# Runs commands one after the other, each forked off a process that has imported them.
_COMMANDS = """
import json, os, sys
import torpor.cli.main
from torpor.cli.entry import main
for line in sys.stdin:
    ours, theirs = os.pipe()
    if not (pid := os.fork()):
        os.dup2(theirs, 1)
        os.dup2(theirs, 2)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)
        sys.argv = ["torpor", *json.loads(line)]
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        sys.stdout.flush()
        os._exit(status)
    os.close(theirs)
    with open(ours) as said:
        text = said.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), text]), flush=True)
"""
_SYSTEMCTL = """#!/bin/sh
exec nsenter --mount --pid --target {pid} setpriv --reuid={uid} --regid={uid} --clear-groups --inh-caps=-all \
    env XDG_RUNTIME_DIR=/run/user/{uid} {systemctl} "$@"
"""


@dataclass(frozen=True, slots=True)
class Session:
    """A user's session: its folder, its environment, the process whose namespaces it has, and one that runs commands."""

    folder: Path
    environ: dict[str, str]
    pid: int
    commands: subprocess.Popen[str]

    @property
    def home(self) -> Path:
        return self.folder / "home" / ".local" / "share" / "torpor"

    def systemctl(self, *words: str) -> str:
        done = subprocess.run(
            ["systemctl", "--user", *words], env=self.environ, capture_output=True, text=True, check=True
        )
        return done.stdout

    def torpor(self, *words: str, status: int = 0) -> str:
        """Run a command of ours as that user, and return what it printed."""
        assert self.commands.stdin is not None
        assert self.commands.stdout is not None
        self.commands.stdin.write(json.dumps(words) + "\n")
        self.commands.stdin.flush()
        code, said = json.loads(self.commands.stdout.readline())
        assert code == status, said
        assert "Traceback" not in said
        return str(said)

    def as_json(self, *words: str, status: int = 0) -> Any:
        return json.loads(self.torpor(*words, "--json", status=status))

    def end(self) -> None:
        """End the process that runs commands."""
        with self.commands:
            assert self.commands.stdin is not None
            self.commands.stdin.close()

    def write(self, place: Path, text: str) -> None:
        """Write a file that is that user's, in folders that are."""
        made = [place, *(folder for folder in place.parents if not folder.exists())]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        for each in made:
            os.chown(each, UID, UID)

    def read(self, path: str) -> str:
        """Read a file as that user, from where the services run."""
        done = subprocess.run([*_entering(self.pid), "cat", path], capture_output=True, text=True, check=True)
        return done.stdout


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
    folder = Path(tempfile.mkdtemp(prefix="torpor-user-", dir="/var/lib"))
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
    made = None
    try:
        made = _entered(folder, process.pid)
        yield made
    finally:
        if made is not None:
            made.end()
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
    there = {"PATH": os.environ["PATH"], "HOME": environ["HOME"], "COLUMNS": "300"}
    commands = subprocess.Popen(
        [*_entering(pid), sys.executable, "-c", _COMMANDS],
        env=there | {"XDG_RUNTIME_DIR": f"/run/user/{UID}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd="/",
    )
    made = Session(folder, environ, pid, commands)

    def runs() -> bool:
        done = subprocess.run(["systemctl", "--user", "is-system-running"], env=environ, capture_output=True, text=True)
        return done.stdout.strip() in ("running", "degraded")

    until(runs, said.read_text)
    return made


def _entering(pid: int) -> list[str]:
    """Return what goes before a command for it to run as that user beside a process."""
    as_user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all"]
    return ["nsenter", "--mount", "--pid", "--target", str(pid), *as_user]


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
