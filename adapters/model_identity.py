"""The fingerprint of a transformers model in memory: its weights, adapters, configs, tokenizer and processor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..client.remembered import Memory
from ..client.transfer import Progress, no_progress
from ..codec.weights import is_vision
from ..state.fingerprint import Fingerprint
from .loaded_weights import Over, Stamp, over_weights, weights_of, weights_stamp
from .model_configs import (
    digest_json,
    processor_part,
    quantization_part,
    template_part,
    text_parts,
    tokenizer_digest,
    vision_part,
)

__all__ = [
    "Identified",
    "Over",
    "Stamp",
    "describe_model",
    "fingerprint_of",
    "over_weights",
    "tokenizer_digest",
    "weights_stamp",
]

KV_LAYOUT = "layer,kv,batch,head,token,dim/1"


@dataclass(frozen=True, slots=True)
class Identified:
    """A fingerprint, for each part of it that is unknown the reason, and how many positions the model has.

    `over` is what lay over the weights, where the fingerprint is of the time it was made.
    """

    fingerprint: Fingerprint
    notes: dict[str, str] = field(default_factory=dict)
    window_tokens: int | None = None
    over: Over | None = None


def fingerprint_of(
    model: Any,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    kv_dtype: str | None = None,
    stamp: Stamp | None = None,
    memory: Memory | None = None,
    progress: Progress = no_progress,
) -> Fingerprint:
    """Return what a model is. The first call for a model reads all of its weights; later ones remember.

    `progress` is told of bytes done and in all while they are read. With `memory`, a model that was loaded from a
    folder need not be read by the next process. With `stamp`, weights and adapters are those of the time it was taken;
    what was changed since is unknown, and a KV cache that is saved with this fingerprint is never opened.
    """
    return describe_model(
        model,
        tokenizer=tokenizer,
        processor=processor,
        kv_dtype=kv_dtype,
        stamp=stamp,
        memory=memory,
        progress=progress,
    ).fingerprint


def describe_model(
    model: Any,
    *,
    tokenizer: Any = None,
    processor: Any = None,
    kv_dtype: str | None = None,
    stamp: Stamp | None = None,
    memory: Memory | None = None,
    progress: Progress = no_progress,
) -> Identified:
    """Return what a model is (see `fingerprint_of`), and why what is unknown is so."""
    found = weights_of(model, stamp, memory, progress)
    config = model.config
    text, rope = text_parts(config)
    seen = [odd for odd in found.frequencies if is_vision(odd[0])]
    heard = [odd for odd in found.frequencies if not is_vision(odd[0])]
    tokenizer = tokenizer if tokenizer is not None else getattr(processor, "tokenizer", None)
    fingerprint = Fingerprint(
        weights=found.digests.language if found.digests is not None else None,
        quantization=quantization_part(config, found.quantizers),
        adapters=found.adapters,
        text_config=text,
        rope_config=digest_json([rope, heard]) if heard else rope,
        kv_dtype=kv_dtype or str(model.dtype).removeprefix("torch."),
        kv_layout=KV_LAYOUT,
        cache_class="DynamicCache",
        vision_weights=vision_part(config, found.digests.vision if found.digests is not None else None, seen),
        processor=processor_part(processor),
        tokenizer=tokenizer_digest(tokenizer, memory),
        chat_template=template_part(tokenizer, processor),
    )
    notes = notes_of(fingerprint, found.problem, found.adapter_problem)
    return Identified(fingerprint, notes, window_of(config), found.over)


def window_of(config: Any) -> int | None:
    """Return how many positions a model has, where its config says so."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def notes_of(fingerprint: Fingerprint, problem: str | None, adapter_problem: str | None) -> dict[str, str]:
    """Return the reason for each part that is unknown."""
    reasons = {
        "weights": problem,
        "vision_weights": problem,
        "kv_dtype": problem,
        "adapters": adapter_problem,
        "processor": "no processor was given",
        "tokenizer": "no tokenizer was given",
        "chat_template": "no tokenizer was given",
    }
    return {part: why for part, why in reasons.items() if why is not None and fingerprint.part(part) is None}
