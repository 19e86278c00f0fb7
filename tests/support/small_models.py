"""Tiny models of real classes whose caches are of every kind."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Qwen3_5ForCausalLM,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

_SIZES: dict[str, Any] = {
    "vocab_size": 100, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.3,
}  # fmt: skip
_LINEAR = {
    "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
}  # fmt: skip
_EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
}  # fmt: skip


def _seeded(kind: Any, config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return kind(config).eval()


def plain() -> Any:
    """Full attention in every layer."""
    return _seeded(Qwen3ForCausalLM, Qwen3Config(**_SIZES))


def windows() -> Any:
    """Two layers of full attention, then two with a window of 16 tokens."""
    return _seeded(
        Qwen3ForCausalLM, Qwen3Config(**_SIZES, use_sliding_window=True, sliding_window=16, max_window_layers=2)
    )


def gemma() -> Any:
    """Windows of 16 tokens, and full attention in every third layer."""
    return _seeded(Gemma3ForCausalLM, Gemma3TextConfig(**_SIZES, sliding_window=16, sliding_window_pattern=3))


def qwen_next() -> Any:
    """Three layers of linear attention and one of full attention, with experts."""
    return _seeded(Qwen3NextForCausalLM, Qwen3NextConfig(**_SIZES, **_LINEAR, **_EXPERTS))


def qwen_3_5() -> Any:
    """Three layers of linear attention and one of full attention."""
    return _seeded(Qwen3_5ForCausalLM, Qwen3_5TextConfig(**_SIZES, **_LINEAR))
