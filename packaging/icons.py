"""The application's icon as pictures: the SVG of the dashboard, drawn. It reads the two shapes that this icon has."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

from PIL import Image, ImageDraw

SIZES = (16, 22, 24, 32, 48, 64, 128, 256)
TIMES = 8  # drawn this much larger, and reduced

Point = tuple[float, float]


def picture(svg: str, size: int) -> Image.Image:
    """Draw circles and paths of arcs on a square of `size` pixels."""
    root = ElementTree.fromstring(svg)  # noqa: S314, our own file
    scale = size * TIMES / float(root.attrib["viewBox"].split()[2])
    large = Image.new("RGBA", (size * TIMES, size * TIMES), (0, 0, 0, 0))
    draw = ImageDraw.Draw(large)
    for shape in root:
        kind, has = shape.tag.rpartition("}")[2], shape.attrib
        if kind == "circle":
            x, y, r = (float(has[name]) * scale for name in ("cx", "cy", "r"))
            draw.ellipse((x - r, y - r, x + r, y + r), fill=has["fill"])
        elif kind == "path":
            draw.polygon([(x * scale, y * scale) for x, y in outline(has["d"])], fill=has["fill"])
        else:
            raise ValueError(f"the icon has a {kind}, which is not drawn here")
    return _reduced(large, size)


def _reduced(large: Image.Image, size: int) -> Image.Image:
    """Reduce by boxes, colours weighted by how much of them is there: no dark fringe."""
    return large.convert("RGBa").resize((size, size), Image.Resampling.BOX).convert("RGBA")


def outline(path: str) -> list[Point]:
    """Return a path of M, A, a and Z as a polygon."""
    parts = re.findall(r"([MAaZz])([^MAaZz]*)", path)
    points: list[Point] = []
    for letter, text in parts:
        numbers = [float(each) for each in re.findall(r"-?\d*\.?\d+", text)]
        if letter == "M":
            points.append((numbers[0], numbers[1]))
        elif letter in "Aa":
            radius, large, sweep, x, y = numbers[0], numbers[3], numbers[4], numbers[5], numbers[6]
            start = points[-1]
            end = (start[0] + x, start[1] + y) if letter == "a" else (x, y)
            points += _arc(start, end, radius, large=bool(large), sweep=bool(sweep))
    return points


def _arc(start: Point, end: Point, radius: float, *, large: bool, sweep: bool) -> list[Point]:
    """Return points on an arc of a circle. Source: SVG 1.1, F.6.5 and F.6.6, with both radii alike."""
    half = math.dist(start, end) / 2
    radius = max(radius, half)
    middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
    away = math.sqrt(radius**2 - half**2) * (-1 if large == sweep else 1)
    across = ((end[1] - start[1]) / (2 * half), -(end[0] - start[0]) / (2 * half))
    centre = (middle[0] - across[0] * away, middle[1] - across[1] * away)
    first, last = (math.atan2(y - centre[1], x - centre[0]) for x, y in (start, end))
    turn = (last - first) % math.tau
    turn = turn if sweep else turn - math.tau
    steps = 96
    return [
        (
            centre[0] + radius * math.cos(first + turn * step / steps),
            centre[1] + radius * math.sin(first + turn * step / steps),
        )
        for step in range(1, steps + 1)
    ]
