"""The fingerprint of a transformers model in memory: digests of its parameters, configs, tokenizer and processor."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson
import torch
from blake3 import blake3

from ..codec.torch_bridge import tensor_leaf
from ..state.fingerprint import NONE, Fingerprint

# Keys of a config that do not change what the model computes.
_VOLATILE = {
    "_name_or_path", "architectures", "transformers_version", "use_cache", "output_attentions", "output_hidden_states",
    "return_dict", "id2label", "label2id", "problem_type", "dtype", "torch_dtype", "_attn_implementation",
    "chunk_size_feed_forward", "tie_encoder_decoder",
}  # fmt: skip
_ROPE = {"rope_parameters", "rope_scaling", "rope_theta", "partial_rotary_factor", "max_position_embeddings"}
_PIECE_BYTES = 64 << 20

_known: weakref.WeakKeyDictionary[Any, tuple[tuple[int, ...], str, str]] = weakref.WeakKeyDictionary()
_known_lock = threading.Lock()


def fingerprint_of(
    model: Any, *, tokenizer: Any = None, processor: Any = None, kv_dtype: str | None = None
) -> Fingerprint:
    """Return what a model is. The first call for a model reads all of its parameters; later ones remember.

    A parameter that was changed or replaced since is noticed by torch's version counters and addresses.
    """
    weights, vision = _weights(model)
    config = model.config
    text_config = config.get_text_config()
    text = _cleaned(text_config.to_dict())
    tokenizer = tokenizer if tokenizer is not None else getattr(processor, "tokenizer", None)
    return Fingerprint(
        weights=weights,
        quantization=_digest_json(_as_dict(getattr(config, "quantization_config", None))),
        adapters=_digest_json({k: _as_dict(v) for k, v in (getattr(model, "peft_config", None) or {}).items()} or None),
        text_config=_digest_json({k: v for k, v in text.items() if k not in _ROPE}),
        rope_config=_digest_json({k: v for k, v in text.items() if k in _ROPE}),
        kv_dtype=kv_dtype or str(model.dtype).removeprefix("torch."),
        kv_layout="layer,kv,batch,head,token,dim/1",
        cache_class="DynamicCache",
        vision_weights=vision,
        processor=_processor(processor),
        tokenizer=_tokenizer(tokenizer),
        chat_template=_template(tokenizer, processor),
    )


def _weights(model: Any) -> tuple[str, str]:
    """Return the digests of the language part and of the vision tower (`none` without one)."""
    named = [*model.named_parameters(), *((name, b) for name, b in model.named_buffers() if b is not None)]
    stamp = tuple(n for _, t in named for n in (t.data_ptr(), t._version))
    with _known_lock:
        known = _known.get(model)
        if known is None or known[0] != stamp:
            language = [(n, t) for n, t in named if not _is_vision(n)]
            vision = [(n, t) for n, t in named if _is_vision(n)]
            known = stamp, _digest_tensors(language), _digest_tensors(vision) if vision else NONE
            _known[model] = known
    return known[1], known[2]


def _is_vision(name: str) -> bool:
    return any(part in ("visual", "vision_tower", "vision_model", "multi_modal_projector") for part in name.split("."))


def _digest_tensors(named: list[tuple[str, torch.Tensor]]) -> str:
    """Digest names, shapes, dtypes and bytes; tensors are hashed side by side."""
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        digests = list(threads.map(lambda item: _digest_tensor(item[1]), named))
    total = blake3()
    for (name, tensor), digest in sorted(zip(named, digests, strict=True), key=lambda pair: pair[0][0]):
        total.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0{digest}\n".encode())
    return total.hexdigest()


def _digest_tensor(tensor: torch.Tensor) -> str:
    hasher, flat = blake3(), tensor.detach().reshape(-1)
    step = max(_PIECE_BYTES // max(flat.element_size(), 1), 1)
    for at in range(0, flat.numel(), step):
        hasher.update(tensor_leaf(flat[at : at + step], copy=False).data)
    return hasher.hexdigest()


def _as_dict(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else value


def _cleaned(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in _VOLATILE}


def _digest_json(value: Any) -> str:
    if value is None:
        return NONE
    options = orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS
    return blake3(orjson.dumps(value, default=str, option=options)).hexdigest()


def _tokenizer(tokenizer: Any) -> str | None:
    """Digest what a tokenizer does: its backend where it is a fast one, else vocabulary and special tokens."""
    if tokenizer is None:
        return None
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return blake3(backend.to_str().encode()).hexdigest()
    return _digest_json({"vocab": tokenizer.get_vocab(), "special": tokenizer.special_tokens_map})


def _template(tokenizer: Any, processor: Any) -> str | None:
    if tokenizer is None:
        return None
    template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
    return NONE if template is None else _digest_json(template)


def _processor(processor: Any) -> str | None:
    if processor is None:
        return None
    parts = {name: _as_dict(getattr(processor, name, None)) for name in ("image_processor", "video_processor")}
    found = {name: _cleaned(value) for name, value in parts.items() if isinstance(value, dict)}
    return _digest_json(found or _cleaned(_as_dict(processor)))
