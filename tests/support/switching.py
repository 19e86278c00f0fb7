"""Conversations on two really different small models: what their random weights write is readable text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torpor.adapters.demo_model import Loaded, other_model, picture, small_model
from torpor.adapters.transformers import Media, TransformersSession, TransformersTarget, start_chat

ASK = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is on the picture?"}]}
ZOOM = {"type": "function", "function": {"name": "zoom", "arguments": {"x": 3, "deep": [1.5, "ü"]}}}
TOOLS = [{"type": "function", "function": {"name": "zoom", "description": "Look closer", "parameters": {}}}]


@cache
def model_a() -> Loaded:
    return small_model()


@cache
def model_b() -> Loaded:
    return other_model()


def target_of(loaded: Loaded) -> TransformersTarget:
    return TransformersTarget(loaded.model, tokenizer=loaded.tokenizer, processor=loaded.image_processor)


def chat(loaded: Loaded, *messages: Any, media: list[Media] | None = None, **more: Any) -> TransformersSession:
    return start_chat(
        loaded.model, loaded.tokenizer, loaded.image_processor, messages, media=media or [Media(picture(120))], **more
    )


@cache
def _unreadable(name: str) -> list[int]:
    loaded = model_a() if name == "a" else model_b()
    tokens = [loaded.tokenizer.decode([i]) for i in range(loaded.model.config.text_config.vocab_size)]
    special = set(loaded.tokenizer.all_special_ids) | set(loaded.tokenizer.added_tokens_decoder)
    return [i for i, t in enumerate(tokens) if i in special or not (t.isascii() and t.isprintable()) or t in "<>"]


def options(loaded: Loaded, tokens: int = 8) -> dict[str, Any]:
    """Sample so many readable tokens."""
    name = "a" if loaded.tokenizer.chat_template == model_a().tokenizer.chat_template else "b"
    return {
        "max_new_tokens": tokens,
        "do_sample": True,
        "pad_token_id": 0,
        "eos_token_id": None,
        "suppress_tokens": _unreadable(name),
    }


def write(session: TransformersSession, text: str, *, end: bool = False) -> None:
    """Let the model have written a text."""
    ids = session.tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = [*ids, *([session.tokenizer.eos_token_id] if end else [])]
    session.extend(torch.tensor([ids]))
    session.prefill()


def shown(session: TransformersSession) -> str:
    """The context as text, each image as #."""
    text = session.tokenizer.decode(session.token_ids[0])
    for placeholder in ("<|image_pad|>", "[patch]"):
        text = text.replace(placeholder, "")
    return str(text).replace("<|vision_start|><|vision_end|>", "#").replace("[img][/img]", "#")


def kv(session: TransformersSession, tokens: int) -> list[torch.Tensor]:
    return [t[:, :, :tokens].clone() for layer in session.cache.layers for t in (layer.keys, layer.values)]


@contextmanager
def fed(model: Any) -> Iterator[list[int]]:
    """Count the tokens of each call of a model."""
    counts: list[int] = []

    def note(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        counts.append(int(kwargs["input_ids"].shape[-1]))

    note.torpor_observes = True  # type: ignore[attr-defined]
    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield counts
    finally:
        handle.remove()
