"""A real daemon and a real SDK, each on a faulty disk of its own: what the caller is told, and what stays.

Every single call of the code below both is failed in test_faulty_disk.py; this is about the whole way to the caller.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon
from support.faulty_fs import CHANGES, GROWS, HALF_EIO, SHORT, TORN, FaultyDisk, Op

SYNCS = frozenset({Op.SYNC, Op.SYNC_FOLDER})
WRITES = frozenset({Op.WRITE})
BUT_SYNCS = CHANGES - SYNCS
STORE = {"store-full", "store-failed"}


class Pair:
    """A daemon and an SDK's process, each with its own disk over one home."""

    def __init__(self, place: Path) -> None:
        home = place / "home"
        self.theirs = FaultyDisk(home, place / "daemon-rules")
        self.ours = FaultyDisk(home, place / "sdk-rules")
        self.daemon = Daemon(home, settings=self.theirs.environment())
        self.daemon.__enter__()
        self._sdk = subprocess.Popen(
            [sys.executable, "-m", "support.faulty_sdk", str(home)],
            cwd=Path(__file__).parents[1],
            env=os.environ | self.ours.environment() | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._answer() == "ready"
        self._seed, self.repeat = 0, False
        self.kept: list[str] = [self.save("kept")["saved"]]

    def _answer(self) -> Any:
        assert self._sdk.stdout is not None
        return json.loads(self._sdk.stdout.readline() or '"it ended"')

    def ask(self, **asked: Any) -> dict[str, Any]:
        assert self._sdk.stdin is not None
        self._sdk.stdin.write(json.dumps(asked) + "\n")
        self._sdk.stdin.flush()
        found: dict[str, Any] = self._answer()
        return found

    def save(self, session: str = "s") -> dict[str, Any]:
        self._seed += not self.repeat
        self.repeat = False
        return self.ask(do="save", session=session, seed=self._seed)

    def well_again(self) -> None:
        """Nothing that was acknowledged is lost, nothing listed is broken, and a save goes through: without a restart."""
        self.theirs.disarm()
        self.ours.disarm()
        self.kept.append(self.save()["saved"])
        answer = self.daemon.request("GET", "/v1/backups", params={"limit": 1000})
        listed = [backup["id"] for backup in answer.json()["backups"]]
        assert set(listed) >= set(self.kept)
        for backup_id in listed:
            found = self.ask(do="restore", ref=backup_id, require="full" if backup_id in self.kept else None)
            assert "mode" in found, found
            if backup_id not in self.kept[:2] and backup_id != self.kept[-1]:
                assert self.daemon.request("DELETE", f"/v1/backups/{backup_id}").status_code == 204
        self.kept = [*self.kept[:2], self.kept[-1]]
        left = list((self.daemon.home / "store" / "staging").rglob("*.tmp"))
        assert not left, left

    def close(self) -> None:
        assert self._sdk.stdin is not None
        assert self._sdk.stdout is not None
        self._sdk.stdin.close()
        assert self._sdk.wait(30) == 0
        self._sdk.stdout.close()
        assert self.daemon.stop() == 0
        self.daemon.__exit__()


@pytest.fixture(autouse=True)
def _well_again(pair: Pair) -> Iterator[None]:
    yield
    pair.theirs.disarm()
    pair.ours.disarm()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    found = Pair(tmp_path_factory.mktemp("pair"))
    yield found
    found.close()


FAULTS = {
    "full disk": (GROWS, errno.ENOSPC),
    "quota of the system": (GROWS, errno.EDQUOT),
    "I/O errors": (WRITES, errno.EIO),
    "torn writes": (WRITES, HALF_EIO),
    "fsync fails": (SYNCS, errno.EIO),
    "rename fails": (frozenset({Op.RENAME}), errno.EIO),
    "remounted read-only": (BUT_SYNCS, errno.EROFS),
}


@pytest.mark.parametrize("where", ["manifests", "index.sqlite", ""])
@pytest.mark.parametrize("what", FAULTS)
def test_a_save_while_the_daemons_disk_fails(pair: Pair, what: str, where: str) -> None:
    pair.theirs.arm(*FAULTS[what], path=where, times=0)
    found = pair.save()
    assert found.get("error") in STORE or "saved" in found, found
    if "saved" in found:
        pair.kept.append(found["saved"])
    if where == "":
        assert "error" in found
    pair.well_again()


@pytest.mark.parametrize("what", FAULTS)
def test_a_save_while_the_sdks_disk_fails(pair: Pair, what: str) -> None:
    pair.ours.arm(*FAULTS[what], times=0)
    found = pair.save()
    assert found.get("error") in STORE, found
    pair.well_again()


def test_short_writes_are_gone_on_with(pair: Pair) -> None:
    for disk in (pair.ours, pair.theirs):
        disk.arm(WRITES, SHORT, times=0, path="staging")
    found = pair.save()
    assert "saved" in found, found
    assert pair.ours.fired() > 3
    assert pair.theirs.fired() > 0
    pair.well_again()


def test_a_disk_that_lies_is_found_out(pair: Pair) -> None:
    """Half of each write is zeros, and the disk says that all is well: what comes back is never wrong."""
    with pair.ours.failing(WRITES, TORN, times=0, path="staging"):
        lied = pair.save()["saved"]
    assert pair.ask(do="restore", ref=lied)["mode"] != "full"
    assert pair.ask(do="restore", ref=lied, require="full")["error"] in {"restore-refused", "blob-damaged"}
    pair.repeat = True
    again = pair.save()["saved"]  # the same bytes: what is damaged is not shared, but written anew
    assert pair.ask(do="restore", ref=again, require="full") == {"mode": "full"}
    assert pair.ask(do="restore", ref=lied, require="full") == {"mode": "full"}
    pair.well_again()


@pytest.mark.parametrize("where", ["/blobs/", "/manifests/", "index.sqlite"])
def test_a_restore_from_a_disk_that_cannot_be_read(pair: Pair, where: str) -> None:
    """It says so, or restores what it can; what it hands over is never wrong."""
    for disk in (pair.ours, pair.theirs):
        disk.arm(frozenset({Op.READ, Op.OPEN}), errno.EIO, times=0, path=where)
    found = pair.ask(do="restore", ref=pair.kept[0])
    damaged = {"index-damaged"} if where == "index.sqlite" else set()  # so SQLite calls what it cannot read
    assert found.get("error") in STORE | damaged or "mode" in found, found
    assert where != "/blobs/" or found["mode"] != "full", "a session whose KV cache cannot be read wakes without it"
    pair.well_again()
    assert pair.ask(do="restore", ref=pair.kept[0], require="full") == {"mode": "full"}


@pytest.mark.parametrize("what", FAULTS)
def test_a_removal_while_the_daemons_disk_fails(pair: Pair, what: str) -> None:
    backup_id = pair.save()["saved"]
    pair.theirs.arm(*FAULTS[what], times=0)
    answer = pair.daemon.request("DELETE", f"/v1/backups/{backup_id}")
    assert answer.status_code == 204 or answer.json()["code"] in STORE, answer.text
    pair.theirs.disarm()
    assert pair.daemon.request("DELETE", f"/v1/backups/{backup_id}").status_code in (204, 404)
    pair.well_again()
