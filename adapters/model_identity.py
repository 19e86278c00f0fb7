"""The fingerprint of a transformers model in memory: digests of its parameters, configs, tokenizer and processor."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
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
_SAMPLES = 64  # elements of each parameter in a witness

Named = list[tuple[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Stamp:
    """Where a model's parameters lay at one time, and how often each had been changed.

    `epoch` counts the changes that left no such trace; `witness` is taken only while the digests are not known yet.
    """

    epoch: int
    places: tuple[int, ...]
    witness: bytes | None = None


@dataclass(slots=True)
class _Model:
    """What is known of one model's weights. The lock is held while they are read."""

    lock: threading.Lock
    epoch: int = 0
    places: tuple[int, ...] = ()
    witness: bytes | None = None
    language: str | None = None
    vision: str | None = None


_models: weakref.WeakKeyDictionary[Any, _Model] = weakref.WeakKeyDictionary()
_models_lock = threading.Lock()


def _model(model: Any) -> _Model:
    with _models_lock:
        return _models.setdefault(model, _Model(threading.Lock()))


def weights_stamp(model: Any) -> Stamp:
    """Return a model's stamp: cheap, and taken at every save."""
    named, known = _named(model), _model(model)
    unknown = known.witness is None and not _is_offloaded(named)
    return Stamp(known.epoch, _places(named), _witness(named) if unknown else None)


def _places(named: Named) -> tuple[int, ...]:
    return tuple(n for _, t in named for n in (t.data_ptr(), 0 if t.is_inference() else t._version))


def _is_offloaded(named: Named) -> bool:
    return any(tensor.is_meta for _, tensor in named)


def fingerprint_of(
    model: Any, *, tokenizer: Any = None, processor: Any = None, kv_dtype: str | None = None, stamp: Stamp | None = None
) -> Fingerprint:
    """Return what a model is. The first call for a model reads all of its parameters; later ones remember.

    With `stamp`, the weights are those at the time it was taken; if they were changed since, they are unknown, and a
    KV cache that is saved with this fingerprint is never opened. A change of weights is noticed by torch's version
    counters, by addresses, and (for writes through `.data`, which leave no trace) by a sample of every parameter.
    """
    language, vision = _weights(model, stamp)
    config = model.config
    text = _cleaned(config.get_text_config().to_dict())
    tokenizer = tokenizer if tokenizer is not None else getattr(processor, "tokenizer", None)
    return Fingerprint(
        weights=language,
        quantization=_digest_json(_as_dict(getattr(config, "quantization_config", None))),
        adapters=_digest_json({k: _as_dict(v) for k, v in (getattr(model, "peft_config", None) or {}).items()} or None),
        text_config=_digest_json({k: v for k, v in text.items() if k not in _ROPE}),
        rope_config=_digest_json({k: v for k, v in text.items() if k in _ROPE}),
        kv_dtype=kv_dtype or str(model.dtype).removeprefix("torch."),
        kv_layout="layer,kv,batch,head,token,dim/1",
        cache_class="DynamicCache",
        vision_weights=_vision_part(config, vision),
        processor=_processor(processor),
        tokenizer=tokenizer_digest(tokenizer),
        chat_template=_template(tokenizer, processor),
    )


def _vision_part(config: Any, weights: str | None) -> str | None:
    vision = getattr(config, "vision_config", None)
    if weights is None or vision is None:
        return weights
    return blake3(f"{weights}\0{_digest_json(_cleaned(_as_dict(vision)))}".encode()).hexdigest()


def _named(model: Any) -> Named:
    return [*model.named_parameters(), *((name, b) for name, b in model.named_buffers() if b is not None)]


def _weights(model: Any, stamp: Stamp | None) -> tuple[str | None, str | None]:
    """Return the digests of the language part and of the vision tower (`none` without one); None where unknown."""
    known = _model(model)
    with known.lock:
        named = _named(model)
        if _is_offloaded(named):
            return None, None
        places, witness = _places(named), _witness(named)
        if (known.places, known.witness) != (places, witness):
            if known.places == places:
                known.epoch += 1  # changed without a trace: stamps from before are of unknown weights
            language = [(n, t) for n, t in named if not _is_vision(n)]
            vision = [(n, t) for n, t in named if _is_vision(n)]
            known.language, known.vision = _digest_tensors(language), _digest_tensors(vision) if vision else NONE
            known.places, known.witness = places, witness
        if stamp is not None and not _is_of(stamp, known, _places(named)):
            return None, None
        return known.language, known.vision


def _is_of(stamp: Stamp, known: _Model, places: tuple[int, ...]) -> bool:
    """Tell whether the weights are those of a stamp: unchanged from it to the end of the digest."""
    same_witness = stamp.witness is None or stamp.witness == known.witness
    return same_witness and stamp.epoch == known.epoch and stamp.places == known.places == places


def _is_vision(name: str) -> bool:
    return any(part in ("visual", "vision_tower", "vision_model", "multi_modal_projector") for part in name.split("."))


def _witness(named: Named) -> bytes:
    """Digest a sample of every parameter: some 64 elements, evenly spread."""
    groups: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for _, tensor in named:
        flat = tensor.detach().reshape(-1)
        samples = groups.setdefault((flat.dtype, flat.device), [])
        samples.append(flat[:: max(1, flat.numel() // _SAMPLES)])
    total = blake3()
    for samples in groups.values():
        total.update(tensor_leaf(torch.cat(samples), copy=False).data)
    return total.digest()


def _digest_tensors(named: Named) -> str:
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


_tokenizers: weakref.WeakKeyDictionary[Any, tuple[tuple[Any, ...], str]] = weakref.WeakKeyDictionary()


def tokenizer_digest(tokenizer: Any) -> str | None:
    """Digest what a tokenizer does: its backend where it is a fast one, else vocabulary and special tokens.

    Padding and truncation, which a call may leave set in the backend, do not count. Remembered while the number of
    tokens and the special ones stay, since a large vocabulary takes a tenth of a second.
    """
    if tokenizer is None:
        return None
    stamp = (len(tokenizer), tuple(_flat(tokenizer.special_tokens_map.items())))
    known = _tokenizers.get(tokenizer)
    if known is not None and known[0] == stamp:
        return known[1]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        value = {**orjson.loads(backend.to_str()), "padding": None, "truncation": None}
    else:
        value = {"vocab": tokenizer.get_vocab(), "special": tokenizer.special_tokens_map}
    _tokenizers[tokenizer] = stamp, _digest_json(value)
    return _tokenizers[tokenizer][1]


def _flat(items: Iterable[tuple[str, Any]]) -> Iterable[str]:
    return (f"{name}={value}" for name, value in items)


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
