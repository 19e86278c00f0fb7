"""Tokens for beacons: one use, one page, some hours."""

from __future__ import annotations

import pytest
from torpor.daemon.beacons import LIVES_S, MAX_AT_ONCE, MAX_OF_ORIGIN, MAX_ORIGINS, Beacons
from torpor.state.access import Access
from torpor.state.errors import ScopeDenied, TooManyAttempts, Unauthorized

PAGE, OTHER = "https://page.example", "https://other.example"


class World:
    """A clock, and origins whose right to save was taken away."""

    def __init__(self) -> None:
        self.now, self.revoked = 100.0, set[str]()
        self.beacons = Beacons(lambda origin: origin not in self.revoked, lambda: self.now)

    def give(self, origin: str = PAGE, count: int = 1) -> list[str]:
        return self.beacons.give(Access("page", frozenset({"save"}), origin), count)


@pytest.fixture
def world() -> World:
    return World()


def test_a_token_opens_once(world: World) -> None:
    (token,) = world.give()
    world.beacons.take(PAGE, token)
    with pytest.raises(Unauthorized):
        world.beacons.take(PAGE, token)


def test_a_token_is_one_page_s(world: World) -> None:
    (token,) = world.give()
    with pytest.raises(Unauthorized):
        world.beacons.take(OTHER, token)
    world.beacons.take(PAGE, token)  # and a stranger's try takes nothing away


def test_a_token_grows_old(world: World) -> None:
    early, late = world.give(count=2)
    world.now += LIVES_S - 1
    world.beacons.take(PAGE, early)
    world.now += 1
    with pytest.raises(Unauthorized):
        world.beacons.take(PAGE, late)


def test_a_token_ends_with_the_page_s_right(world: World) -> None:
    (token,) = world.give()
    world.revoked.add(PAGE)
    with pytest.raises(ScopeDenied):
        world.beacons.take(PAGE, token)


def test_whoever_is_no_page_needs_none(world: World) -> None:
    assert world.beacons.give(Access("owner", frozenset({"owner"})), 3) == []


def test_there_is_an_end_to_tokens(world: World) -> None:
    assert len(world.give(count=1000)) == MAX_AT_ONCE
    (first,) = world.give(OTHER)
    tokens = [token for _ in range(MAX_OF_ORIGIN // MAX_AT_ONCE) for token in world.give(OTHER, MAX_AT_ONCE)]
    with pytest.raises(Unauthorized):
        world.beacons.take(OTHER, first)
    world.beacons.take(OTHER, tokens[0])
    for number in range(MAX_ORIGINS):
        world.give(f"https://page{number}.example")
    with pytest.raises(Unauthorized):
        world.beacons.take(OTHER, tokens[1])


def test_tokens_cannot_be_tried_without_end(world: World) -> None:
    (token,) = world.give()
    with pytest.raises(TooManyAttempts):
        for number in range(1000):
            try:
                world.beacons.take(PAGE, f"{number}\udc00")
            except Unauthorized:
                continue
    world.beacons.take(PAGE, token)  # the right one is never held back
