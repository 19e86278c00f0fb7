"""Many who wait for events cost the index no more than one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from torpor.daemon import event_feed
from torpor.daemon.changes import Changes
from torpor.daemon.event_feed import EventFeed
from torpor.db.index import Index


class Counting(Index):
    """An index that counts how often it is read."""

    reads = 0
    changes: Changes

    @contextmanager
    def reading(self) -> Iterator[Any]:
        self.reads += 1
        with super().reading() as connection:
            yield connection


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Counting]:
    made = Counting(tmp_path / "index.sqlite")
    made.changes = Changes()
    made.tell(made.changes.note)
    yield made
    made.close()


def add(index: Index, detail: str) -> None:
    index.add_event(at=1.0, level="info", kind="test", detail=detail)


def test_a_hundred_wait_and_one_looks(index: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_feed, "LOOK_S", 0.05)
    feed = EventFeed(index, index.changes)
    add(index, "before")

    async def wait() -> list[tuple[list[dict[str, Any]], int]]:
        waits = [asyncio.create_task(feed.wait_after(1, 10, 0.5)) for _ in range(100)]
        return await asyncio.gather(*waits)

    assert asyncio.run(wait()) == [([], 1)] * 100
    assert index.reads == 100  # each once; nothing changed, so nobody looks again


def test_what_changes_is_looked_at_once_for_all(index: Counting) -> None:
    feed = EventFeed(index, index.changes)
    add(index, "before")

    async def wait() -> list[tuple[list[dict[str, Any]], int]]:
        waits = [asyncio.create_task(feed.wait_after(1, 10, 0.5)) for _ in range(100)]
        await asyncio.sleep(0.1)
        await asyncio.to_thread(index.changes.note)
        return await asyncio.gather(*waits)

    before = index.reads
    assert asyncio.run(wait()) == [([], 1)] * 100
    assert index.reads - before == 101


def test_who_waits_hears_at_once(index: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_feed, "LOOK_S", 20.0)  # a pause between two looks, and none before the first
    feed = EventFeed(index, index.changes)

    async def wait() -> list[dict[str, Any]]:
        waiting = asyncio.create_task(feed.wait_after(0, 10, 20.0))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(add, index, "now")
        found, _ = await asyncio.wait_for(waiting, 10)
        return found

    assert [event["detail"] for event in asyncio.run(wait())] == ["now"]


def test_who_may_wait_no_longer_is_told_at_once(index: Counting) -> None:
    feed, may = EventFeed(index, index.changes), [True]

    async def read() -> list[bytes]:
        told = []

        async def follow() -> None:
            async for each in feed.stream(0, lambda: may[0]):
                told.append(each)

        following = asyncio.create_task(follow())
        await asyncio.sleep(0.05)
        may[0] = False
        index.changes.note()
        await asyncio.wait_for(following, 10)
        return told

    assert asyncio.run(read()) == [b"retry: 1000\n\n"]


def test_all_of_them_are_told(index: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_feed, "LOOK_S", 0.02)
    feed = EventFeed(index, index.changes)

    async def wait(after: int) -> list[list[dict[str, Any]]]:
        waits = [asyncio.create_task(feed.wait_after(after, 10, 20.0)) for _ in range(20)]
        await asyncio.sleep(0)
        await asyncio.to_thread(add, index, f"behind {after}")
        return [found for found, _ in await asyncio.gather(*waits)]

    for after in (0, 1):
        told = asyncio.run(wait(after))
        assert [[event["detail"] for event in each] for each in told] == [[f"behind {after}"]] * 20
        feed = EventFeed(index, index.changes)


def test_a_stream_tells_that_something_changed_and_no_more_often_than_that(
    index: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_feed, "LOOK_S", 0.01)
    monkeypatch.setattr(event_feed, "CHANGED_EVERY_S", 0.05)

    def change() -> None:
        with index.writing():
            pass

    async def read() -> list[bytes]:
        feed, told = EventFeed(index, index.changes), []
        stream = feed.stream(0, beat_s=20.0)
        assert await anext(stream) == b"retry: 1000\n\n"
        waiting = asyncio.ensure_future(anext(stream))
        for _ in range(100):
            await asyncio.to_thread(change)
        while not told or told[-1].startswith(b"event: changed"):
            told.append(await waiting)
            if len(told) == 1:
                await asyncio.to_thread(add, index, "an event of its own")
            waiting = asyncio.ensure_future(anext(stream))
        told.append(await waiting)
        feed.close()
        return told

    told = asyncio.run(read())
    kinds = [each.split(b"\n")[0] for each in told]
    assert kinds == [b"event: changed"] * (len(kinds) - 2) + [b"id: 1", b"event: changed"]
    assert 3 <= len(kinds) < 50  # of a hundred changes
    for each, after in zip((told[0], told[-1]), (0, 1), strict=True):
        said = orjson.loads(each.partition(b"data: ")[2])
        assert (said["kind"], said["id"]) == ("changed", after)


def test_what_changes_between_the_answers_head_and_its_body_is_told(index: Counting) -> None:
    """Whoever hears the head asks at once how everything is: what changes behind that is news."""
    feed = EventFeed(index, index.changes)

    async def read() -> list[bytes]:
        stream = feed.stream(0)
        add(index, "meanwhile")
        told: list[bytes] = []
        async with asyncio.timeout(20):
            async for each in stream:
                told.append(each)
                if b"event: changed" in each:
                    return told
        return told

    told = asyncio.run(read())
    assert [b"meanwhile" in each for each in told] == [False, True, False]
