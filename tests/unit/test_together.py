"""Work that waits for one lock: done together, in order, each with its own outcome; and so are commits."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.manifests import manifest
from torpor.daemon.catalog import Catalog
from torpor.daemon.compose import compose
from torpor.daemon.settings import Settings
from torpor.daemon.together import AT_ONCE, Outcome, Together
from torpor.state.backup import Backup
from torpor.state.errors import Conflict, MissingBlobs, StoreFailed
from torpor.state.manifest import Manifest, manifest_blobs
from torpor.store.home import Home


class Crowd:
    """Threads that ask for something while somebody has the lock."""

    def __init__(self, lock: threading.Lock, waiting: Callable[[], int]) -> None:
        self._lock, self._waiting = lock, waiting
        self.raised: dict[int, BaseException] = {}

    def ask(self, asks: Sequence[Callable[[], object]]) -> None:
        """Let all of them queue up in this order, and then go."""

        def run(number: int) -> None:
            try:
                asks[number]()
            except Exception as error:
                self.raised[number] = error

        threads = [threading.Thread(target=run, args=(number,)) for number in range(len(asks))]
        with self._lock:
            for number, thread in enumerate(threads):
                thread.start()
                until = time.monotonic() + 10
                while self._waiting() <= number:
                    assert time.monotonic() < until
        for thread in threads:
            thread.join(20)


@given(st.lists(st.sets(st.integers(0, 5), max_size=2), min_size=1, max_size=40), st.sets(st.integers(0, 39)))
def test_order_and_outcomes(keys: list[set[int]], bad: set[int]) -> None:
    """Each is done once and gets its own outcome; those that share a key are done one after the other, in order."""
    lock, batches = threading.Lock(), list[list[int]]()

    def run(items: Sequence[int]) -> list[Outcome]:
        batches.append(list(items))
        return [ValueError(item) if item in bad else None for item in items]

    together = Together(lock, run)
    crowd = Crowd(lock, lambda: len(together._waiting))
    crowd.ask([lambda n=n: together.do(n, frozenset(keys[n])) for n in range(len(keys))])
    done = [item for batch in batches for item in batch]
    assert sorted(done) == list(range(len(keys)))
    assert crowd.raised.keys() == bad & set(done)
    assert all(error.args == (number,) for number, error in crowd.raised.items())
    for batch in batches:
        assert len(batch) <= AT_ONCE
        assert not [key for key, count in Counter(key for item in batch for key in keys[item]).items() if count > 1]
    for key in range(6):
        ours = [item for item in done if key in keys[item]]
        assert ours == sorted(ours)
    if not any(keys):
        assert len(batches) == -(-len(keys) // AT_ONCE)


def test_a_defect_reaches_everybody() -> None:
    lock = threading.Lock()

    def run(items: Sequence[int]) -> list[Outcome]:
        raise KeyError("a defect")

    together = Together(lock, run)
    crowd = Crowd(lock, lambda: len(together._waiting))
    crowd.ask([lambda n=n: together.do(n, frozenset()) for n in range(3)])
    assert [type(error) for error in crowd.raised.values()] == [KeyError] * 3
    assert lock.acquire(blocking=False)


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    home = Home(tmp_path / "home")
    home.create()
    with ExitStack() as stack:
        yield compose(home, Settings(), stack)


def made(number: int, session_id: str) -> Manifest:
    return manifest(id=f"01M81P35719XNDZ4R57NMV{number:04d}", session_id=session_id)


def put_blobs(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every blob that the made-up manifests name be there."""
    monkeypatch.setattr(catalog, "_require_blobs", lambda some: None)


def counting(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    passed = Counter[str]()
    for part in (catalog.manifests, catalog.index):
        monkeypatch.setattr(part, "_checkpoint", lambda name: passed.update([name]))
    return passed


def crowd_at(catalog: Catalog) -> Crowd:
    return Crowd(catalog._lock, lambda: len(catalog._together._waiting))


def test_commits_share_a_sync_and_a_transaction(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    put_blobs(catalog, monkeypatch)
    passed, each = counting(catalog, monkeypatch), [made(n, f"s{n}") for n in range(8)]
    crowd = crowd_at(catalog)
    crowd.ask([lambda one=one: catalog.commit_all([one]) for one in each])
    assert crowd.raised == {}
    assert catalog.index.all_ids() == {one.id for one in each}
    assert passed["manifest.synced"] == passed["manifest.replaced"] == 8
    assert passed["manifest.directory-synced"] == passed["index.committed"] == 1
    assert [path.name for path in catalog.staging.folder.iterdir()] == ["lock"]


def test_who_is_refused_stops_nobody(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """One without its blobs, one whose session is taken by another of the same moment, and a repeated one."""
    blobless = made(7, "blobless")
    lost = {digest for digest, _ in manifest_blobs(blobless).items()}
    monkeypatch.setattr(
        catalog, "_require_blobs", lambda commit: _refuse(lost) if blobless in commit.manifests else None
    )
    first, second, third = made(1, "one-name"), made(2, "one-name"), made(3, "another")
    crowd = crowd_at(catalog)
    crowd.ask(
        [
            lambda: catalog.commit_all([first], new_session=True),
            lambda: catalog.commit_all([blobless]),
            lambda: catalog.commit_all([second], new_session=True),
            lambda: catalog.commit_all([third]),
            lambda: catalog.commit_all([third]),
        ]
    )
    assert {number: type(error) for number, error in crowd.raised.items()} == {1: MissingBlobs, 2: Conflict}
    assert catalog.index.all_ids() == set(catalog.manifests.ids()) == {first.id, third.id}
    assert [path.name for path in catalog.staging.folder.iterdir()] == ["lock"]


def _refuse(digests: set[str]) -> None:
    raise MissingBlobs("gone", digests=tuple(digests))


def test_one_that_fails_takes_no_other_with_it(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    put_blobs(catalog, monkeypatch)
    real, each = catalog.index.commit_backups, [made(n, f"s{n}") for n in range(4)]

    def failing(new: list[object], **options: object) -> list[Backup]:
        if any(one.record.id == each[2].id for one in new):  # type: ignore[attr-defined]
            raise StoreFailed("this one")
        return real(new, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(catalog.index, "commit_backups", failing)
    crowd = crowd_at(catalog)
    crowd.ask([lambda one=one: catalog.commit_all([one]) for one in each])
    assert {number: type(error) for number, error in crowd.raised.items()} == {2: StoreFailed}
    left = {one.id for one in each} - {each[2].id}
    assert catalog.index.all_ids() == set(catalog.manifests.ids()) == left
