"""Machines that write, read and collect in one bucket, in every order: what is synced stays, what nobody names goes.

Hypothesis decides who takes the next step, which request is lost, comes late or is never sent, who is killed or sleeps
for weeks, and how much time passes. The code is the real one (tests/support/remote_world.py). Beside its machine there
are walks that a seed decides: in the same time they found more of the mistakes of tests/support/planted_bugs.py, and
Hypothesis tells what it finds in fewer steps.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from support.planted_bugs import RARE, STORIES, Story
from support.remote_world import BLOBS, DAY, HOUR, Machine, World
from support.stepping import Fate

SOAK = bool(os.environ.get("TORPOR_SOAK"))
EXAMPLES, WALKS, FOUND_IN = (5000, 5000, 3000) if SOAK else (30, 60, 0)
STEPS = 40

# Where a machine may be left standing: before a request whose beginning is this; an empty one lets it come to its end.
_STOPS = ["", "", "", "put blobs", "put manifests", "put manifests", "list gc", "list blobs", "list manifests"]
_STOPS += ["put gc", "delete blobs", "delete blobs", "delete", "head", "get"]
_FATES: list[Fate] = ["lose", "drop", "late"]
_WAITS, _WEEKS = [HOUR, 25 * HOUR, 4 * DAY, 4 * DAY, 31 * DAY], [(4,), (4, 2), (2, 2), (4, 2, 31)]
STOPS, FATES = st.sampled_from(_STOPS), st.sampled_from(_FATES)
MACHINES = st.integers(0, 2)
SOME = st.sets(st.integers(0, BLOBS - 1), max_size=2).map(lambda found: tuple(sorted(found)))
MOST_BACKUPS = 30
WEIGHTS = {"push": 14, "collect": 14, "read": 3, "refresh": 2, "remove": 5, "evict": 3, "retire": 1, "fault": 5}
WEIGHTS |= {"kill": 2, "wait": 8, "weeks": 4, "late": 2}


class Several(RuleBasedStateMachine):
    """Two or three machines and one bucket."""

    @initialize(
        machines=st.sampled_from([2, 2, 3]),
        skews=st.lists(st.sampled_from([0.0, 300.0, -300.0]), min_size=3, max_size=3),
    )
    def begin(self, machines: int, skews: list[float]) -> None:
        self.world = World(machines)
        for machine, skew_s in zip(self.world.machines, skews, strict=False):
            machine.skew_s = skew_s

    def machine(self, number: int) -> Machine:
        return self.world.machines[number % len(self.world.machines)]

    def backup(self, number: int) -> str:
        return self.world.made[number % len(self.world.made)]

    @rule(number=MACHINES, until=STOPS, only=st.sampled_from([None, None, "text", "vision"]), text=SOME, vision=SOME)
    def push(self, number: int, until: str, only: Any, text: tuple[int, ...], vision: tuple[int, ...]) -> None:
        machine = self.machine(number)
        if "push" not in machine.actors and not any(machine.todo.values()) and len(self.world.made) < MOST_BACKUPS:
            self.world.save(machine, text or (0,), vision)
        self.world.act(machine, "push", until, only)

    @rule(number=MACHINES, until=STOPS)
    def collect(self, number: int, until: str) -> None:
        self.world.act(self.machine(number), "collect", until)

    @rule(number=MACHINES, until=STOPS)
    def refresh(self, number: int, until: str) -> None:
        self.world.act(self.machine(number), "refresh", until)

    @precondition(lambda self: self.world.made)
    @rule(number=MACHINES, until=STOPS, which=st.integers(0, MOST_BACKUPS))
    def read(self, number: int, until: str, which: int) -> None:
        self.world.act(self.machine(number), "read", until, self.backup(which))

    @precondition(lambda self: self.world.made)
    @rule(number=MACHINES, until=STOPS, which=st.integers(0, MOST_BACKUPS))
    def remove(self, number: int, until: str, which: int) -> None:
        self.world.act(self.machine(number), "remove", until, self.backup(which))

    @rule(number=MACHINES)
    def evict(self, number: int) -> None:
        self.world.evict(self.machine(number))

    @precondition(lambda self: self.world.made)
    @rule(number=MACHINES, which=st.integers(0, MOST_BACKUPS))
    def retire(self, number: int, which: int) -> None:
        self.world.drop_local(self.machine(number), self.backup(which))

    @rule(number=MACHINES, slot=st.sampled_from(["push", "collect", "read", "refresh"]), until=STOPS, fate=FATES)
    def fault(self, number: int, slot: str, until: str, fate: Any) -> None:
        self.world.fault(self.machine(number), slot, until or "list", fate)

    @rule(number=MACHINES, behind=st.booleans())
    def kill(self, number: int, behind: bool) -> None:
        self.world.kill(self.machine(number), behind=behind)

    @precondition(lambda self: self.world.late)
    @rule(which=st.integers(0, 9))
    def deliver_late(self, which: int) -> None:
        self.world.late.pop(which % len(self.world.late))()
        self.world.check()

    @rule(passes=st.sampled_from(_WAITS))
    def wait(self, passes: float) -> None:
        self.world.now += passes

    @rule(number=MACHINES, days=st.sampled_from(_WEEKS))
    def weeks(self, number: int, days: tuple[float, ...]) -> None:
        self.world.weeks(self.machine(number), days)

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.settle()


def walk(seed: int) -> World:
    """Let chance decide, as the seed has it."""
    chance = random.Random(seed)
    several = Several()
    several.begin(chance.choice([2, 2, 3]), [chance.choice([0.0, 0.0, 300.0, -300.0]) for _ in range(3)])
    world, moves = several.world, list(WEIGHTS)
    for _ in range(STEPS):
        number, which, until = chance.randrange(3), chance.randrange(MOST_BACKUPS), chance.choice(_STOPS)
        text = tuple(chance.sample(range(BLOBS), chance.choice([1, 2])))
        vision = tuple(chance.sample(range(BLOBS), chance.choice([0, 1, 2])))
        match chance.choices(moves, list(WEIGHTS.values()))[0]:
            case "push":
                several.push(number, until, chance.choice([None, None, "text", "vision"]), text, vision)
            case "collect" | "refresh" as name:
                getattr(several, name)(number, until)
            case "read" | "remove" as name if world.made:
                getattr(several, name)(number, until, which)
            case "evict":
                several.evict(number)
            case "retire" if world.made:
                several.retire(number, which)
            case "fault":
                slot = chance.choice(["push", "push", "collect", "read", "refresh"])
                several.fault(number, slot, until, chance.choice(_FATES))
            case "kill":
                several.kill(number, chance.random() < 0.5)
            case "late" if world.late:
                several.deliver_late(which)
            case "wait":
                several.wait(chance.choice(_WAITS))
            case "weeks":
                several.weeks(number, chance.choice(_WEEKS))
    several.teardown()
    return world


def test_what_is_synced_stays_and_what_nobody_names_goes() -> None:
    run_state_machine_as_test(
        Several, settings=settings(max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None)
    )


def test_walks() -> None:
    """What is synced stays, and what nobody names goes; and the walks are worth the name."""
    seen: Counter[str] = Counter()
    for seed in range(WALKS):
        seen.update(walk(seed).seen)
    assert {"adopted", "evicted", "push:Offline", "push:Killed", "collect:Killed", "read:done", "remove"} <= seen.keys()


@pytest.mark.parametrize("story", list(dict.fromkeys(STORIES.values())), ids=lambda story: story.__name__)
def test_stories_end_well(story: Story) -> None:
    world = World(3)
    story(world)
    world.settle()


@pytest.mark.parametrize("bug", STORIES, ids=lambda bug: bug.__name__)
def test_a_planted_bug_is_found(bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    world = World(3)
    with pytest.raises(AssertionError, match=r"has a hole|came back"):
        STORIES[bug](world)
        world.settle()


@pytest.mark.soak
@pytest.mark.parametrize("bug", [bug for bug in STORIES if bug not in RARE], ids=lambda bug: bug.__name__)
def test_walks_find_a_planted_bug(bug: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    bug(monkeypatch)
    with pytest.raises(AssertionError, match=r"has a hole|garbage|did not get whole|came back"):
        for seed in range(FOUND_IN):
            walk(seed)
