"""Who is attached and what is asked of them, on a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from torpor.daemon import attached as channel
from torpor.daemon.attached import HUNG_UP_S, MAX_ATTACHED, SILENT_S, About, Attachments, Work
from torpor.state.errors import BlobDamaged, Conflict, NoProcess, NotFound, SessionNotFound, Timeout, Unavailable


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def stays() -> None:
    await asyncio.Event().wait()


async def left() -> None:
    return


def about(*sessions: str, name: str = "p") -> About:
    return About(name, 1, None, sessions)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def attached(clock: Clock) -> Attachments:
    return Attachments(clock, clock)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(), 20)

    asyncio.run(bounded())


async def serve(attached: Attachments, name: str, answer: Callable[[Work], Any]) -> Work:
    """Take one piece of work and answer it."""
    found: list[Work] = []
    while not found:
        found = await attached.take(name, (), 5.0, stays)
    [work] = found
    attached.answer(name, work.id, answer(work))
    return work


def test_work_goes_to_the_process_that_holds_the_session_and_its_answer_back(attached: Attachments) -> None:
    async def test() -> None:
        attached.announce("a", about("s", "t"))
        attached.announce("b", about("u"))
        served = asyncio.create_task(serve(attached, "a", lambda work: {"saved": work.session_id}))
        assert await attached.ask("save", session_id="t", small=True) == {"saved": "t"}
        work = await served
        assert (work.kind, work.session_id, work.small) == ("save", "t", True)
        assert [each["working"] for each in attached.describe()] == [0, 0]
        asked = asyncio.create_task(attached.ask("plan", backup_id="x"))  # nobody named it: the newest
        await serve(attached, "b", lambda work: {})
        assert await asked == {}

    run(test)


def test_a_session_that_began_since_the_last_word_is_found(attached: Attachments) -> None:
    async def test() -> None:
        attached.announce("a", about("s"))
        attached.announce("b", about("u"))
        asked = asyncio.create_task(attached.ask("save", session_id="new"))
        await serve(attached, "b", lambda work: SessionNotFound("not here"))
        await serve(attached, "a", lambda work: {"saved": "new"})
        assert await asked == {"saved": "new"}
        asked = asyncio.create_task(attached.ask("save", session_id="none"))
        for name in ("b", "a"):
            await serve(attached, name, lambda work: SessionNotFound("not here"))
        with pytest.raises(NoProcess, match="no attached process holds session none"):
            await asked

    run(test)


def test_what_a_process_fails_with_is_raised(attached: Attachments) -> None:
    async def test() -> None:
        attached.announce("a", about("s"))
        asked = asyncio.create_task(attached.ask("restore", session_id="s"))
        await serve(attached, "a", lambda work: BlobDamaged("gone"))
        with pytest.raises(BlobDamaged, match="gone"):
            await asked

    run(test)


def test_a_save_of_all_asks_everybody_and_tells_of_each(attached: Attachments) -> None:
    async def test() -> None:
        for name in ("a", "b", "c"):
            attached.announce(name, about(name))
        asked = asyncio.create_task(attached.ask("save"))
        await serve(attached, "a", lambda work: {"success": True, "backups": [1], "failed": []})
        await serve(attached, "b", lambda work: {"success": False, "backups": [], "failed": [2]})
        await serve(attached, "c", lambda work: BlobDamaged("gone"))
        found = await asked
        assert (found["success"], found["backups"], len(found["failed"])) == (True, [1], 2)

    run(test)


def test_nobody_is_attached(attached: Attachments) -> None:
    async def test() -> None:
        for kind in ("save", "restore", "plan"):
            with pytest.raises(NoProcess, match="no inference process is attached"):
                await attached.ask(kind, session_id="s")  # type: ignore[arg-type]
        with pytest.raises(NotFound, match="not attached"):
            await attached.take("a", (), 0.0, stays)
        with pytest.raises(NotFound):
            attached.answer("a", "w", {})
        attached.leave("a")

    run(test)


@pytest.mark.parametrize(("hang_up", "lost_after_s"), [(left, HUNG_UP_S), (stays, SILENT_S)])
def test_a_process_that_does_not_come_back_is_forgotten(
    attached: Attachments, clock: Clock, hang_up: Any, lost_after_s: float
) -> None:
    async def test() -> None:
        attached.announce("a", about("s"))
        assert await attached.take("a", (), 0.0 if hang_up is stays else 5.0, hang_up) == []
        asked = asyncio.create_task(attached.ask("save", session_id="s"))
        await asyncio.sleep(0)
        clock.now += lost_after_s - 0.1
        assert attached.any()
        clock.now += 0.2
        with pytest.raises(NoProcess, match="ended, or does not answer"):
            await asked
        assert (attached.any(), attached.describe()) == (False, [])

    run(test)


def test_an_open_poll_keeps_a_process_for_as_long_as_it_is(attached: Attachments, clock: Clock) -> None:
    async def test() -> None:
        attached.announce("a", about("s"))
        polling = asyncio.create_task(attached.take("a", (), 5.0, stays))
        await asyncio.sleep(0)
        clock.now += 100 * SILENT_S
        assert attached.any()
        attached.leave("a")
        with pytest.raises(NotFound):
            await polling

    run(test)


def test_whoever_shows_who_is_attached_learns_that_a_process_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "HUNG_UP_S", 0.01)
    attached, seen = Attachments(), list[int]()
    attached.tell(lambda: seen.append(len(attached.describe())))

    async def play() -> None:
        attached.announce("A", about())
        await attached.take("A", (), 5.0, left)  # it hangs up, since it was killed
        while len(seen) < 2:
            await asyncio.sleep(0.01)

    run(play)
    assert seen == [1, 0]


def test_work_that_was_lost_on_its_way_is_handed_out_again(attached: Attachments) -> None:
    async def test() -> None:
        attached.announce("a", about("s"))
        asked = asyncio.create_task(attached.ask("save", session_id="s"))
        [work] = await attached.take("a", (), 5.0, stays)
        assert await attached.take("a", (), 5.0, stays) == [work]
        assert await attached.take("a", (work.id,), 0.0, stays) == []
        attached.answer("a", work.id, {"n": 1})
        assert await asked == {"n": 1}
        with pytest.raises(NotFound, match="nobody waits"):
            attached.answer("a", work.id, {"n": 2})

    run(test)


def test_a_second_poll_takes_the_place_of_the_first(attached: Attachments) -> None:
    async def test() -> None:
        attached.announce("a", about("s"))
        first = asyncio.create_task(attached.take("a", (), 5.0, stays))
        await asyncio.sleep(0)
        second = asyncio.create_task(attached.take("a", (), 5.0, stays))
        assert await first == []
        asked = asyncio.create_task(attached.ask("save", session_id="s"))
        [work] = await second
        attached.answer("a", work.id, {})
        assert await asked == {}

    run(test)


def test_who_asks_does_not_wait_for_ever(attached: Attachments, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "_LOOK_S", 0.01)

    async def test() -> None:
        attached.announce("a", about("s"))
        polling = asyncio.create_task(attached.take("a", (), 5.0, stays))
        await asyncio.sleep(0)
        asked = asyncio.create_task(attached.ask("save", session_id="s", timeout_s=9.0))
        [work] = await polling
        clock.now += 9.0
        with pytest.raises(Timeout):
            await asked
        with pytest.raises(NotFound):
            attached.answer("a", work.id, {})

    run(test)


def test_a_daemon_that_stops_lets_everybody_go(attached: Attachments) -> None:
    async def test() -> None:
        attached.announce("a", about("s"))
        asked = asyncio.create_task(attached.ask("save", session_id="s"))
        await attached.take("a", (), 5.0, stays)
        polling = asyncio.create_task(attached.take("a", ("x",), 5.0, stays))
        await asyncio.sleep(0)
        attached.close()
        for waiting in (asked, polling):
            with pytest.raises(Unavailable, match="being stopped"):
                await waiting
        with pytest.raises(Unavailable):
            attached.announce("b", about())
        with pytest.raises(Unavailable):
            await attached.ask("save")

    run(test)


def test_there_is_an_end_to_processes_and_to_their_work(attached: Attachments) -> None:
    async def test() -> None:
        for number in range(MAX_ATTACHED):
            attached.announce(f"p{number}", about())
        attached.announce("p0", about("s"))  # anew
        with pytest.raises(Conflict):
            attached.announce("one more", about())
        asked = [asyncio.create_task(attached.ask("plan", session_id="s")) for _ in range(channel.MAX_WORK)]
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="too much"):
            await attached.ask("plan", session_id="s")
        attached.leave("p0")
        for each in asked:
            with pytest.raises(NoProcess, match="detached"):
                await each

    run(test)
