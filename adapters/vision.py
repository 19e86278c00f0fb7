"""What a vision tower made of the pictures: run once, kept with the session, fed again instead of pixels."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from ..codec import torch_bridge
from ..codec.tree import Leaf
from ..state.errors import UnsupportedState


@dataclass(slots=True)
class Media:
    """A source image or video frame as the user sent it. Encoded bytes, so that any model can encode it again."""

    data: bytes
    media_type: str = "image/png"


@torch.no_grad()  # type: ignore[untyped-decorator]
def encode_images(model: Any, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> dict[str, Any]:
    """Run the vision tower once; the result goes into `TransformersSession.vision` and is saved with the session."""
    return {"image": model.get_image_features(pixel_values, image_grid_thw, return_dict=True)}


@dataclass(frozen=True, slots=True)
class _Embedding:
    """An output of the vision tower. Nobody writes into it, so a save may share its memory and remember its digest."""

    tensor: torch.Tensor


def to_leaf(value: Any) -> Leaf | None:
    """Take a tensor as a leaf: a copy, but for embeddings that count their changes (inference tensors do not)."""
    if not isinstance(value, _Embedding):
        return torch_bridge.to_leaf(value)
    tensor = value.tensor
    if tensor.is_inference():
        return torch_bridge.to_leaf(tensor)
    return torch_bridge.tensor_leaf(tensor, copy=False, memo=(tensor, tensor._version))


def encoder_output(output: Any) -> dict[str, Any]:
    """Take an encoder's output apart: pooled embeddings and deepstack features, one tensor an image each."""
    deepstack = getattr(output, "deepstack_features", None)
    return {
        "embeddings": [_Embedding(t) for t in output.pooler_output],
        "deepstack": None if deepstack is None else [[_Embedding(t) for t in features] for features in deepstack],
    }


def from_encoder_output(value: dict[str, Any], device: Any) -> Any:
    """Put an encoder's output together again, as `generate` takes it."""
    deepstack = value.get("deepstack")
    return _output(
        [t.to(device) for t in value["embeddings"]],
        None if deepstack is None else [[t.to(device) for t in level] for level in deepstack],
    )


def _output(embeddings: list[torch.Tensor], deepstack: list[list[torch.Tensor]] | None) -> Any:
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    levels = None if deepstack is None else [tuple(level) for level in deepstack]
    return BaseModelOutputWithDeepstackFeatures(pooler_output=tuple(embeddings), deepstack_features=levels)


def joined_outputs(first: Any, second: Any) -> Any:
    """Put the outputs for later images behind those for earlier ones."""
    ours, theirs = (getattr(output, "deepstack_features", None) for output in (first, second))
    deepstack = None
    if ours is not None and theirs is not None:
        deepstack = [[*a, *b] for a, b in zip(ours, theirs, strict=True)]
    return _output([*first.pooler_output, *second.pooler_output], deepstack)


def _places(kind: str, held: int, token_ids: torch.Tensor, types: torch.Tensor | None, config: Any) -> torch.Tensor:
    """Tell where placeholders stand; without those that were sampled (of type 0) if then `held` embeddings fit."""
    every = token_ids == getattr(config, f"{kind}_token_id", -1)
    typed = every if types is None or types.shape != every.shape else every & (types != 0)
    return typed if int(typed.sum()) == held else every


def why_incomplete(
    vision: dict[str, Any], token_ids: torch.Tensor, types: torch.Tensor | None, config: Any
) -> str | None:
    """Return why the embeddings are not those of all placeholders, so that they could not be fed again."""
    for kind in ("image", "video"):
        output = vision.get(kind)
        held = 0 if output is None else sum(len(rows) for rows in output.pooler_output)
        wanted = int(_places(kind, held, token_ids, types, config).sum())
        if wanted != held and (output is None or hasattr(config, f"{kind}_token_id")):
            return f"{held} {kind} embeddings for {wanted} placeholders"
    return None


def check_fed(kinds: Collection[str], unfed_ids: torch.Tensor, unfed_types: torch.Tensor | None, config: Any) -> None:
    """Make sure that placeholders which are about to be fed have embeddings; a model would read them as words.

    `kinds` (`image`, `video`) are given. A placeholder whose token type is 0 was sampled, and is a word indeed.
    Raises: UnsupportedState.
    """
    for kind in {"image", "video"} - set(kinds):
        lacking = unfed_ids == getattr(config, f"{kind}_token_id", -1)
        if unfed_types is not None and unfed_types.shape == lacking.shape:
            lacking &= unfed_types != 0
        if bool(lacking.any()):
            raise UnsupportedState(
                f"{int(lacking.sum())} {kind} placeholders are not in the cache, and their embeddings are not there",
                hint="Put the encoder's outputs of all media into `vision`, or restore with at_most='media'.",
            )


def unfed_outputs(
    vision: dict[str, Any], token_ids: torch.Tensor, types: torch.Tensor | None, config: Any, cached: int
) -> dict[str, Any]:
    """Return the encoder outputs (by `image` and `video`) for the placeholders that a cache of `cached` tokens lacks.

    The model scatters the rows over the placeholders that it is fed, in their order: so what stands in the cache is
    left out, row by row. Raises: UnsupportedState when there are not as many rows as placeholders.
    """
    if cached == 0:
        return {kind: copy.copy(output) for kind, output in vision.items()}  # a beam search doubles what it is given
    found = {}
    for kind, output in vision.items():
        held = sum(len(rows) for rows in output.pooler_output)
        keep = _places(kind, held, token_ids, types, config).nonzero()[:, 1] >= cached
        if bool(keep.any()):
            found[kind] = _rows(output, keep, kind)
    return found


def _rows(output: Any, keep: torch.Tensor, kind: str) -> Any:
    """Keep some rows of an encoder's output: `keep` has one entry a row, over all images."""
    sizes, deepstack = [len(t) for t in output.pooler_output], getattr(output, "deepstack_features", None)
    if sum(sizes) != len(keep):
        raise UnsupportedState(
            f"the session's vision holds {sum(sizes)} {kind} embeddings for {len(keep)} placeholders",
            hint="Put the outputs of all images into `vision`, in the order of their placeholders.",
        )
    parts = keep.split(sizes)

    def kept(tensors: Any) -> list[torch.Tensor]:
        pairs = zip(tensors, parts, strict=True)
        return [t if bool(part.all()) else t[part.to(t.device)] for t, part in pairs if bool(part.any())]

    return _output(kept(output.pooler_output), None if deepstack is None else [kept(level) for level in deepstack])
