"""The source images of a conversation, encoded by one model: how many placeholders each takes, and its embeddings."""

from __future__ import annotations

import base64
import binascii
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from ..state.conversation import image_parts
from ..state.errors import UnsupportedState
from ..state.rates import Observation
from .device import device_name, settled
from .vision import Media, encode_images, joined_outputs

_AT_ONCE = 16  # images in one run of the vision tower: bounds memory
_DATA_URL = re.compile(r"data:(image/[\w.+-]+);base64,", re.ASCII)


class Pictures:
    """The images of a conversation, by the order of their parts, for the processor of one model."""

    def __init__(self, model: Any, processor: Any, messages: Sequence[Any], media: Sequence[Media]) -> None:
        self._model, self._processor = model, getattr(processor, "image_processor", processor)
        parts = [part for _, part in image_parts(messages)]
        self.media = completed(media, parts)
        images = [m.data for m in self.media if not m.media_type.startswith("video/")]
        self._sources: list[bytes | None] = [*images[: len(parts)], *([None] * (len(parts) - len(images)))]
        self._patches: dict[int, int | str] = {}
        self.observations: list[Observation] = []

    def __len__(self) -> int:
        return len(self._sources)

    @property
    def blindness(self) -> str | None:
        """Why this model cannot see images at all; None when it can."""
        if getattr(self._model.config, "vision_config", None) is None:
            return "the model reads text only"
        if not hasattr(self._processor, "get_number_of_image_patches"):
            return "no image processor was given" if self._processor is None else "the processor encodes no images"
        return None

    def sees(self, n: int) -> bool:
        """Tell whether image `n` can be encoded."""
        return self.why_not(n) is None

    def why_not(self, n: int) -> str | None:
        """Return why image `n` cannot be encoded, None when it can."""
        if (reason := self.blindness) is not None:
            return reason
        if n not in self._patches:
            self._patches[n] = self._measure(n)
        found = self._patches[n]
        return found if isinstance(found, str) else None

    def placeholders(self, n: int) -> int:
        """Return how many placeholders image `n` takes."""
        patches = self._patches[n]
        assert isinstance(patches, int)  # asked for only where `sees` agreed
        return patches // int(self._processor.merge_size) ** 2

    def _measure(self, n: int) -> int | str:
        source = self._sources[n]
        if source is None:
            return "its source is not there"
        try:
            width, height = _decoded(source).size
            return int(self._processor.get_number_of_image_patches(height, width, {}))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # what Pillow raises
            return f"its source cannot be decoded ({str(error)[:80]})"

    def encode(self, which: Sequence[int]) -> tuple[Any, torch.Tensor] | None:
        """Run the vision tower over some images: its outputs and `[image, 3]` grids; None without images.

        Raises: UnsupportedState when the processor cuts an image into other patches than it said.
        """
        outputs, grids, started = None, [], settled(self._model.device)
        for at in range(0, len(which), _AT_ONCE):
            batch = which[at : at + _AT_ONCE]
            images = [_decoded(self._sources[n] or b"") for n in batch]
            made = self._processor(images=images, return_tensors="pt")
            grid = made["image_grid_thw"].to(self._model.device)
            if grid.prod(-1).tolist() != [self._patches[n] for n in batch]:
                raise UnsupportedState("the image processor makes other patches of an image than it announced")
            new = encode_images(self._model, made["pixel_values"].to(self._model.device), grid)["image"]
            outputs = new if outputs is None else joined_outputs(outputs, new)
            grids.append(grid)
        if outputs is None:
            return None
        count, took = sum(self.placeholders(n) for n in which), settled(self._model.device) - started
        self.observations.append(Observation("encode", count, took, device=device_name(self._model.device)))
        return outputs, torch.cat(grids)


def completed(media: Sequence[Media], parts: Sequence[Any]) -> list[Media]:
    """Return the media with those that image parts beyond them carry as data URLs: the i-th is of the i-th part."""
    whole = list(media)
    count = sum(not m.media_type.startswith("video/") for m in whole)
    for part in parts[count:]:
        found = _inline(part)
        if found is None:
            break  # later ones would be taken for this one
        whole.append(found)
    return whole


def _inline(part: Any) -> Media | None:
    values = (part.get(key) for key in ("image", "image_url", "url")) if isinstance(part, Mapping) else ()
    value = next((v for v in values if v), None)
    url = value.get("url") if isinstance(value, Mapping) else value
    if not isinstance(url, str) or not (head := _DATA_URL.match(url)):
        return None
    try:
        return Media(base64.b64decode(url[head.end() :], validate=True), head[1])
    except binascii.Error:
        return None


def _decoded(data: bytes) -> Image.Image:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # twice as many pixels are an error
        return Image.open(io.BytesIO(data)).convert("RGB")
