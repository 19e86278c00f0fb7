"""kill -9 at every point of a group's commit: after it, all members are there or none is.

Most of it runs the daemon's own parts in a process that is killed, without its server: that is where the points are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.caches import CacheSession, CacheTarget
from support.daemon import Daemon
from support.manifests import manifest
from support.workers import messages, start_group_commit, start_group_worker
from torpor.codec import manifest_file
from torpor.daemon.catalog import Catalog
from torpor.daemon.compose import compose
from torpor.daemon.groups import Groups
from torpor.daemon.reconcile import reconcile
from torpor.daemon.settings import Settings
from torpor.state.crash_points import DAEMON_POINTS, GROUP_POINTS, UNDO_POINTS
from torpor.state.errors import GroupNotFound, StoreFull
from torpor.state.manifest import GroupRef
from torpor.store.home import Home

GROUP = "01M81P35719XNDZ4R57NMVGR0P"
NAMES = ["a", "b", "c"]
OTHER = manifest(id="01M81P35719XNDZ4R57NMVB000", session_id="before", layers={}, kv_cache=None)
ONCE = "manifest.directory-synced"  # for all of them
POINTS = [f"{p}:{n}" for p in DAEMON_POINTS if p.startswith("manifest.") for n in (1, 2, 3) if n == 1 or p != ONCE]
POINTS += [p for p in DAEMON_POINTS if p.startswith("index.")] + list(GROUP_POINTS)
LASTING = ("index.committed", "group.indexed", "group.settled")  # the transaction is through


def body() -> bytes:
    group = GroupRef(GROUP, "g", len(NAMES))
    members = [
        manifest(id=f"01M81P35719XNDZ4R57NMVA{n:03d}", session_id=name, layers={}, kv_cache=None, group=group)
        for n, name in enumerate(NAMES)
    ]
    return b'{"manifests":[' + b",".join(map(manifest_file.dump, members)) + b"]}"


@contextmanager
def opened(home: Path) -> Iterator[Catalog]:
    """The daemon's parts as after a start."""
    with ExitStack() as stack:
        Home(home).create()
        catalog = compose(Home(home), Settings(), stack)
        reconcile(catalog)
        yield catalog


@pytest.fixture
def with_one(home: Path) -> Path:
    with opened(home) as catalog:
        catalog.commit(OTHER.id, manifest_file.dump(OTHER))
    return home


def killed_at(home: Path, point: str) -> None:
    process, pipe = start_group_commit(home, point, GROUP, body())
    said = messages(pipe, process, 60)
    assert process.exitcode == -9, said


def whole_or_nothing(home: Path) -> bool:
    """Start again and look; return whether the group is there. What was there before stays."""
    with opened(home) as catalog:
        found = {b.session_id for b in catalog.index.list_backups()}
        assert found in ({"before"}, {"before", *NAMES})
        assert len(list(catalog.manifests.ids())) == len(found)
        assert list((home / "store" / "groups").iterdir()) == []
        assert list((home / "store" / "trash").iterdir()) == []
        groups, there = Groups(catalog), len(found) > 1
        if not there:
            with pytest.raises(GroupNotFound):
                groups.find("g")
        again = groups.commit(GROUP, body())  # what the SDK does
        assert [b.session_id for b in again.backups] == NAMES
    return there


@pytest.mark.parametrize("point", POINTS)
def test_all_or_none(with_one: Path, point: str) -> None:
    killed_at(with_one, point)
    assert whole_or_nothing(with_one) == (point in LASTING)


@pytest.mark.parametrize("point", UNDO_POINTS)
@pytest.mark.parametrize("before", ["manifest.replaced:2", "group.indexed"])
def test_the_start_after_it_is_killed_too(with_one: Path, point: str, before: str) -> None:
    killed_at(with_one, before)
    killed_at(with_one, point)
    assert whole_or_nothing(with_one) == (before == "group.indexed")


def test_the_index_is_lost_with_a_group_half_written(with_one: Path) -> None:
    killed_at(with_one, "manifest.replaced:2")
    for path in with_one.glob("index.sqlite*"):
        path.unlink()
    assert not whole_or_nothing(with_one)


@pytest.mark.parametrize("failing", [1, 3])
def test_a_disk_that_is_full_in_the_middle(with_one: Path, failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(with_one) as catalog:
        real, calls = catalog.manifests.stage, 0

        def stage(*arguments: Any) -> Path:
            nonlocal calls
            calls += 1
            if calls == failing:
                raise StoreFull("no room")
            return real(*arguments)

        monkeypatch.setattr(catalog.manifests, "stage", stage)
        with pytest.raises(StoreFull):
            Groups(catalog).commit(GROUP, body())
        assert list(catalog.manifests.ids()) == [OTHER.id]
        assert catalog.pending_groups.ids() == set()
    assert not whole_or_nothing(with_one)


def test_the_sdk_waits_for_the_daemon_to_come_back(home: Path) -> None:
    agents: dict[str, CacheSession] = {}
    with Daemon(home, crash_at="manifest.replaced:2") as daemon, daemon.keeper() as keeper:
        for seed, name in enumerate(NAMES):
            agents[name] = CacheSession()
            agents[name].grow(100, seed)
        handle = keeper.save_group("g", agents)
        assert daemon.join(60) == -9
        with Daemon(home):
            assert sorted(handle.wait(60)) == NAMES
            woken = keeper.restore_group("g", {name: CacheTarget() for name in agents}, require="full")
            assert {n: r.session.digest() for n, r in woken.items()} == {n: s.digest() for n, s in agents.items()}


@pytest.mark.parametrize("point", ["save.captured", "save.blobs-done:2", "save.acknowledged"])
def test_the_sdk_is_killed(shared_daemon: Daemon, point: str) -> None:
    """All members or none, whatever was written of their blobs."""
    name = f"killed-{point.replace(':', '.')}"
    process, pipe = start_group_worker(shared_daemon.home, point, name)
    said = messages(pipe, process, 60)
    assert process.exitcode == -9, said
    answer = shared_daemon.request("GET", f"/v1/groups/{name}")
    if point == "save.acknowledged":
        assert [b["session_id"] for b in answer.json()["backups"]] == NAMES
    else:
        assert answer.status_code == 404
