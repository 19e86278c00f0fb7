"""The icons: every size, readable on what they lie on, and told apart without colours."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

import pytest
from PIL import Image, ImageChops
from torpor.tray.colour_scheme import panel_of
from torpor.tray.drawing import PALETTES, SIGNS, SIZES, Panel, State, chosen, icons

STATES: tuple[State, ...] = get_args(State)
BACKGROUNDS: dict[Panel, tuple[int, ...]] = {"dark": (30,), "light": (245,), "any": (30, 128, 245)}


def grey(image: Image.Image, background: int) -> Image.Image:
    """An icon as who sees no colours sees it."""
    found = Image.new("RGBA", image.size, (background,) * 3 + (255,))
    found.alpha_composite(image)
    return found.convert("L")


@pytest.mark.parametrize("panel", get_args(Panel))
def test_every_state_has_all_sizes_and_stays_within_them(panel: Panel) -> None:
    assert set(SIGNS) == set(STATES)
    for state in STATES:
        found = icons(state, panel)
        assert [image.size for image in found] == [(size, size) for size in SIZES]
        assert {image.mode for image in found} == {"RGBA"}
        assert icons(state, panel) is found
        for image in found:
            corners = [
                image.getpixel(at) for at in ((0, 0), (0, image.height - 1), (image.width - 1, image.height - 1))
            ]
            assert {pixel[3] for pixel in corners if isinstance(pixel, tuple)} == {0}


@pytest.mark.parametrize("panel", get_args(Panel))
def test_states_are_told_apart_by_shape_at_every_size(panel: Panel) -> None:
    """In grey, two states differ by as much as 7 of 16 x 16 pixels between black and white; the sign has 64 of them."""
    for background in BACKGROUNDS[panel]:
        for number, size in enumerate(SIZES):
            seen = {state: grey(icons(state, panel)[number], background) for state in STATES}
            for one, other in combinations(STATES, 2):
                apart = ImageChops.difference(seen[one], seen[other]).histogram()
                changed = sum(value * count for value, count in enumerate(apart)) / 255
                assert changed >= size * size / 36, (one, other, size, background)


@pytest.mark.parametrize("panel", get_args(Panel))
def test_they_are_readable_on_what_they_lie_on(panel: Panel) -> None:
    for background in BACKGROUNDS[panel]:
        for state in STATES:
            shown = grey(icons(state, panel)[1], background)
            apart = shown.point(lambda value, background=background: 255 * (abs(value - background) > 60))
            assert apart.histogram()[255] >= 40, (state, background)


def test_signs_have_the_contrast_of_text() -> None:
    """3:1 and more of each sign against its panel, as WCAG asks of graphics."""
    for panel, background in (("dark", (48, 48, 48)), ("light", (235, 235, 235))):
        palette = PALETTES[panel]  # type: ignore[index]
        for colour in (palette.moon, *palette.signs.values()):
            lighter, darker = sorted((luminance(colour), luminance(background)), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= 3, (panel, colour)


def luminance(colour: tuple[int, int, int]) -> float:
    parts = [value / 255 for value in colour]
    red, green, blue = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(
    ("scheme", "desktops", "panel"),
    [
        (0, "", "any"),
        (1, "XFCE", "any"),
        (0, "ubuntu:GNOME", "dark"),
        (2, "GNOME", "dark"),
        (1, "KDE", "dark"),
        (2, "KDE", "light"),
        (0, "KDE", "any"),
    ],
)
def test_the_panel_is_guessed_only_where_that_is_known(scheme: int, desktops: str, panel: str) -> None:
    assert panel_of(scheme, desktops) == panel


def test_what_the_user_set_goes_first() -> None:
    assert [chosen(setting, "light") for setting in ("dark", "light", "auto", "newer")] == ["dark"] + ["light"] * 3
    assert chosen("light", "dark") == "light"
