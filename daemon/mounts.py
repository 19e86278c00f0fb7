"""Which file systems tell of changes. On the others (network, FUSE) inotify sees only what this machine does."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from ..state.errors import NetworkHome

_NETWORK = {
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4",
    "ocfs2", "orangefs", "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs",
}  # fmt: skip
_NETWORK_FUSE = {
    "afpfs", "blobfuse", "blobfuse2", "ceph", "ceph-fuse", "curlftpfs", "dav2fs", "davfs", "davfs2", "gcsfuse",
    "geesefs", "glusterfs", "google-drive-ocamlfuse", "goofys", "gvfsd-fuse", "juicefs", "lizardfs", "mfs", "moosefs",
    "mount-s3", "mountpoint-s3", "nfs", "onedriver", "rclone", "s3fs", "s3ql", "seaweedfs", "smbnetfs", "sshfs",
}  # fmt: skip
_OCTAL = re.compile(r"\\([0-7]{3})")


def needs_polling(fs_type: str) -> bool:
    """Tell whether changes may come from elsewhere. `fuseblk` is a local disk, `fuse.sshfs` and its like are not."""
    return fs_type in _NETWORK or makes_up_inodes(fs_type)


def is_network(fs_type: str) -> bool:
    """Tell whether a file system lies on other machines. Other FUSE ones (encryption, unions) are on this disk."""
    return fs_type in _NETWORK or (fs_type.startswith("fuse.") and fs_type.removeprefix("fuse.") in _NETWORK_FUSE)


def refuse_network_home(root: Path, type_of_path: Callable[[str], str] | None = None) -> None:
    """Make sure that a home lies on a disk of this machine. Raises: NetworkHome."""
    fs_type = (type_of_path or type_at)(str(root))
    if is_network(fs_type):
        raise NetworkHome(
            f"{root} lies on {fs_type}, a network file system: SQLite's log of writes needs shared memory, locks get "
            "lost with the connection, and a sync need not reach a disk"
        )


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
