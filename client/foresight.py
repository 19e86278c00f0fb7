"""What a plan cannot know from a manifest: how many tokens a conversation has in the form of another model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..state.errors import BadInput, ContextTooLong, Damaged, NotFound, StoreFailed
from ..state.manifest import LayerName, Manifest
from ..state.plan import MODES, RestorePlan
from ..state.rates import Rates, Work
from ..state.window import Overflow
from .blob_access import BlobAccess
from .capture import Foreseeing, Outcome, Woken
from .switch import read_small

_ANEW = "the conversation is rendered anew"
_OF_IDS = ("tokens", "vision_cache", "kv_cache")
_LAYERS: tuple[LayerName, ...] = ("text_context", "tokens", "media", "config_snapshot")


def must_render(plan: RestorePlan, manifest: Manifest, window: int | None) -> bool:
    """Tell whether the target has to put messages into its own form, or may have to leave some out."""
    if plan.mode == "refuse" or "text_context" not in manifest.layers:
        return False
    too_long = window is not None and manifest.tokens >= window and plan.tokens_reused == 0
    return plan.base_id is not None or not plan.reuses("tokens") or too_long


def foreseen(
    manifest: Manifest, plan: RestorePlan, target: Any, blobs: BlobAccess, overflow: Overflow, rates: Rates
) -> RestorePlan:
    """Count what the target will make of the conversation. The small layers and the source images are read for it."""
    assert isinstance(target, Foreseeing)
    try:
        layers: dict[LayerName, Any] = {
            name: read_small(manifest, name, blobs, target.from_leaf)  # type: ignore[attr-defined]
            for name in _LAYERS
            if plan.reuses(name)
        }
        outcome = target.foresee(Woken(plan, layers, manifest.tokens, None, None, overflow))
    except ContextTooLong as error:
        return replace(plan, notes=(*plan.notes, f"{error.detail}. {error.hint}"))
    except (BadInput, Damaged, NotFound, StoreFailed) as error:
        return replace(plan, notes=(*plan.notes, f"the tokens could not be counted: {error.detail}"))
    return with_outcome(plan, outcome, rates)


def with_outcome(plan: RestorePlan, outcome: Outcome, rates: Rates | None = None) -> RestorePlan:
    """Put into a plan what a target made, or will make, of it."""
    lower = outcome.mode is not None and MODES.index(outcome.mode) > MODES.index(plan.mode)
    if outcome.mode is not None and lower:
        again = {n: ("rebuild", _ANEW) if n in _OF_IDS and w[0] == "reuse" else w for n, w in plan.layers.items()}
        plan = replace(plan, mode=outcome.mode, layers=again, tokens_reused=0, base_id=None)  # type: ignore[arg-type]
    if outcome.tokens is None:
        return replace(plan, notes=(*plan.notes, *outcome.notes))
    prefill = max(outcome.tokens - plan.tokens_reused, 0)
    work = Work(plan.bytes_read, plan.bytes_fetch, plan.tokens_reused, new_tokens=prefill, pictures=outcome.pictures)
    return replace(
        plan,
        tokens_prefill=prefill,
        estimated_s=rates.seconds(work) if rates is not None else plan.estimated_s,
        notes=(*plan.notes, *outcome.notes),
    )
