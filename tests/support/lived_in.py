"""A home that was lived in: sessions with titles, pictures, forks and KV caches, over weeks, as a screenshot wants them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from PIL import Image, ImageDraw
from torpor.adapters.dynamic_cache import LiveCache
from torpor.client import Capture, Keeper
from torpor.codec import torch_bridge
from torpor.state.backup import Backup
from transformers import DynamicCache

from support.caches import IDENTITY, CacheSession
from support.daemon import Daemon

DAY_S, HOUR_S = 86_400.0, 3600.0


@dataclass(frozen=True, slots=True)
class Story:
    """A session: what was asked and answered in turn, how many pictures came with it, and when it began."""

    id: str
    title: str | None
    turns: tuple[str, ...]
    pictures: tuple[str, ...] = ()
    days_ago: float = 0.0
    pinned: bool = False


STORIES = (
    Story("garden-plan", "The garden behind the house", (
        "What could grow in the shade of the wall?", "Ferns, hostas and a climbing hydrangea stand the shade well.",
        "And beside the pond?", "Irises like wet feet; leave a hand's breadth for the frogs.",
        "Draw me a plan for the spring.", "I would begin with the hydrangea, since it takes longest.",
    ), ("hills", "pond"), 0.02, pinned=True),
    Story("invoice-2026-11", "Invoices of November", (
        "Which of these invoices are not paid yet?", "Two: the one of the printer, 42.00 EUR, and the electricity.",
        "Sum them up by month.", "November: 1,284.50 EUR. October: 990.00 EUR.",
    ), ("page", "page-2", "chart"), 0.3),
    Story("kyoto-trip", "京都三日游", (
        "这张照片是在哪里拍的？", "看起来是京都的伏见稻荷大社，千本鸟居非常有名。", "帮我安排三天的行程。",
        "第一天：伏见稻荷与清水寺；第二天：岚山竹林；第三天：二条城与锦市场。",
    ), ("gate", "hills-2"), 1.2),
    Story("paper-review", "Review: sparse attention", (
        "Summarise section 3.", "It splits heads by their entropy and keeps a window for the calm ones.",
        "Is the baseline fair?", "Mostly; the prefill of the baseline runs without the same kernel.",
    ), ("chart-2",), 2.4),
    Story("recipe-box", "Recipes", ("What can I cook with this?", "A lentil soup, with the lemon for the end."), ("plate",), 4.1),
    Story("robot-arm", "Calibration of the arm", ("Read the dial for me.", "It shows 3.7 degrees, a little past the mark."), ("dial",), 6.5),
    Story("homework-geometry", None, ("Why is this angle a right one?", "It stands over the diameter: the theorem of Thales."), (), 9.3),
    Story("old-photos", "Grandmother's photos", ("Who may that be?", "The uniform is of about 1915, so rather her father."), ("gate-2",), 15.0),
    Story("translation", "Letter to the landlord", ("Write it more kindly.", "Dear Ms Weber, thank you for the swift answer."), (), 21.0),
)  # fmt: skip


@dataclass
class ChatSession(CacheSession):
    """A conversation with its pictures and a KV cache that grows with it."""

    conversation: list[dict[str, Any]] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)

    def capture(self) -> Capture:
        media = [{"media_type": "image/png", "data": data} for data in self.pictures]
        layers: dict[str, Any] = {
            "metadata": {"model_name": "Qwen3-VL-8B-Instruct"},
            "text_context": {"conversation": [dict(each) for each in self.conversation]},
            "media": media,
            "vision_cache": {"embeddings": [_embedding(data) for data in self.pictures]},
            "tokens": {"n": self.tokens},
        }
        kv = LiveCache(self.cache)
        return Capture("test", layers, torch_bridge.to_leaf, tokens=self.tokens, kv=kv, fingerprint=lambda: IDENTITY)


def live_in(
    daemon: Daemon, now: float, *, tokens: int = 400, stories: tuple[Story, ...] = STORIES, forked: bool = True
) -> list[Backup]:
    """Save the stories, turn by turn, as they would have been; the first of them is forked, too."""
    at = [now]
    with daemon.keeper(clock=lambda: at[0]) as keeper:
        made = [backup for story in reversed(stories) for backup in _tell(daemon, keeper, at, now, story, tokens)]
        if not forked:
            return made
        first = next(backup for backup in made if backup.session_id == stories[0].id)
        at[0] = now - 0.015 * DAY_S
        fork = keeper.fork(first.id, f"{stories[0].id}-fork-1")
        daemon.request("PATCH", f"/v1/sessions/{fork.session_id}", json={"title": "The garden, with a path"})
        made.append(fork)
    return made


def _tell(daemon: Daemon, keeper: Keeper, at: list[float], now: float, story: Story, tokens: int) -> Iterator[Backup]:
    session = ChatSession(DynamicCache(), layers=8, heads=8, dim=64)
    for turn in range(0, len(story.turns), 2):
        at[0] = now - story.days_ago * DAY_S + turn * 0.01 * HOUR_S
        asked: Any = story.turns[turn]
        if turn == 0 and story.pictures:
            session.pictures += [picture(name) for name in story.pictures]
            asked = [*({"type": "image"} for _ in story.pictures), {"type": "text", "text": asked}]
        session.conversation.append({"role": "user", "content": asked})
        session.conversation.append({"role": "assistant", "content": story.turns[turn + 1]})
        session.grow(tokens, sum(map(ord, story.id)) + turn)
        newest = keeper.save(story.id, session).wait(60)
        yield newest
    daemon.request("PATCH", f"/v1/sessions/{story.id}", json={"title": story.title})
    if story.pinned:
        daemon.request("PATCH", f"/v1/backups/{newest.id}", json={"pinned": True})


def _embedding(picture: bytes) -> torch.Tensor:
    """Make what a vision tower of some size would say of a picture."""
    generator = torch.Generator().manual_seed(sum(picture[:2000]))
    return torch.randn(300, 1024, generator=generator).to(torch.bfloat16)


@lru_cache
def picture(name: str) -> bytes:
    """Draw a small scene as a PNG."""
    kind, _, number = name.partition("-")
    image = Image.new("RGB", (320, 240))
    draw = ImageDraw.Draw(image)
    _SCENES[kind](draw, int(number or 1))
    buffer = io.BytesIO()
    grain = Image.effect_noise(image.size, 18).convert("RGB")
    Image.blend(image, grain, 0.06).save(buffer, "PNG")
    return buffer.getvalue()


def _sky(draw: ImageDraw.ImageDraw, above: tuple[int, int, int], below: tuple[int, int, int]) -> None:
    for y in range(240):
        part = y / 240
        draw.line([(0, y), (320, y)], tuple(int(a + (b - a) * part) for a, b in zip(above, below, strict=True)))


def _hills(draw: ImageDraw.ImageDraw, number: int) -> None:
    _sky(draw, (120, 170, 220) if number == 1 else (230, 150, 110), (240, 230, 210))
    draw.ellipse([220, 30, 270, 80], (255, 240, 190))
    for layer, colour in enumerate([(120, 150, 130), (80, 120, 95), (45, 85, 65)]):
        top = 120 + 35 * layer
        draw.polygon(
            [(0, 240), (0, top + 30), (90, top - 20), (180, top + 25), (260, top - 10), (320, top + 30), (320, 240)],
            colour,
        )


def _pond(draw: ImageDraw.ImageDraw, _number: int) -> None:
    _sky(draw, (170, 200, 160), (90, 140, 90))
    draw.ellipse([40, 90, 280, 220], (60, 110, 140))
    for x, y in ((90, 130), (150, 170), (220, 140)):
        draw.ellipse([x, y, x + 40, y + 20], (80, 150, 90))
        draw.ellipse([x + 14, y - 6, x + 28, y + 8], (240, 180, 200))


def _page(draw: ImageDraw.ImageDraw, number: int) -> None:
    draw.rectangle([0, 0, 320, 240], (90, 95, 105))
    draw.rectangle([70, 12, 250, 240], (250, 249, 245))
    draw.rectangle([86, 30, 160, 44], (40, 80, 140))
    for line in range(9):
        draw.rectangle([86, 64 + line * 16, 200 - (line * 29 * number) % 60, 70 + line * 16], (170, 170, 170))
        draw.rectangle([212, 64 + line * 16, 236, 70 + line * 16], (120, 120, 120))


def _chart(draw: ImageDraw.ImageDraw, number: int) -> None:
    draw.rectangle([0, 0, 320, 240], (252, 252, 252))
    draw.line([(40, 20), (40, 210), (300, 210)], (90, 90, 90), 2)
    for bar in range(7):
        high = 30 + (bar * 53 * number) % 140
        draw.rectangle([54 + bar * 34, 210 - high, 78 + bar * 34, 209], (70, 130, 180) if bar % 2 else (220, 140, 60))


def _gate(draw: ImageDraw.ImageDraw, number: int) -> None:
    _sky(draw, (60, 90, 70), (130, 150, 110))
    red = (200, 60, 40) if number == 1 else (130, 115, 95)
    draw.rectangle([50, 50, 270, 70], red)
    draw.rectangle([70, 90, 250, 104], red)
    draw.rectangle([90, 60, 110, 240], red)
    draw.rectangle([210, 60, 230, 240], red)


def _plate(draw: ImageDraw.ImageDraw, _number: int) -> None:
    draw.rectangle([0, 0, 320, 240], (150, 110, 80))
    draw.ellipse([70, 30, 250, 210], (245, 243, 238))
    draw.ellipse([100, 60, 220, 180], (210, 120, 50))
    draw.ellipse([150, 90, 190, 130], (245, 215, 80))


def _dial(draw: ImageDraw.ImageDraw, _number: int) -> None:
    draw.rectangle([0, 0, 320, 240], (50, 55, 65))
    draw.ellipse([70, 30, 250, 210], (235, 235, 230), (20, 20, 20), 5)
    draw.line([(160, 120), (215, 75)], (200, 40, 30), 5)
    draw.ellipse([150, 110, 170, 130], (40, 40, 40))


_SCENES = {
    "hills": _hills,
    "pond": _pond,
    "page": _page,
    "chart": _chart,
    "gate": _gate,
    "plate": _plate,
    "dial": _dial,
}
