"""A small Debian that runs: a root of its own over a cached base, booted by its own systemd in namespaces of its own.

Nothing of it outlives its process: the root's upper layer is memory. It has no network.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from support.control_groups import own_groups, remove_group
from support.waiting import until

PACKAGING = Path(__file__).parents[2] / "packaging" / "deb"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_CONTROLLERS = ("", "systemd", "memory", "cpu", "cpuacct", "pids", "blkio", "devices")

_BOOT = r"""
set -e
base=$1 scratch=$2
mount -t tmpfs -o mode=755 scratch "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/root"
mount -t overlay overlay -o "lowerdir=$base,upperdir=$scratch/upper,workdir=$scratch/work" "$scratch/root"
cd "$scratch/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=1777 tmp tmp
mount -t tmpfs -o mode=755 dev dev
for name in null zero full random urandom tty; do touch "dev/$name"; mount --bind "/dev/$name" "dev/$name"; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
pivot_root . mnt  # a mere chroot may have no user namespaces, which services of users want
exec </dev/null env -i container=torpor-test PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot . sh -c 'umount -l /mnt; exec /sbin/init --log-target=null --show-status=no'
"""


def why_no_clean_root() -> str | None:
    """Say what keeps this machine from running one, if anything does."""
    if os.geteuid() != 0:
        return "only root can install a package in a root of its own"
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return "this is not Debian, nor a child of it"
    return None


class CleanRoot:
    """The running system; `run` runs something in it."""

    def __init__(self) -> None:
        made = subprocess.run([PACKAGING / "clean-root.sh"], capture_output=True, text=True, timeout=600)
        assert made.returncode == 0, made.stderr
        self._base = Path(made.stdout.strip())
        self._scratch = Path(tempfile.mkdtemp(prefix="torpor-root-"))

    def __enter__(self) -> CleanRoot:
        self._groups = own_groups(self._scratch.name, kinds=_CONTROLLERS)
        apart = ("--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--fork", "--kill-child")
        self._process = subprocess.Popen(
            ["unshare", *apart, "--propagation", "private", "bash", "-c", _BOOT, "bash", self._base, self._scratch],
            preexec_fn=lambda: [(group / "cgroup.procs").write_text("0") for group in self._groups],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            self._init = until(self._child, "the first process of the clean root")
            until(lambda: self._is_up() or None, "the clean root's services")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _child(self) -> int | None:
        pid = self._process.pid
        self._check()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        begun = children and Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n"
        return int(children[0]) if begun else None

    def _check(self) -> None:
        if self._process.poll() is not None:
            raise AssertionError(f"the clean root ended: {self._process.communicate()[0]!r}")

    def _is_up(self) -> bool:
        self._check()
        state = self.run("systemctl", "is-system-running", "--wait", check=False).stdout.strip()
        return (
            state in ("running", "degraded")
            and self.run("systemctl", "is-active", "user@1000", check=False).returncode == 0
        )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGKILL)  # its first process ends with it, and all others with that
        self._process.communicate(timeout=60)
        for group in self._groups:
            remove_group(group)
        self._scratch.rmdir()

    @property
    def path(self) -> Path:
        """Its root, as this machine sees it."""
        return Path(f"/proc/{self._init}/root")

    def run(
        self, *command: str, user: str | None = None, check: bool = True, stdin: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, as root or as `ann` (whose service manager runs) or `bob`."""
        values = [_PATH, "LC_ALL=C.UTF-8", "HOME=/root", *(f"{name}={value}" for name, value in environment.items())]
        if user is not None:
            home = self.path / "home" / user
            ids = home.stat()
            values[2] = f"HOME=/home/{user}"
            values.append(f"XDG_RUNTIME_DIR=/run/user/{ids.st_uid}")
            command = ("setpriv", f"--reuid={ids.st_uid}", f"--regid={ids.st_gid}", "--clear-groups", "--", *command)
        spaces = ("--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--root")
        done = subprocess.run(
            [
                "nsenter",
                f"--target={self._init}",
                *spaces,
                "env",
                "--ignore-environment",
                "--chdir=/",
                *values,
                *command,
            ],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert not check or done.returncode == 0, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done
