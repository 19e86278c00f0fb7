"""A disk that fails, under everything that is done with a home: at each single call, once and from then on.

One process does what an SDK and a daemon do with files and SQLite (tests/support/faulty_world.py), over a shim that
lets calls fail (tests/support/faulty_fs.c). Behind each failure: every error was one of ours, every acknowledged backup
is there bit for bit, nothing that is listed is broken; with the disk well again the same operation goes through without
a restart; and a restart finds all of it again. In `make soak` at every call, in `make test` at some.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.faulty_fs import CHANGES, EVERY, GROWS, HALF_EIO, KILL, KILL_TORN, SHORT, FaultyDisk, Op

SOAK = bool(os.environ.get("TORPOR_SOAK"))
OPERATIONS = (
    "save",
    "save_group",
    "restore",
    "remove",
    "pin",
    "stay",
    "collect",
    "reuse",
    "scrub",
    "retain",
    "start",
    "migrate",
)
SLOW = {"start": 3, "migrate": 3, "collect": 23, "reuse": 23}  # they look at 256 folders: at every so manyth call
WRITES = frozenset({Op.WRITE})
NAMES = frozenset({Op.RENAME, Op.UNLINK, Op.MKDIR, Op.LINK})
SYNCS = frozenset({Op.SYNC, Op.SYNC_FOLDER})
ALWAYS = 0


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong; in `make test` at `cases` calls of an operation, of a slow one at `slow` of them."""

    ops: frozenset[Op]
    action: int
    times: int = 1
    cases: int = 1
    slow: int = 0


FAULTS = {
    "EIO": Fault(EVERY, errno.EIO, cases=3),
    "EIO from then on": Fault(EVERY, errno.EIO, ALWAYS, cases=3, slow=1),
    "ENOSPC": Fault(GROWS, errno.ENOSPC),
    "ENOSPC from then on": Fault(GROWS, errno.ENOSPC, ALWAYS, cases=2),
    "EDQUOT from then on": Fault(GROWS, errno.EDQUOT, ALWAYS),
    "remounted read-only": Fault(CHANGES - SYNCS, errno.EROFS, ALWAYS),
    "short write": Fault(WRITES, SHORT),
    "short writes": Fault(WRITES, SHORT, ALWAYS),
    "torn write": Fault(WRITES, HALF_EIO),
    "fsync fails": Fault(SYNCS, errno.EIO, cases=2),
    "rename fails": Fault(NAMES, errno.EIO),
    "kill -9": Fault(CHANGES, KILL, cases=2, slow=1),
    "kill -9 within a write": Fault(WRITES, KILL_TORN),
}


class Work:
    """The process, and what it has seen so far."""

    def __init__(self, root: Path) -> None:
        disk = FaultyDisk(root / "home", root / "control")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.faulty_work", str(root / "home")],
            cwd=Path(__file__).parents[1],
            env=os.environ | disk.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.seen: Counter[str] = Counter()
        assert self._answer() == "ready"

    def _answer(self) -> object:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline() or '"it ended"')

    def ask(self, operation: str, name: str, first: int) -> int:
        """Return how many faults came to be; raise what was wrong behind one."""
        fault = FAULTS[name]
        asked = {"operation": operation, "ops": sorted(fault.ops), "action": fault.action, "times": fault.times}
        asked |= {"every": SLOW.get(operation, 1) if SOAK else 0, "first": 0 if SOAK else first}
        asked |= {"cases": fault.slow if operation in SLOW else fault.cases}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        answer = self._answer()
        assert isinstance(answer, dict), answer
        assert not answer["wrong"], f"{operation}, {name}: " + "\n".join(answer["wrong"])
        self.seen[name] += answer["fired"]
        return int(answer["fired"])

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(30) == 0
        self._process.stdout.close()


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    running = Work(tmp_path_factory.mktemp("faulty"))
    yield running
    running.close()
    print(f"\nfaulty disk: {sum(running.seen.values())} faults, nothing lost: {dict(running.seen)}")


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_lost_whatever_fails(work: Work, name: str) -> None:
    some = [each for each in OPERATIONS if SOAK or FAULTS[name].slow or each not in SLOW]
    first = list(FAULTS).index(name) * 7
    came = sum(work.ask(operation, name, first + turn) for turn, operation in enumerate(some))
    assert came >= 4, "hardly a fault came to be"
