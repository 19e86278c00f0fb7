"""Which file systems are polled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from torpor.daemon.mounts import makes_up_inodes, needs_polling, read_mountinfo, type_at, type_of

MOUNTS = """\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 27 0:25 / /home rw shared:1 - btrfs /dev/vdb rw
31 30 0:26 / /home/me/nas rw - nfs4 server:/export rw
32 30 0:27 / /home/me/my\\040disk rw master:2 - fuseblk /dev/sdb1 rw
33 30 0:28 / /home/me/remote rw - fuse.sshfs me@host: rw
34 31 0:29 / /home/me/nas/local rw - xfs /dev/sdc rw
35 27 0:30 / /over rw - nfs server:/old rw
36 27 0:31 / /over rw - tmpfs tmpfs rw
""".splitlines()


@pytest.mark.parametrize(
    ("path", "fs_type"),
    [
        ("/", "ext4"), ("/srv/x", "ext4"), ("/home", "btrfs"), ("/homestead", "ext4"), ("/home/me/nas/x", "nfs4"),
        ("/home/me/nas", "nfs4"), ("/home/me/nasty", "btrfs"), ("/home/me/my disk/x", "fuseblk"),
        ("/home/me/remote/x", "fuse.sshfs"), ("/home/me/nas/local/x", "xfs"), ("/over/x", "tmpfs"),
    ],
)  # fmt: skip
def test_the_longest_mount_point_above_a_path_counts_and_the_last_of_equals(path: str, fs_type: str) -> None:
    assert type_of(path, MOUNTS) == fs_type


@pytest.mark.parametrize("name", ["nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "fuse.sshfs", "fuse.glusterfs", "fuse"])
def test_network_file_systems_are_polled(name: str) -> None:
    assert needs_polling(name)


@pytest.mark.parametrize("name", ["ext4", "xfs", "btrfs", "tmpfs", "zfs", "overlay", "fuseblk", "vfat", ""])
def test_local_ones_are_not(name: str) -> None:
    assert not needs_polling(name)
    assert not makes_up_inodes(name)


def test_the_table_of_this_machine(tmp_path: Path) -> None:
    lines = read_mountinfo()
    assert type_of("/proc/self", lines) == "proc"
    assert type_at(str(tmp_path)) == type_of(os.path.realpath(tmp_path), lines) != ""
