"""Control groups for a systemd of a test's own: below those of this process, so that it sees no process but its own."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from support.waiting import until

GROUPS = Path("/sys/fs/cgroup")
USED = ("", "systemd", "memory", "cpu", "pids")  # "" is the unified hierarchy


def own_groups(name: str, uid: int = 0, kinds: Collection[str] = USED) -> list[Path]:
    """Make control groups of that name, that user's own; return them. A process joins them by their `cgroup.procs`."""
    made = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        kind = controllers.removeprefix("name=")
        mounted = GROUPS / kind if kind else next((p for p in (GROUPS / "unified", GROUPS) if _is_unified(p)), None)
        if mounted is None or kind not in kinds or not mounted.is_dir():
            continue
        group = mounted / path.strip("/") / name
        group.mkdir()
        for each in (group, *group.iterdir()):
            os.chown(each, uid, uid)
        made.append(group)
    return made


def remove_group(group: Path) -> None:
    """Remove a group and those below it, as soon as no process is in them."""
    for folder, _, _ in os.walk(group, topdown=False):

        def gone(folder: str = folder) -> bool:
            try:
                os.rmdir(folder)
            except OSError:
                return not os.path.exists(folder)
            return True

        until(gone, f"{folder} is busy")


def _is_unified(folder: Path) -> bool:
    return (folder / "cgroup.controllers").exists()
