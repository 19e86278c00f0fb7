"""Sessions of `Qwen3VLForConditionalGeneration` and of any causal LM with a DynamicCache.

What must be kept for a session to go on bit for bit was found by trying (see docs/ARCHITECTURE.md): the KV of every
layer, the exact ids with the last sampled but unfed one, the rope deltas (an attribute of the model, not of the cache),
grids and token types, the attention mask, the RNG state; and for a new prefill without pixels the pooled embeddings
with every deepstack tensor in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.generation import GenerationConfig

from ..client.capture import Capture, KVSink, LiveKV, Woken
from ..codec import torch_bridge
from ..codec.tree import FromLeaf, Leaf
from ..state.errors import UnsupportedState
from ..state.fingerprint import Fingerprint
from ..state.manifest import KVCache, LayerName
from ..state.plan import TargetState
from .dynamic_cache import CacheSink, LiveCache, why_unsupported
from .model_identity import Stamp, fingerprint_of, tokenizer_digest, weights_stamp


@dataclass(slots=True)
class Media:
    """A source image or video frame as the user sent it. Encoded bytes, so that any model can encode it again."""

    data: bytes
    media_type: str = "image/png"


@dataclass(eq=False)
class TransformersSession:
    """A running session. Set the fields as it goes on, or let `generate` do it.

    `token_ids` is `[batch, length]`, int64, all ids so far; the cache holds one fewer (the last is sampled, not fed).
    `vision` is what `generate` takes as `mm_encoder_outputs`: one encoder output each for `image` and `video`.
    `rope_deltas` left None is read from the model, which is right as long as one session at a time uses it.
    """

    model: Any
    token_ids: torch.Tensor
    tokenizer: Any = None
    processor: Any = None
    cache: Any = None
    attention_mask: torch.Tensor | None = None
    mm_token_type_ids: torch.Tensor | None = None
    image_grid_thw: torch.Tensor | None = None
    video_grid_thw: torch.Tensor | None = None
    vision: dict[str, Any] = field(default_factory=dict)
    media: list[Media] = field(default_factory=list)
    conversation: list[Any] = field(default_factory=list)
    tool_calls: list[Any] = field(default_factory=list)
    thinking: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    rope_deltas: torch.Tensor | None = None

    def __post_init__(self) -> None:
        tokenizer_digest(self.tokenizer)  # here, so that no save pays for it and no other thread touches it

    def capture(self) -> Capture:
        """Take a consistent picture in the calling thread. Raises: UnsupportedState."""
        layers: dict[LayerName, Any] = {
            "metadata": {**self.metadata, "model_name": _model_name(self.model)},
            "text_context": {
                "conversation": self.conversation,
                "tool_calls": self.tool_calls,
                "thinking": self.thinking,
            },
            "tokens": self._tokens_layer(),
            "config_snapshot": {**_generation_config(self.model), **self.config},
        }
        if self.media:
            layers["media"] = [{"data": m.data, "media_type": m.media_type} for m in self.media]
        if self.vision:
            layers["vision_cache"] = {kind: _encoder_output(out) for kind, out in self.vision.items()}
        kv, omitted = self._kv()
        kv_dtype, stamp = kv.layout.dtype if kv is not None else None, weights_stamp(self.model)
        return Capture(
            adapter="transformers",
            layers=layers,
            to_leaf=_to_leaf,
            tokens=int(self.token_ids.shape[-1]),
            kv=kv,
            fingerprint=lambda: self.fingerprint(kv_dtype, stamp),
            omitted=omitted,
        )

    def fingerprint(self, kv_dtype: str | None = None, stamp: Stamp | None = None) -> Fingerprint:
        """Return what the session's model, tokenizer and processor are (see `fingerprint_of`)."""
        return fingerprint_of(
            self.model, tokenizer=self.tokenizer, processor=self.processor, kv_dtype=kv_dtype, stamp=stamp
        )

    def _tokens_layer(self) -> dict[str, Any]:
        rng = {"cpu": torch.get_rng_state()}
        device = self.token_ids.device
        if device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(device)
        deltas = self.rope_deltas if self.rope_deltas is not None else _rope_deltas(self.model)
        return {
            "ids": _narrow(self.token_ids),
            "attention_mask": _narrow(self.attention_mask),
            "mm_token_type_ids": _narrow(self.mm_token_type_ids),
            "image_grid_thw": _narrow(self.image_grid_thw),
            "video_grid_thw": _narrow(self.video_grid_thw),
            "rope_deltas": deltas,
            "rng_state": rng,
            "attention": getattr(self.model.config, "_attn_implementation", None),
        }

    def _kv(self) -> tuple[LiveCache | None, dict[str, str]]:
        if self.cache is None:
            return None, {}
        reason = why_unsupported(self.cache)
        if reason is None:
            length = int(self.cache.get_seq_length())
            if length != self.token_ids.shape[-1] - 1:
                reason = f"the cache covers {length} of {self.token_ids.shape[-1]} ids; it must be one short of them"
        if reason is not None:
            return None, {"kv_cache": reason}
        return LiveCache(self.cache), {}

    def activate(self) -> None:
        """Put the rope deltas, which belong to the session but live in the model, back there.

        `generate` does it by itself; a loop of your own calls it when another session has used the model in between.
        """
        holder = _rope_holder(self.model)
        if holder is not None:
            deltas = self.rope_deltas
            holder.rope_deltas = None if deltas is None else deltas.to(self.token_ids.device)

    def model_inputs(self) -> dict[str, Any]:
        """Return the keyword arguments with which `model.generate` goes on from here."""
        inputs: dict[str, Any] = {
            "input_ids": self.token_ids,
            "attention_mask": self.attention_mask
            if self.attention_mask is not None
            else torch.ones_like(self.token_ids),
            "past_key_values": self.cache,
            "mm_token_type_ids": self.mm_token_type_ids,
            "image_grid_thw": self.image_grid_thw,
            "video_grid_thw": self.video_grid_thw,
        }
        if self.vision and (self.cache is None or self.cache.get_seq_length() == 0):
            inputs["mm_encoder_outputs"] = dict(self.vision)
        return {name: value for name, value in inputs.items() if value is not None}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def generate(self, **options: Any) -> Any:
        """Call `model.generate` with the session's settings, keep its fields in step, and return the output.

        Settings are those in `config` that `GenerationConfig` knows (a woken session has those it was saved with);
        `options` go before them.
        """
        before = self.token_ids.shape[-1]
        if self.rope_deltas is not None or self.cache is None:
            self.activate()
        settings = _generation_settings(self.config, options, self.tokenizer)
        out = self.model.generate(**self.model_inputs(), **settings)
        self.cache = out.past_key_values
        self.extend(out.sequences[:, before:])
        self.rope_deltas = _rope_deltas(self.model)
        return out

    def extend(self, ids: torch.Tensor) -> None:
        """Append ids `[batch, new]` (sampled ones, or a new text message) to ids, mask and token types."""
        self.token_ids = torch.cat([self.token_ids, ids], dim=-1)
        if self.attention_mask is not None:
            self.attention_mask = torch.cat([self.attention_mask, torch.ones_like(ids)], dim=-1)
        if self.mm_token_type_ids is not None:
            zeros = torch.zeros_like(ids, dtype=self.mm_token_type_ids.dtype)
            self.mm_token_type_ids = torch.cat([self.mm_token_type_ids, zeros], dim=-1)


