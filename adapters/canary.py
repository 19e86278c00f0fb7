"""The canary of a transformers session: what is saved of its last step, and how a woken one is run against it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from blake3 import blake3

from ..codec.torch_bridge import byte_view
from ..state.canary import CanaryResult, Comparison, judge
from .cache_views import CacheView, Pair
from .last_step import Step, environment
from .token_state import rope_holder

TOP = 64  # logits kept of each row, to be compared where the bits may differ


@dataclass(frozen=True, slots=True)
class Reference:
    """What a one-token step gave. `ids` and `values` are `[batch, k]`, best first; `digest` is of all logits' bytes.

    `position` is the fed token's index; `positions` `[batch, 1]` as in `Step`.
    """

    position: int
    positions: torch.Tensor | None
    ids: torch.Tensor
    values: torch.Tensor
    digest: str
    environment: dict[str, str]


def to_tree(step: Step | None, cache: Any, token_ids: torch.Tensor) -> dict[str, Any] | None:
    """Return a step as it is saved in the `tokens` layer, or None where it is not the last one of this state."""
    if step is None or cache is None or not step.belongs_to(cache, token_ids):
        return None
    if step.tree is None and step.logits is not None:
        logits = step.logits.to("cpu").contiguous()
        top = logits.topk(min(TOP, logits.shape[-1]))
        step.tree = {
            "position": step.ids.shape[-1] - 1,
            "positions": None if step.positions is None else step.positions.to("cpu", torch.int64).contiguous(),
            "ids": top.indices.to(torch.int32),
            "values": top.values,
            "digest": _digest(logits),
            "environment": step.environment,
        }
        step.logits = None
    return step.tree


def from_tree(tree: Any) -> Reference | None:
    """Read a saved reference; None where it is not one that is understood here."""
    if not isinstance(tree, dict):
        return None
    position, ids, values = tree.get("position"), tree.get("ids"), tree.get("values")
    positions = tree.get("positions")
    found, digest = tree.get("environment"), tree.get("digest")
    if not (isinstance(position, int) and isinstance(digest, str) and isinstance(found, dict)):
        return None
    if not (isinstance(ids, torch.Tensor) and isinstance(values, torch.Tensor) and values.is_floating_point()):
        return None
    if ids.dtype != torch.int32 or ids.ndim != 2 or ids.shape != values.shape or ids.numel() == 0 or int(ids.min()) < 0:
        return None
    if positions is not None and not (isinstance(positions, torch.Tensor) and positions.dtype == torch.int64):
        return None
    return Reference(position, positions, ids, values, digest, {str(name): str(value) for name, value in found.items()})


def run_again(session: Any, reference: Reference) -> CanaryResult:
    """Feed the last cached token of a session once more and compare. Cache, model and random numbers stay untouched."""
    model, cache, position = session.model, session.cache, reference.position
    if position + 2 != session.token_ids.shape[-1] or int(cache.get_seq_length()) != position + 1:
        return CanaryResult("not applicable", "the cache does not end with the token that the saved logits are of")
    if reference.ids.shape[0] != session.token_ids.shape[0]:
        return CanaryResult("not applicable", "the saved logits are of another number of rows")
    view, device = CacheView(cache, position), model.device
    try:
        inputs = _inputs(session, view, reference)
    except TypeError as error:
        return CanaryResult("not applicable", f"this model's inputs are prepared in another way: {str(error)[:200]}")
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            logits = model(**inputs, return_dict=True).logits[:, -1]
        seen = _compare(reference, logits.to("cpu"), *_worst_layer(view.seen(), cache, position))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:  # tensors that do not fit the model
        return CanaryResult("missed", f"the step failed: {type(error).__name__}: {str(error)[:200]}")
    now = environment(model, cache)
    names = reference.environment.keys() | now.keys()
    changed = tuple(sorted(name for name in names if reference.environment.get(name) != now.get(name)))
    return judge(seen, changed, _coarser(reference.environment, now))


def _inputs(session: Any, view: CacheView, reference: Reference) -> dict[str, Any]:
    """Return what `generate` would feed at this step."""
    length = reference.position + 1
    ids, mask = session.token_ids[:, :length], session.attention_mask
    mask = mask if mask is None else mask[:, :length]
    if reference.positions is not None:
        text = reference.positions.to(ids.device)
    elif mask is not None:
        text = (mask.long().sum(-1, keepdim=True) - 1).masked_fill(mask[:, -1:] == 0, 0)
    else:
        text = torch.full((ids.shape[0], 1), length - 1, dtype=torch.int64, device=ids.device)
    positions = text
    if rope_holder(session.model) is not None:  # positions of text, time, height and width
        deltas = 0 if session.rope_deltas is None else session.rope_deltas.to(ids.device)
        positions = torch.cat([text[None], (text + deltas).expand(3, -1, -1)])
    inputs: dict[str, Any] = session.model.prepare_inputs_for_generation(
        ids,
        next_sequence_length=1,
        past_key_values=view,
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
    )
    return inputs


def _compare(reference: Reference, logits: torch.Tensor, kv: tuple[float, int], kv_same_bits: bool) -> Comparison:
    values, now = reference.values.double(), logits.double()
    scale = max(float(values.abs().max()), 1e-30)
    difference = float((now.gather(1, reference.ids.long()) - values).abs().max()) / scale
    first = now.argmax(-1, keepdim=True)
    was = torch.where(reference.ids == first, values, -math.inf).amax(-1)
    behind = float((values[:, 0] - was).max()) / scale
    same = logits.dtype == reference.values.dtype and _digest(logits) == reference.digest
    return Comparison(same, difference, behind, kv_same_bits, *kv)


def _worst_layer(seen: list[Pair], cache: Any, position: int) -> tuple[tuple[float, int], bool]:
    """Return the largest relative difference of the token's K or V with its layer, and whether all bits agree."""
    differences, equal = [], True
    for layer, pair in zip(cache.layers, seen, strict=True):
        for stored, new in zip((layer.keys, layer.values), pair, strict=True):
            old, now = stored[:, :, position].to("cpu").contiguous(), new[:, :, 0].to("cpu").contiguous()
            equal = equal and old.dtype == now.dtype and bool((byte_view(old) == byte_view(now)).all())
            a, b = old.double(), now.double()
            differences.append(float((a - b).abs().max()) / max(float(a.abs().max()), 1e-30))
    worst = max(range(len(differences)), key=lambda i: (math.isnan(differences[i]), differences[i]))
    return (differences[worst], worst // 2), equal


def _coarser(then: dict[str, str], now: dict[str, str]) -> str:
    """Return the dtype by whose tolerance two steps are compared; float32 may be multiplied with fewer bits."""
    dtypes = {found.get("dtype", "") for found in (then, now)}
    if any(found.get("float32 precision") != "highest" for found in (then, now)):
        dtypes.add("float16")
    return next((name for name in ("bfloat16", "float16", "float32", "float64") if name in dtypes), "")


def _digest(logits: torch.Tensor) -> str:
    return blake3(byte_view(logits.contiguous()).reshape(-1).data).hexdigest()
