"""Conversations with pictures around a real cache, and homes full of them: what the dashboard's tests look at."""

from __future__ import annotations

import io
import math
import random
import zlib
from dataclasses import dataclass, field, replace
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFilter
from torpor.client import Capture, Keeper, Woken
from torpor.state.backup import Backup

from support.chats import Chat, ChatTarget

WIDTH, HEIGHT = 320, 240


@lru_cache
def scene(seed: int) -> bytes:
    """Draw a landscape as a PNG: a sky, a moon, hills one behind the other."""
    dice = random.Random(seed)
    hue = dice.choice([(34, 52, 98), (214, 118, 78), (88, 140, 190), (120, 82, 140), (36, 96, 92)])
    image = Image.new("RGB", (WIDTH, HEIGHT))
    pen = ImageDraw.Draw(image)
    for y in range(HEIGHT):
        share = y / HEIGHT
        pen.line((0, y, WIDTH, y), fill=tuple(int(c + (250 - c) * share * 0.8) for c in hue))
    x, y, r = dice.randrange(60, 260), dice.randrange(40, 100), dice.randrange(16, 30)
    pen.ellipse((x - r, y - r, x + r, y + r), fill=(250, 236, 190))
    for layer in range(4):
        base, wave = 130 + 26 * layer, dice.uniform(0, 6)
        line = [
            (x, base + 14 * math.sin(x / dice.uniform(30, 32) + wave) + 6 * math.sin(x / 11 + wave))
            for x in range(0, WIDTH + 8, 8)
        ]
        pen.polygon([(0, HEIGHT), *line, (WIDTH, HEIGHT)], fill=tuple(int(c * (0.75 - 0.15 * layer)) for c in hue))
    buffer = io.BytesIO()
    image.filter(ImageFilter.SMOOTH).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


@dataclass(eq=False)
class Album(Chat):
    """A chat with messages as chat templates have them, and pictures."""

    messages: list[dict[str, object]] = field(default_factory=list)
    pictures: list[bytes] = field(default_factory=list)

    def turn(self, asked: str, answer: str, *pictures: bytes, tokens: int = 40) -> Album:
        """Let the user ask, with pictures, and the model answer."""
        parts = [{"type": "image"} for _ in pictures] + [{"type": "text", "text": asked}]
        self.messages += [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
        self.pictures += pictures
        self.grow(tokens, len(self.ids))
        self.ids += tuple(zlib.crc32(asked.encode()) % 30_000 + n for n in range(tokens))
        return self

    def capture(self) -> Capture:
        made = super().capture()
        text = {**made.layers["text_context"], "conversation": self.messages}
        media = [{"media_type": "image/png", "data": data} for data in self.pictures]
        return replace(
            made,
            adapter="transformers",
            layers={**made.layers, "text_context": text, **({"media": media} if media else {})},
        )


class AlbumTarget(ChatTarget):
    """Wakes an `Album`."""

    def adopt(self, woken: Woken) -> Album:
        chat = super().adopt(woken)
        media = [each["data"] for each in woken.layers.get("media", ())]
        messages = list(woken.layers["text_context"]["conversation"])
        return Album(chat.cache, chat.note, name=chat.name, ids=chat.ids, messages=messages, pictures=media)


def hike(keeper: Keeper, session_id: str = "hike") -> list[Backup]:
    """Save a session of five backups, with two branches and a fork in another session; return its backups, oldest first."""
    album = Album(name="Qwen3-VL-8B")
    made = []
    for asked, answer, pictures in (
        ("Where was this taken?", "These are hills at dusk, perhaps in Yunnan: the moon is up already.", [scene(1)]),
        ("And these two?", "The first is the same valley in the morning, the second one a lake.", [scene(2), scene(3)]),
        (
            "Plan a hike along the ridge.",
            "Start early:\n\n1. the pass before nine\n2. lunch at the lake\n3. back by the road",
            [],
        ),
    ):
        made.append(keeper.save(session_id, album.turn(asked, answer, *pictures)).wait(60))
    again = keeper.restore(made[1].id, AlbumTarget()).session
    for asked, answer in (
        ("Only by train, please.", "Then from the station at the lake."),
        ("我们什么时候出发？", "明天早上六点出发。"),
    ):
        made.append(keeper.save(session_id, again.turn(asked, answer)).wait(60))
    fork = keeper.fork(made[2].id, f"{session_id}-winter")
    other = keeper.restore(fork.id, AlbumTarget()).session
    keeper.save(
        f"{session_id}-winter", other.turn("The same in winter?", "Take snowshoes, and start at ten.", scene(5))
    ).wait(60)
    return made
