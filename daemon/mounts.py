"""Which file systems tell of changes. On the others (network, FUSE) inotify sees only what this machine does."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

_NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
    "ocfs2", "orangefs", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs",
}  # fmt: skip
_OCTAL = re.compile(r"\\([0-7]{3})")


def needs_polling(fs_type: str) -> bool:
    """Tell whether changes may come from elsewhere. `fuseblk` is a local disk, `fuse.sshfs` and its like are not."""
    return fs_type in _NETWORK or makes_up_inodes(fs_type)


def makes_up_inodes(fs_type: str) -> bool:
    """Tell whether a file may have another inode each time it is looked at."""
    return fs_type == "fuse" or fs_type.startswith("fuse.")


def type_of(path: str, mountinfo: Iterable[str]) -> str:
    """Return the type of the file system that holds a resolved path: of the longest mount point above it."""
    best, found = -1, ""
    for line in mountinfo:
        fields, _, rest = line.partition(" - ")
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields.split(" ")[4])
        if len(point) >= best and (path == point or path.startswith(point.rstrip("/") + "/")):
            best, found = len(point), rest.split(" ")[0]
    return found


def read_mountinfo() -> list[str]:
    """Return the lines of this process's mount table; undecodable mount points keep their bytes."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return file.read().splitlines()


def type_at(path: str) -> str:
    """Return the type of the file system that holds a path, or nothing where the system does not say."""
    try:
        return type_of(os.path.realpath(path), read_mountinfo())
    except OSError:
        return ""
