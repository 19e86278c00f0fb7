"""Images as StatusNotifierItem takes them: width, height, and ARGB32 in network byte order."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

SIZES = (16, 22, 24, 32, 48)  # what panels show; a host takes the one that fits
Pixmap = tuple[int, int, bytes]


def pixmaps(images: Sequence[Image.Image]) -> list[Pixmap]:
    """Return every image as it is; of a single one, all the sizes below it, too."""
    if len(images) == 1:
        images = [*_smaller(images[0]), images[0]]
    return [pixmap(image) for image in images]


def pixmap(image: Image.Image) -> Pixmap:
    """Return one image, whatever its mode."""
    red, green, blue, alpha = image.convert("RGBA").split()
    return image.width, image.height, Image.merge("RGBA", (alpha, red, green, blue)).tobytes()


def _smaller(image: Image.Image) -> list[Image.Image]:
    longest = max(image.size)
    return [
        image.resize(
            (max(1, image.width * size // longest), max(1, image.height * size // longest)), Image.Resampling.LANCZOS
        )
        for size in SIZES
        if size < longest
    ]
