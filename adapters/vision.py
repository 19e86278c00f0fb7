"""What a vision tower made of the pictures: run once, kept with the session, fed again instead of pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ..codec import torch_bridge
from ..codec.tree import Leaf


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
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    deepstack = value.get("deepstack")
    return BaseModelOutputWithDeepstackFeatures(
        pooler_output=tuple(t.to(device) for t in value["embeddings"]),
        deepstack_features=None if deepstack is None else [tuple(t.to(device) for t in level) for level in deepstack],
    )
