"""The collector beside saves, restores, removals, evictions and crashes, in every order: nothing that is needed goes.

Over real files and a real index (tests/support/local_world.py). Hypothesis decides, and tells what it finds in few steps;
walks that a seed decides find more in the same time.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from support.local_world import BLOCKS, HOUR, YEAR, Work, World
from support.planted_local_bugs import BUGS, RARE, Bug, Story

SOAK = bool(os.environ.get("TORPOR_SOAK"))
EXAMPLES, WALKS, FOUND_IN = (2000, 4000, 2000) if SOAK else (8, 15, 0)
FOUND = r"has a hole|garbage|harmed|told wrongly|counted on it"
STEPS = 60
WEIGHTS = {"step": 60, "save": 12, "collect": 8, "restore": 5, "remove": 8, "wait": 12, "evict": 2, "kill": 2}
WEIGHTS |= {"restart": 1, "purge": 1, "stray": 2}
MEMORY = "/dev/shm" if os.path.isdir("/dev/shm") else None  # nothing here loses power, and a disk is slow to sync
WAITS = [60.0, 10 * 60.0, 2 * HOUR, 25 * HOUR, 25 * HOUR, YEAR, -YEAR]


CHOICES, BLOCK = st.integers(0, 1000), st.integers(0, len(BLOCKS) - 1)


class Local(RuleBasedStateMachine):
    """One machine, two sessions, one collector."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="torpor-", dir=MEMORY))
        patch = self._stack.enter_context(pytest.MonkeyPatch.context())
        self.world = World(Path(folder) / "home", patch)
        self._stack.callback(self.world.close)

    def work(self, which: int) -> Work:
        return self.world.works[which % len(self.world.works)]

    def backup(self, which: int) -> str:
        listed = self.world.listed()
        return listed[which % len(listed)]

    @precondition(lambda self: self.world.works)
    @rule(which=CHOICES, count=st.sampled_from([1, 1, 2, 5, 20]))
    def step(self, which: int, count: int) -> None:
        self.world.step(self.work(which), count)

    @rule(session=st.integers(0, 1), kept=st.integers(0, 3), new=st.lists(BLOCK, min_size=1, max_size=3, unique=True))
    def save(self, session: int, kept: int, new: list[int], *, commit_fails: bool = False) -> None:
        mine = self.world.sessions[session]
        self.world.save(mine, mine.blocks[:kept] + new, commit_fails=commit_fails)

    @rule(session=st.integers(0, 1), new=st.lists(BLOCK, min_size=1, max_size=3, unique=True))
    def stray(self, session: int, new: list[int]) -> None:
        self.save(session, 1, new, commit_fails=True)

    @rule()
    def collect(self) -> None:
        self.world.collect()

    @precondition(lambda self: self.world.listed())
    @rule(which=CHOICES)
    def restore(self, which: int) -> None:
        self.world.restore(self.backup(which))

    @precondition(lambda self: self.world.listed())
    @rule(which=CHOICES, purge=st.sampled_from([False, False, False, True]))
    def remove(self, which: int, purge: bool) -> None:
        self.world.remove(self.backup(which), purge=purge)

    @precondition(lambda self: self.world.listed())
    @rule(which=CHOICES)
    def evict(self, which: int) -> None:
        self.world.evict(self.backup(which))

    @rule(seconds=st.sampled_from(WAITS))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @precondition(lambda self: self.world.works)
    @rule(which=CHOICES)
    def kill(self, which: int) -> None:
        self.world.kill(self.work(which))

    @rule()
    def restart(self) -> None:
        self.world.restart()

    def teardown(self) -> None:
        try:
            self.world.settle()
        finally:
            self._stack.close()


def walk(seed: int) -> Counter[str]:
    """Let chance decide, as the seed has it."""
    chance, local = random.Random(seed), Local()
    world = local.world
    try:
        for move in chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=STEPS):
            which, session, listed = chance.randrange(1000), chance.randrange(2), world.listed()
            new = chance.sample(range(len(BLOCKS)), chance.randrange(1, 4))
            match move:
                case "step" | "kill" if world.works:
                    chosen = chance.choice(world.works)
                    world.kill(chosen) if move == "kill" else world.step(chosen, chance.choice([1, 1, 2, 5, 20]))
                case "save" | "stray":
                    local.save(session, chance.randrange(4), new, commit_fails=move == "stray")
                case "collect" | "restart":
                    getattr(world, move)()
                case "restore" | "evict" if listed:
                    getattr(local, move)(which)
                case "remove" | "purge" if listed:
                    local.remove(which, move == "purge")
                case "wait":
                    world.wait(chance.choice(WAITS))
    except BaseException:
        local._stack.close()
        raise
    local.teardown()
    return world.seen


def test_nothing_that_is_needed_goes() -> None:
    steps = settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None)
    run_state_machine_as_test(Local, settings=steps)


def test_walks() -> None:
    seen: Counter[str] = Counter()
    for seed in range(WALKS):
        seen += walk(seed)
    print(seen)
    assert seen.keys() >= {"save:done", "restore:done", "collect:done", "evict", "remove", "restart"}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="torpor-", dir=MEMORY) as folder:
        made = World(Path(folder) / "home", monkeypatch)
        yield made
        made.close()


@pytest.mark.parametrize("story", list(dict.fromkeys(BUGS.values())), ids=lambda story: story.__name__)
def test_stories_end_well(story: Story, world: World) -> None:
    story(world)
    world.settle()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug: Bug, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError, match=FOUND):
        BUGS[bug](world)
        world.settle()


@pytest.mark.soak
@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug not in RARE], ids=lambda bug: bug.__name__)
def test_walks_find_a_planted_bug(bug: Bug, monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError, match=FOUND):
        for seed in range(FOUND_IN):
            walk(seed)
