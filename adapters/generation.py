"""Settings of `generate`: what a session keeps of them, and how a call's options go before them."""

from __future__ import annotations

from typing import Any

from transformers.generation import GenerationConfig

from ..state.switch import TOKEN_ID_SETTINGS


def generation_config(model: Any) -> dict[str, Any]:
    """Return the settings in which a model differs from the defaults."""
    config = getattr(model, "generation_config", None)
    return dict(config.to_diff_dict()) if isinstance(config, GenerationConfig) else {}


_SETTINGS = frozenset(GenerationConfig().to_dict()) - {"transformers_version"}


def without_token_ids(config: dict[str, Any]) -> dict[str, Any]:
    """Return settings without those that name token ids: another model's own come in their place."""
    return {key: value for key, value in config.items() if key not in TOKEN_ID_SETTINGS}


def generation_settings(config: dict[str, Any], options: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Merge a session's settings with the options of one call, which go before them."""
    given = options.get("generation_config") is not None  # then it decides alone
    settings = {} if given else {k: v for k, v in config.items() if k in _SETTINGS}
    if {"max_length", "max_new_tokens"} & options.keys():  # either of them replaces both
        settings = {k: v for k, v in settings.items() if k not in ("max_length", "max_new_tokens")}
    settings |= options
    if settings.get("stop_strings") and tokenizer is not None:
        settings.setdefault("tokenizer", tokenizer)
    return {**settings, "return_dict_in_generate": True}
