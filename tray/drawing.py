"""The icons: a moon, and in its opening a sign of how everything is. Told apart by shape, not by colour alone.

Everything lies on a grid of 22 by 22 units, is drawn eight times as large, and reduced. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal

from PIL import Image, ImageChops, ImageDraw, ImageFilter

State = Literal["ok", "busy", "paused", "offline", "attention", "away"]  # `away`: the daemon does not run
Panel = Literal["dark", "light", "any"]
SIZES = (16, 22, 24, 32, 48)  # pixels: panels take the one that fits
GRID, TIMES = 22.0, 8
GAP, EDGE = 1.2, 1.0  # units between moon and sign, and around both

Point = tuple[float, float]
Colour = tuple[int, int, int]
_MOON_AT, _MOON_R = (9.6, 12.2), 8.6
_BITE_AT, _BITE_R = (15.4, 6.9), 7.6
_SIGN_AT = (16.2, 5.9)  # in the opening of the moon
_FAINT = 36  # of 255, in a blurred mask: about one radius of the blur beyond its edge


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of a panel: of the moon, of the signs by state, and of what surrounds all where the panel is unknown."""

    moon: Colour
    signs: dict[State, Colour]
    edge: Colour | None = None


PALETTES: dict[Panel, Palette] = {
    "dark": Palette(
        (244, 246, 250),
        {
            "ok": (247, 211, 116),
            "busy": (110, 190, 255),
            "paused": (255, 190, 92),
            "offline": (178, 188, 203),
            "attention": (255, 106, 92),
            "away": (178, 188, 203),
        },
    ),
    "light": Palette(
        (44, 54, 74),
        {
            "ok": (158, 102, 0),
            "busy": (0, 103, 200),
            "paused": (190, 95, 0),
            "offline": (98, 108, 126),
            "attention": (205, 32, 31),
            "away": (98, 108, 126),
        },
    ),
    "any": Palette(
        (255, 224, 150),
        {
            "ok": (255, 255, 255),
            "busy": (120, 200, 255),
            "paused": (255, 186, 84),
            "offline": (205, 212, 224),
            "attention": (255, 104, 90),
            "away": (205, 212, 224),
        },
        edge=(24, 34, 60),
    ),
}


def chosen(setting: str, guessed: Panel) -> Panel:
    """Return what the icon is drawn for: what the user set goes before what the desktop says."""
    return "dark" if setting == "dark" else "light" if setting == "light" else guessed


class Sheet:
    """A mask on the grid, which `margin` units surround."""

    def __init__(self, pixels: int, margin: float = 0.0) -> None:
        self.scale, self._margin = pixels / (GRID + 2 * margin), margin
        self.image = Image.new("L", (pixels, pixels), 0)
        self._pen = ImageDraw.Draw(self.image)

    def disc(self, at: Point, radius: float, value: int = 255) -> None:
        """Fill a circle."""
        (x, y), r = at, radius
        self._pen.ellipse([self._px(x - r), self._px(y - r), self._px(x + r), self._px(y + r)], fill=value)

    def polygon(self, points: list[Point], value: int = 255) -> None:
        """Fill a polygon."""
        self._pen.polygon([(self._px(x), self._px(y)) for x, y in points], fill=value)

    def line(self, start: Point, end: Point, width: float, value: int = 255) -> None:
        """Draw a stroke with round ends."""
        (x0, y0), (x1, y1) = start, end
        length = math.hypot(x1 - x0, y1 - y0)
        dx, dy = (y1 - y0) / length * width / 2, -(x1 - x0) / length * width / 2
        self.polygon([(x0 + dx, y0 + dy), (x1 + dx, y1 + dy), (x1 - dx, y1 - dy), (x0 - dx, y0 - dy)], value)
        self.disc(start, width / 2, value)
        self.disc(end, width / 2, value)

    def _px(self, units: float) -> float:
        return (units + self._margin) * self.scale


