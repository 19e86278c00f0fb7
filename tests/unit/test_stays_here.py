"""A session that stays on this machine: so does what is made out of it, and no damaged file sends it away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.manifests import manifest
from torpor.codec import manifest_file
from torpor.daemon.catalog import Catalog
from torpor.daemon.compose import compose
from torpor.daemon.index_care import settle_index
from torpor.daemon.reconcile import reconcile
from torpor.daemon.settings import load_settings
from torpor.db.derive import Derived, derive
from torpor.db.outbox import OutboxTable
from torpor.store.home import Home
from torpor.store.sidecars import Sidecar


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create()
    return made


@pytest.fixture
def catalog(home: Home) -> Iterator[Catalog]:
    with ExitStack() as stack:
        opened = compose(home, load_settings(), stack)
        opened.queue_with(lambda: None)
        yield opened


def commit(catalog: Catalog, number: int, session_id: str, parent_id: str | None = None) -> str:
    layers = {"text_context": {"messages": []}}
    made = manifest(
        id=f"01M81P35719XNDZ4R57NMV{number:04d}",
        session_id=session_id,
        parent_id=parent_id,
        kv_cache=None,
        layers=layers,
    )
    return catalog.commit(made.id, manifest_file.dump(made)).id


def queued(catalog: Catalog) -> list[str]:
    return [entry.item.session_id for entry in OutboxTable(catalog.index).entries("pending", 100)]


def test_a_fork_of_a_session_that_stays_here_stays_here(catalog: Catalog) -> None:
    catalog.set_no_sync("private", True)
    first = commit(catalog, 1, "private")
    fork = commit(catalog, 2, "private-fork", first)
    commit(catalog, 3, "fork-of-the-fork", fork)
    commit(catalog, 4, "private-fork", fork)
    assert queued(catalog) == []
    assert derive(catalog.index, None, 1.0) == Derived(0, 0)
    commit(catalog, 5, "other")
    assert queued(catalog) == ["other"]


def test_a_fork_that_is_committed_in_the_same_moment_as_its_parent_stays_here(catalog: Catalog) -> None:
    catalog.set_no_sync("private", True)
    commit(catalog, 1, "other")
    steps = [(2, "private", None), (3, "fork", "01M81P35719XNDZ4R57NMV0002")]
    with ThreadPoolExecutor(2) as threads, catalog.locked():
        made = []
        for count, (number, session_id, parent_id) in enumerate(steps, 1):
            made.append(threads.submit(commit, catalog, number, session_id, parent_id))
            until = time.monotonic() + 30
            while len(catalog._together._waiting) < count and time.monotonic() < until:
                time.sleep(0.001)
    assert [each.result() for each in made]
    assert queued(catalog) == ["other"]
    assert catalog.sidecars.read("fork").no_sync


def test_a_fork_of_a_backup_that_was_removed_stays_here(catalog: Catalog) -> None:
    """It was woken, and goes on in a process while its backup's TTL ends."""
    catalog.set_no_sync("private", True)
    first, other = commit(catalog, 1, "private"), commit(catalog, 2, "other")
    catalog.remove(first)
    catalog.remove(other)
    commit(catalog, 3, "fork", first)
    commit(catalog, 4, "other-fork", other)
    assert queued(catalog) == ["other-fork"]
    second = commit(catalog, 5, "private")
    third = commit(catalog, 6, "private", second)
    catalog.set_no_sync("private", False)
    catalog.remove(second)
    commit(catalog, 7, "private", third)
    assert sorted(queued(catalog)) == ["other-fork", "private"]


def test_what_the_user_says_of_a_fork_holds(catalog: Catalog) -> None:
    catalog.set_no_sync("private", True)
    fork = commit(catalog, 2, "fork", commit(catalog, 1, "private"))
    catalog.set_no_sync("fork", False)
    commit(catalog, 3, "fork", fork)
    assert queued(catalog) == ["fork"]


def test_a_session_that_goes_on_from_one_that_stays_here_stays_here_from_then_on(catalog: Catalog) -> None:
    catalog.set_no_sync("private", True)
    first = commit(catalog, 1, "private")
    commit(catalog, 2, "old")
    commit(catalog, 3, "old", first)
    assert queued(catalog) == []
    assert catalog.sidecars.read("old").no_sync


def test_a_sidecar_that_cannot_be_read_sends_nothing_away(home: Home, catalog: Catalog) -> None:
    catalog.set_no_sync("private", True)
    first = commit(catalog, 1, "private")
    [sidecar] = (home.root / "store").rglob("*.json")
    sidecar.write_text("{ torn")
    commit(catalog, 2, "private", first)
    commit(catalog, 3, "fork", first)
    assert queued(catalog) == []
    assert derive(catalog.index, None, 1.0) == Derived(0, 0)


def test_a_crash_behind_the_sidecar_leaves_nothing_in_the_queue(catalog: Catalog) -> None:
    """The index did not hear of it: the next start takes out what waits, and no other session's."""
    commit(catalog, 1, "private")
    commit(catalog, 2, "other")
    catalog.sidecars.write(Sidecar("private", no_sync=True))
    settle_index(catalog, None, reconcile(catalog))
    assert catalog.index.stays_here("private")
    assert queued(catalog) == ["other"]


def test_a_session_that_goes_on_is_known_without_asking(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    catalog.set_no_sync("private", True)
    parents = dict.fromkeys(("private", "other"), commit(catalog, 1, "private"))
    asked: list[str] = []
    real = catalog.index.session_of
    monkeypatch.setattr(catalog.index, "session_of", lambda backup_id: (asked.append(backup_id), real(backup_id))[1])
    for number in range(2, 6):
        session_id = ("other", "private")[number % 2]
        parents[session_id] = commit(catalog, number, session_id, parents[session_id])
    assert len(asked) == 1  # of the fork alone, which has a parent that is not its own
    commit(catalog, 6, "other", parents["private"])
    assert asked[1:] == [parents["private"]]
    assert queued(catalog) == []
