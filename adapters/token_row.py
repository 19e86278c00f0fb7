"""A session's token ids with what stands behind their placeholders, for the logical keys of its KV blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from blake3 import blake3

from ..state.block_keys import Grid, Medium, TokenRow, pack_ids, runs_of
from .token_state import media_spans
from .vision import Media

if TYPE_CHECKING:
    from .session import TransformersSession


def row_of_ids(token_ids: torch.Tensor, config: Any, media: Sequence[Medium]) -> TokenRow:
    """Return the row of some ids (`[1, length]` or `[length]`), with media in the order of their placeholders."""
    ids = token_ids.reshape(1, -1).to("cpu", torch.int64)
    spans = media_spans(ids, config)
    videos = [int(ids[0, start]) == getattr(config, "video_token_id", None) for start, _ in spans]
    merge = getattr(getattr(config, "vision_config", None), "spatial_merge_size", 1)
    return TokenRow(pack_ids(ids[0].tolist()), runs_of(spans, videos, media, merge))


def row_of_session(session: TransformersSession) -> Callable[[], TokenRow | None]:
    """Copy a session's ids now; the row is made by the call that is returned, which reads all media.

    The row is None where positions do not follow from the ids: for a batch, a padded row, or foreign token types.
    """
    if session.token_ids.shape[0] != 1:
        return lambda: None
    ids, config, data = _copy(session.token_ids), session.model.config, list(session.media)
    mask, types = _copy(session.attention_mask), _copy(session.mm_token_type_ids)
    images, videos = _grids(session.image_grid_thw), _grids(session.video_grid_thw)

    def row() -> TokenRow | None:
        if mask is not None and not bool(mask.all()):
            return None
        if types is not None and not torch.equal(types.long(), _types(ids, config)):
            return None
        return row_of_ids(ids, config, _media(data, images, videos) if types is not None else [])

    return row


def _copy(tensor: torch.Tensor | None) -> Any:
    return None if tensor is None else tensor.to("cpu", copy=True)


def _media(data: Sequence[Media], images: Sequence[Grid], videos: Sequence[Grid]) -> list[Medium]:
    """Return media with their grids, or none where they are not as many."""
    grids = {False: iter(images), True: iter(videos)}
    kinds = [medium.media_type.startswith("video/") for medium in data]
    if (kinds.count(False), kinds.count(True)) != (len(images), len(videos)):
        return []
    return [
        Medium(blake3(medium.data).hexdigest(), next(grids[is_video]), is_video)
        for medium, is_video in zip(data, kinds, strict=True)
    ]


def _grids(tensor: torch.Tensor | None) -> list[Grid]:
    return [] if tensor is None else [(t, h, w) for t, h, w in tensor.tolist()]


def _types(ids: torch.Tensor, config: Any) -> torch.Tensor:
    """Return the token types that a processor gives: 1 for an image's placeholder, 2 for a video's."""
    image, video = (getattr(config, f"{kind}_token_id", None) for kind in ("image", "video"))
    return (ids == (-1 if image is None else image)).long() + 2 * (ids == (-1 if video is None else video)).long()
