"""The small tensors beside the token ids: how they are narrowed, and what lives outside of the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from ..state.errors import UnsupportedState

if TYPE_CHECKING:
    from .session import TransformersSession


def narrow(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """Store integers as int32 or uint8 where they fit; they are given back as int64."""
    if tensor is None or tensor.numel() == 0:
        return tensor
    if tensor.dtype == torch.bool:
        return tensor
    if tensor.dtype not in (torch.int64, torch.int32):
        raise UnsupportedState(f"token ids and masks must be int64, int32 or bool, not {tensor.dtype}")
    low, high = int(tensor.min()), int(tensor.max())
    if low >= 0 and high < 256:
        return tensor.to(torch.uint8)
    return tensor.to(torch.int32) if low >= -(1 << 31) and high < 1 << 31 else tensor


def media_spans(token_ids: torch.Tensor, config: Any) -> tuple[tuple[int, int], ...]:
    """Return the positions `(start, stop)` of each run of image or video placeholders, of a batch those of any row."""
    names = ("image_token_id", "video_token_id")
    places = [n for n in (getattr(config, name, None) for name in names) if isinstance(n, int)]
    if not places or token_ids.numel() == 0:
        return ()
    found = token_ids == places[0]
    for place in places[1:]:
        found |= token_ids == place
    row = found.any(dim=0).to("cpu", torch.int8)
    edges = torch.diff(row, prepend=row.new_zeros(1), append=row.new_zeros(1)).nonzero().flatten().tolist()
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def rope_holder(model: Any) -> Any:
    """Return the module that keeps the rope deltas as an attribute, or None."""
    inner = getattr(model, "model", None)
    return inner if hasattr(inner, "rope_deltas") else None


def model_rope_deltas(model: Any) -> torch.Tensor | None:
    """Return a copy of the rope deltas that a model holds now."""
    holder = rope_holder(model)
    return None if holder is None or holder.rope_deltas is None else holder.rope_deltas.detach().clone()


def new_rope_deltas(session: TransformersSession) -> torch.Tensor | None:
    """Return the rope deltas that follow from a session's ids and grids; None where a model has none."""
    holder = rope_holder(session.model)
    if holder is None:
        return None
    if session.mm_token_type_ids is None or (session.image_grid_thw is None and session.video_grid_thw is None):
        return torch.zeros((session.token_ids.shape[0], 1), dtype=torch.int64, device=session.token_ids.device)
    _, deltas = holder.get_rope_index(
        session.token_ids,
        mm_token_type_ids=session.mm_token_type_ids,
        image_grid_thw=session.image_grid_thw,
        video_grid_thw=session.video_grid_thw,
        attention_mask=session.attention_mask,
    )
    found: torch.Tensor = deltas
    return found


def set_rng(kind: str, state: torch.Tensor, device: torch.device) -> None:
    """Put a generator's state back."""
    if kind == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)


def usable_rng(saved: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Return the RNG states that this process can take. Raises: UnsupportedState before anything is touched."""
    usable = {kind: state for kind, state in saved.items() if kind in ("cpu", device.type)}
    for kind, state in usable.items():
        try:
            torch.Generator("cpu" if kind == "cpu" else device).set_state(state)
        except (RuntimeError, TypeError) as error:
            raise UnsupportedState(f"the saved {kind} RNG state is not one of this torch: {error}") from error
    return usable
