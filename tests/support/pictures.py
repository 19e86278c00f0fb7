"""Sessions of the small model with any number of pictures between pieces of text."""

from __future__ import annotations

import io
from functools import lru_cache

import torch
from PIL import Image
from torpor.adapters.demo_model import Loaded
from torpor.adapters.transformers import Media, TransformersSession, encode_images


@lru_cache
def png(seed: int, size: int = 112) -> bytes:
    """Noise as a PNG: two seeds are two pictures of the same grid."""
    noise = torch.randint(0, 256, (size, size, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise.numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def text(count: int, seed: int = 0) -> list[int]:
    """Ids of ordinary letters."""
    return torch.randint(0, 256, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def mixed_session(loaded: Loaded, *parts: list[int] | bytes) -> TransformersSession:
    """Make a session of text ids and pictures (PNG bytes), in this order."""
    config, processor = loaded.model.config, loaded.image_processor
    media = [part for part in parts if isinstance(part, bytes)]
    pixels = grid = None
    if media:
        images = [Image.open(io.BytesIO(data)).convert("RGB") for data in media]
        pixels = processor(images=images, return_tensors="pt")
        grid = pixels["image_grid_thw"]
    ids: list[int] = []
    seen = 0
    for part in parts:
        if isinstance(part, list):
            ids += part
            continue
        assert grid is not None
        count = int(grid[seen].prod()) // processor.merge_size**2
        ids += [config.vision_start_token_id, *[config.image_token_id] * count, config.vision_end_token_id]
        seen += 1
    row = torch.tensor([ids])
    return TransformersSession(
        loaded.model,
        row,
        loaded.tokenizer,
        processor,
        attention_mask=torch.ones_like(row),
        mm_token_type_ids=(row == config.image_token_id).long(),
        image_grid_thw=grid,
        vision={} if pixels is None else encode_images(loaded.model, pixels["pixel_values"], grid),
        media=[Media(data) for data in media],
    )


def film_session(loaded: Loaded, before: list[int], between: list[int], after: list[int]) -> TransformersSession:
    """Make a session of a film of two frames (4 placeholders each), with text around and between them."""
    config = loaded.model.config
    grid = torch.tensor([[2, 4, 4]])
    patches = torch.randn((32, 3 * 2 * 14 * 14), generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        film = loaded.model.get_video_features(patches.to(loaded.model.dtype), grid, return_dict=True)
    frame = [config.vision_start_token_id, *[config.video_token_id] * 4, config.vision_end_token_id]
    row = torch.tensor([[*before, *frame, *between, *frame, *after]])
    return TransformersSession(
        loaded.model,
        row,
        loaded.tokenizer,
        loaded.image_processor,
        mm_token_type_ids=2 * (row == config.video_token_id).long(),
        video_grid_thw=grid,
        vision={"video": film},
        media=[Media(b"a film", "video/mp4")],
    )