@torch.no_grad()  # type: ignore[untyped-decorator]
def encode_images(model: Any, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> dict[str, Any]:
    """Run the vision tower once; the result goes into `TransformersSession.vision` and is saved with the session."""
    return {"image": model.get_image_features(pixel_values, image_grid_thw, return_dict=True)}


class TransformersTarget:
    """A loaded model in which a session is woken."""

    from_leaf: FromLeaf = staticmethod(torch_bridge.from_leaf)

    def __init__(self, model: Any, *, tokenizer: Any = None, processor: Any = None) -> None:
        self.model, self.tokenizer, self.processor = model, tokenizer, processor

    def describe(self) -> TargetState:
        """Return the model's fingerprint."""
        return TargetState(fingerprint_of(self.model, tokenizer=self.tokenizer, processor=self.processor))

    def allocate(self, kv: KVCache) -> KVSink:
        """Return fresh host memory for a cache. Raises: UnsupportedState where this model has other layers."""
        layers = getattr(self.model.config.get_text_config(), "num_hidden_layers", len(kv.layout.layers))
        if layers != len(kv.layout.layers):
            raise UnsupportedState(f"the saved cache has {len(kv.layout.layers)} layers, the model {layers}")
        return CacheSink(kv)

    def adopt(self, woken: Woken) -> TransformersSession:
        """Make a live session and activate it."""
        device = self.model.device
        tokens: dict[str, Any] = woken.layers.get("tokens") or {}
        rng = _usable_rng(tokens.get("rng_state") or {}, device)
        text: dict[str, Any] = woken.layers.get("text_context") or {}
        vision: dict[str, Any] = woken.layers.get("vision_cache") or {}
        cache = None
        if isinstance(woken.kv, CacheSink):
            cache = woken.kv.to_cache(self.model.config.get_text_config(), device)

        def wide(name: str) -> torch.Tensor | None:
            value = tokens.get(name)
            return (
                None if value is None else value.to(device, value.dtype if value.dtype == torch.bool else torch.int64)
            )

        ids = wide("ids")
        session = TransformersSession(
            model=self.model,
            token_ids=ids if ids is not None else torch.empty((1, 0), dtype=torch.int64, device=device),
            tokenizer=self.tokenizer,
            processor=self.processor,
            cache=cache,
            attention_mask=wide("attention_mask"),
            mm_token_type_ids=wide("mm_token_type_ids"),
            image_grid_thw=wide("image_grid_thw"),
            video_grid_thw=wide("video_grid_thw"),
            vision={kind: _from_encoder_output(value, device) for kind, value in vision.items()},
            media=[Media(m["data"], m["media_type"]) for m in woken.layers.get("media") or []],
            conversation=text.get("conversation") or [],
            tool_calls=text.get("tool_calls") or [],
            thinking=text.get("thinking"),
            config=woken.layers.get("config_snapshot") or {},
            metadata=woken.layers.get("metadata") or {},
            rope_deltas=tokens.get("rope_deltas") if cache is not None else None,
        )
        session.activate()
        for kind, state in rng.items():
            _set_rng(kind, state, device)
        return session

    def live(self, session: Any) -> LiveKV | None:
        """Return the cache of a woken session."""
        return LiveCache(session.cache) if session.cache is not None else None


@dataclass(frozen=True, slots=True)
class _Embedding:
    """An output of the vision tower. Nobody writes into it, so a save may share its memory and remember its digest."""

    tensor: torch.Tensor


def _to_leaf(value: Any) -> Leaf | None:
    """Take a tensor as a leaf: a copy, but for embeddings that count their changes (inference tensors do not)."""
    if not isinstance(value, _Embedding):
        return torch_bridge.to_leaf(value)
    tensor = value.tensor
    if tensor.is_inference():
        return torch_bridge.to_leaf(tensor)
    return torch_bridge.tensor_leaf(tensor, copy=False, memo=(tensor, tensor._version))


def _narrow(tensor: torch.Tensor | None) -> torch.Tensor | None:
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


def _rope_holder(model: Any) -> Any:
    inner = getattr(model, "model", None)
    return inner if hasattr(inner, "rope_deltas") else None


def _rope_deltas(model: Any) -> torch.Tensor | None:
    holder = _rope_holder(model)
    return None if holder is None or holder.rope_deltas is None else holder.rope_deltas.detach().clone()


def _model_name(model: Any) -> str:
    return str(getattr(model.config, "_name_or_path", "") or type(model).__name__)


def _generation_config(model: Any) -> dict[str, Any]:
    config = getattr(model, "generation_config", None)
    return dict(config.to_diff_dict()) if isinstance(config, GenerationConfig) else {}


_SETTINGS = frozenset(GenerationConfig().to_dict()) - {"transformers_version"}


def _generation_settings(config: dict[str, Any], options: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Merge a session's settings with the options of one call, which go before them."""
    given = options.get("generation_config") is not None  # then it decides alone
    settings = {} if given else {k: v for k, v in config.items() if k in _SETTINGS}
    if {"max_length", "max_new_tokens"} & options.keys():  # either of them replaces both
        settings = {k: v for k, v in settings.items() if k not in ("max_length", "max_new_tokens")}
    settings |= options
    if settings.get("stop_strings") and tokenizer is not None:
        settings.setdefault("tokenizer", tokenizer)
    return {**settings, "return_dict_in_generate": True}


def _set_rng(kind: str, state: torch.Tensor, device: torch.device) -> None:
    if kind == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)


def _usable_rng(saved: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Return the RNG states that this process can take. Raises: UnsupportedState before anything is touched."""
    usable = {kind: state for kind, state in saved.items() if kind in ("cpu", device.type)}
    for kind, state in usable.items():
        try:
            torch.Generator("cpu" if kind == "cpu" else device).set_state(state)
        except (RuntimeError, TypeError) as error:
            raise UnsupportedState(f"the saved {kind} RNG state is not one of this torch: {error}") from error
    return usable


def _encoder_output(output: Any) -> dict[str, Any]:
    deepstack = getattr(output, "deepstack_features", None)
    return {
        "embeddings": [_Embedding(t) for t in output.pooler_output],
        "deepstack": None if deepstack is None else [[_Embedding(t) for t in features] for features in deepstack],
    }


def _from_encoder_output(value: dict[str, Any], device: Any) -> Any:
    from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

    deepstack = value.get("deepstack")
    return BaseModelOutputWithDeepstackFeatures(
        pooler_output=tuple(t.to(device) for t in value["embeddings"]),
        deepstack_features=None if deepstack is None else [tuple(t.to(device) for t in level) for level in deepstack],
    )
