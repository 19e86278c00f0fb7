"""A home that was lived in: sessions with titles, pictures, forks and KV caches, over weeks, as a screenshot wants them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torpor.client import Capture, Keeper
from torpor.state.backup import Backup

from support.albums import Album, hike, scene
from support.daemon import Daemon

DAY_S, HOUR_S = 86_400.0, 3600.0


@dataclass(frozen=True, slots=True)
class Story:
    """A session: what was asked and answered in turn, which pictures came with it, and how long ago it was."""

    id: str
    title: str | None
    turns: tuple[str, ...]
    scenes: tuple[int, ...] = ()
    days_ago: float = 0.0
    pinned: bool = False


STORIES = (
    Story("garden-plan", "The garden behind the house", (
        "What could grow in the shade of the wall?", "Ferns, hostas and a climbing hydrangea stand the shade well.",
        "And beside the pond?", "Irises like wet feet; leave a hand's breadth for the frogs.",
        "Draw me a plan for the spring.", "I would begin with the hydrangea, since it takes longest.",
    ), (11, 12), 0.3, pinned=True),
    Story("invoices-november", "Invoices of November", (
        "Which of these invoices are not paid yet?", "Two: the one of the printer, 42.00 EUR, and the electricity.",
        "Sum them up by month.", "November: 1,284.50 EUR. October: 990.00 EUR.",
    ), (13, 14, 15), 0.9),
    Story("kyoto-trip", "京都三日游", (
        "这张照片是在哪里拍的？", "看起来是京都郊外的山，傍晚时分，月亮已经升起。", "帮我安排三天的行程。",
        "第一天：伏见稻荷与清水寺；第二天：岚山竹林；第三天：二条城与锦市场。",
    ), (16, 17), 2.2),
    Story("paper-review", "Review: sparse attention", (
        "Summarise section 3.", "It splits heads by their entropy and keeps a window for the calm ones.",
        "Is the baseline fair?", "Mostly; the prefill of the baseline runs without the same kernel.",
    ), (), 3.4),
    Story("recipe-box", "Recipes", ("What can I cook with this?", "A lentil soup, with the lemon for the end."), (18,), 5.1),
    Story("robot-arm", "Calibration of the arm", ("Read the dial for me.", "It shows 3.7 degrees, a little past the mark."), (19,), 7.5),
    Story("homework", None, ("Why is this angle a right one?", "It stands over the diameter: the theorem of Thales."), (), 10.3),
    Story("old-photos", "Grandmother's photos", ("Who may that be?", "The uniform is of about 1915, so rather her father."), (20,), 15.0),
    Story("translation", "Letter to the landlord", ("Write it more kindly.", "Dear Ms Weber, thank you for the swift answer."), (), 21.0),
)  # fmt: skip


@dataclass(eq=False)
class Seen(Album):
    """An album of which the model has seen the pictures, and whose cache is like no other's."""

    number: int = 0

    def grow(self, count: int, seed: int) -> None:
        super().grow(count, seed + self.number)

    def capture(self) -> Capture:
        made = super().capture()
        if not self.pictures:
            return made
        return replace(
            made, layers={**made.layers, "vision_cache": {"embeddings": [_seen(each) for each in self.pictures]}}
        )


def live_in(
    daemon: Daemon, now: float, *, tokens: int = 400, stories: tuple[Story, ...] = STORIES, hiking: bool = False
) -> list[Backup]:
    """Save the stories, turn by turn, as they would have been; with `hiking` a session with branches and a fork, too."""
    at = [now]
    with daemon.keeper(clock=lambda: at[0]) as keeper:
        made = [backup for story in reversed(stories) for backup in _tell(daemon, keeper, at, now, story, tokens)]
        if hiking:
            at[0] = now - 0.2 * HOUR_S
            made += hike(keeper)
            _call(daemon, "hike", "Hiking in Yunnan")
            _call(daemon, "hike-winter", "Yunnan, in winter")
    return made


def _tell(daemon: Daemon, keeper: Keeper, at: list[float], now: float, story: Story, tokens: int) -> Iterator[Backup]:
    session = Seen(name="Qwen3-VL-8B", number=zlib.crc32(story.id.encode()), layers=8, heads=8, dim=64)
    for turn in range(0, len(story.turns), 2):
        at[0] = now - story.days_ago * DAY_S + turn * 0.02 * HOUR_S
        pictures = [scene(each) for each in story.scenes] if turn == 0 else []
        session.turn(story.turns[turn], story.turns[turn + 1], *pictures, tokens=tokens)
        newest = keeper.save(story.id, session).wait(60)
        yield newest
    _call(daemon, story.id, story.title)
    if story.pinned:
        daemon.request("PATCH", f"/v1/backups/{newest.id}", json={"pinned": True})


def _call(daemon: Daemon, session_id: str, title: str | None) -> None:
    daemon.request("PATCH", f"/v1/sessions/{session_id}", json={"title": title})


def _seen(picture: bytes) -> torch.Tensor:
    """Make what a vision tower of some size would say of a picture."""
    generator = torch.Generator().manual_seed(sum(picture[:2000]))
    return torch.randn(300, 1024, generator=generator).to(torch.bfloat16)
