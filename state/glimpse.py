"""What a listing shows of a backup without its manifest: how many messages, how the last one begins, its pictures."""

from __future__ import annotations

from dataclasses import dataclass

PREVIEW_CHARS = 200
IMAGES_SHOWN = 4  # of a backup, in a listing
PICTURES = ("image/png", "image/jpeg", "image/webp", "image/gif")  # what every browser draws, and no program is in


@dataclass(frozen=True, slots=True)
class Medium:
    """A source image or video of a backup: which one, what it says it is, and its size."""

    index: int
    media_type: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Glimpse:
    """A backup at a glance. `media` counts all of them, `images` are the first pictures among them."""

    messages: int
    text: str | None
    media: int
    images: tuple[Medium, ...]


NOTHING = Glimpse(0, None, 0, ())


def one_line(text: str, most: int = PREVIEW_CHARS) -> str:
    """Return the beginning of a text on one line, without control characters."""
    words = " ".join(text[: most * 8].split())
    clean = words
    if not words.isprintable():  # which few are: letter by letter takes 30 µs of every commit
        clean = "".join(char for char in words if char.isprintable() or char in "\u200c\u200d")
    return clean if len(clean) <= most else clean[: most - 1].rstrip() + "…"
