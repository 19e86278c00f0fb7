"""Digests of what is not weights: configs, quantisation, tokenizer, chat template, processor."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from blake3 import blake3

from ..client.remembered import Memory
from ..state.fingerprint import NONE

# Keys of a config that do not change what the model computes.
_VOLATILE = {
    "_name_or_path", "architectures", "transformers_version", "use_cache", "output_attentions", "output_hidden_states",
    "return_dict", "id2label", "label2id", "problem_type", "dtype", "torch_dtype", "_attn_implementation",
    "chunk_size_feed_forward", "tie_encoder_decoder", "quantization_config", "auto_map", "processor_class",
    "_processor_class", "pad_token_id", "bos_token_id", "eos_token_id",
}  # fmt: skip
_ROPE = {"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "max_position_embeddings"}


def text_parts(config: Any) -> tuple[str, str]:
    """Return the digests of the text config and of the rope config.

    The first covers what stands beside a text config too, such as the ids of image placeholders.
    """
    inner = config.get_text_config()
    text = _cleaned(inner.to_dict())
    whole = {k: v for k, v in text.items() if k not in _ROPE}
    if inner is not config:
        beside = _cleaned(config.to_dict())
        whole = {"text": whole, **{k: v for k, v in beside.items() if not isinstance(v, dict) and k not in _ROPE}}
    return digest_json(whole), digest_json({k: v for k, v in text.items() if k in _ROPE})


def quantization_part(config: Any, quantizers: Iterable[str] = ()) -> str:
    """Digest how weights are quantised: as the config says, or where it says nothing by the classes in their place."""
    value = getattr(config, "quantization_config", None)
    if value is None:
        classes = sorted(quantizers)
        return digest_json({"classes": classes}) if classes else NONE
    if isinstance(value, dict):
        value = _with_defaults(value)
    return digest_json(as_dict(value))


def _with_defaults(value: dict[str, Any]) -> Any:
    """Return a quantisation config as the object that loading makes of it, where its method is known."""
    from transformers.quantizers.auto import AutoQuantizationConfig

    try:
        return AutoQuantizationConfig.from_dict(dict(value))
    except Exception:  # of a library that is not installed, or another version: compared as it stands
        return value


def vision_part(config: Any, weights: str | None, beside: Sequence[Any] = ()) -> str | None:
    """Digest the vision tower's weights together with its config, and with what else it is made of."""
    vision = getattr(config, "vision_config", None)
    if weights is None or vision is None:
        return weights
    text = f"{weights}\0{digest_json(_cleaned(as_dict(vision)))}" + (f"\0{digest_json(list(beside))}" if beside else "")
    return blake3(text.encode()).hexdigest()


def as_dict(value: Any) -> Any:
    """Return a config object as a dict."""
    return value.to_dict() if hasattr(value, "to_dict") else value


def _cleaned(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _VOLATILE}


def digest_json(value: Any) -> str:
    """Digest a value as JSON with sorted keys; `none` for None."""
    if value is None:
        return NONE
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    return blake3(orjson.dumps(value, default=_plain, option=options)).hexdigest()


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, (set, frozenset)) else str(value)


_tokenizers: weakref.WeakKeyDictionary[Any, tuple[tuple[Any, ...], str]] = weakref.WeakKeyDictionary()


def tokenizer_digest(tokenizer: Any, memory: Memory | None = None) -> str | None:
    """Digest what a tokenizer does: its backend where it is a fast one, else vocabulary and special tokens.

    Padding and truncation, which a call may leave set in the backend, do not count. Remembered while the number of
    tokens and the special ones stay, since a large vocabulary takes a tenth of a second; with `memory`, also for the
    next process, which then need not sort the vocabulary.
    """
    if tokenizer is None:
        return None
    stamp = (len(tokenizer), tuple(_flat(tokenizer.special_tokens_map.items())))
    known = _tokenizers.get(tokenizer)
    if known is not None and known[0] == stamp:
        return known[1]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        digest = _backend_digest(backend.to_str().encode(), memory)
    else:
        digest = digest_json({"vocab": tokenizer.get_vocab(), "special": tokenizer.special_tokens_map})
    _tokenizers[tokenizer] = stamp, digest
    return digest


def _backend_digest(written: bytes, memory: Memory | None) -> str:
    """Digest a backend as it writes itself (JSON), or remember the digest of the same bytes."""
    key = f"tokenizer:{blake3(written).hexdigest()}"
    known = None if memory is None else memory.get("digest", key)
    if isinstance(known, str):
        return known
    digest = digest_json({**orjson.loads(written), "padding": None, "truncation": None})
    if memory is not None:
        memory.put("digest", key, digest)
    return digest


def _flat(items: Iterable[tuple[str, Any]]) -> Iterable[str]:
    return (f"{name}={value}" for name, value in items)


def template_part(tokenizer: Any, processor: Any) -> str | None:
    """Digest the chat template: the processor's, or the tokenizer's."""
    if tokenizer is None:
        return None
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    return NONE if template is None else digest_json(template)


def processor_part(processor: Any) -> str | None:
    """Digest how pictures and videos are prepared. An image processor alone is a processor with nothing else."""
    if processor is None:
        return None
    parts = {name: as_dict(getattr(processor, name, None)) for name in ("image_processor", "video_processor")}
    found = {name: _cleaned(value) for name, value in parts.items() if isinstance(value, dict)}
    return digest_json(found or {"image_processor": _cleaned(as_dict(processor))})