@cache
def icons(state: State, panel: Panel) -> tuple[Image.Image, ...]:
    """Return the icon of a state in all sizes, the smallest first."""
    return tuple(draw(state, panel, size) for size in SIZES)


def draw(state: State, panel: Panel, size: int) -> Image.Image:
    """Draw one icon (RGBA)."""
    palette = PALETTES[panel]
    moon, hole, sign = (Sheet(size * TIMES, 0.0 if palette.edge is None else EDGE) for _ in range(3))
    _crescent(moon, 0.0)
    if state == "away":
        _crescent(hole, 1.7)
        moon.image.paste(0, mask=hole.image)
    SIGNS[state](sign)
    moon.image.paste(0, mask=_grown(sign.image, GAP * moon.scale))  # two, at 16 pixels as well
    found = Image.new("RGBA", moon.image.size, (0, 0, 0, 0))
    if palette.edge is not None:
        both = ImageChops.lighter(moon.image, sign.image)
        found.paste((*palette.edge, 255), mask=_grown(both, EDGE * moon.scale))
    found.paste((*palette.moon, 255), mask=moon.image)
    found.paste((*palette.signs[state], 255), mask=sign.image)
    return _reduced(found, size)


def _crescent(sheet: Sheet, less: float) -> None:
    """Fill the moon, less so many units all around."""
    sheet.disc(_MOON_AT, _MOON_R - less)
    sheet.disc(_BITE_AT, _BITE_R + less, 0)


def _grown(mask: Image.Image, pixels: float) -> Image.Image:
    """Return a mask with about so many pixels more all around, its corners round."""
    return mask.filter(ImageFilter.GaussianBlur(pixels)).point(lambda value: 255 if value > _FAINT else 0)


def _reduced(image: Image.Image, size: int) -> Image.Image:
    """Reduce with the transparency in mind: colours of pixels that are not seen do not bleed in."""
    return image.convert("RGBa").resize((size, size), Image.Resampling.BOX).convert("RGBA")


def _star(sheet: Sheet) -> None:
    """All is well: a star with four points."""
    x, y = _SIGN_AT
    long, short = 5.4, 1.7
    points = [
        (
            x + math.sin(n * math.pi / 4) * (short if n % 2 else long),
            y - math.cos(n * math.pi / 4) * (short if n % 2 else long),
        )
        for n in range(8)
    ]
    sheet.polygon(points)


def _arrow(sheet: Sheet) -> None:
    """On its way: an arrow upwards."""
    x, y = _SIGN_AT
    sheet.line((x, y + 4.3), (x, y - 3.2), 2.2)
    sheet.line((x - 3.5, y - 0.6), (x, y - 4.1), 2.2)
    sheet.line((x + 3.5, y - 0.6), (x, y - 4.1), 2.2)


def _bars(sheet: Sheet) -> None:
    """Paused: two bars."""
    x, y = _SIGN_AT
    for side in (-2.6, 2.6):
        sheet.line((x + side, y - 3.6), (x + side, y + 3.6), 2.9)


def _cross(sheet: Sheet) -> None:
    """Not connected: a cross."""
    x, y = _SIGN_AT
    sheet.line((x - 3.7, y - 3.7), (x + 3.7, y + 3.7), 2.3)
    sheet.line((x - 3.7, y + 3.7), (x + 3.7, y - 3.7), 2.3)


def _mark(sheet: Sheet) -> None:
    """Somebody has to look: an exclamation mark in a disc."""
    x, y = _SIGN_AT
    sheet.disc((x, y), 5.5)
    sheet.line((x, y - 2.8), (x, y + 0.3), 1.9, 0)
    sheet.disc((x, y + 3.2), 1.15, 0)


def _nothing(sheet: Sheet) -> None:
    """Nobody there."""


SIGNS: dict[State, Callable[[Sheet], None]] = {
    "ok": _star,
    "busy": _arrow,
    "paused": _bars,
    "offline": _cross,
    "attention": _mark,
    "away": _nothing,
}
