"""A loaded transformers model in which a session is woken."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from transformers import StaticCache

from ..client.capture import KVSink, LiveKV, Outcome, Woken
from ..client.memory import spare_bytes
from ..client.remembered import Memory
from ..client.transfer import Progress, no_progress
from ..codec import torch_bridge
from ..codec.tree import FromLeaf
from ..state.block_keys import Medium, TokenRow
from ..state.canary import CanaryResult
from ..state.errors import BadInput, UnsupportedState
from ..state.manifest import KVCache
from ..state.plan import Mode, TargetState
from . import canary
from .chat import extend
from .device import device_name, spare_device_bytes
from .dynamic_cache import DYNAMIC, STATIC, CacheSink, LiveCache, odd_static_layer
from .generation import without_token_ids
from .last_step import Step
from .loaded_weights import Over, is_known
from .model_identity import describe_model
from .session import TransformersSession
from .token_row import row_of_ids
from .token_state import new_rope_deltas, set_rng, usable_rng
from .vision import Media, from_encoder_output
from .waking import Decider, Waking


class TransformersTarget:
    """A loaded model in which a session is woken.

    Its first description reads all weights; `progress` is told of bytes done and in all meanwhile. With
    `cache="static"` sessions get a StaticCache of `max_cache_len` tokens. A KV cache goes into either kind, whichever
    it was saved from; the numbers in it are the same, the kernels that read them may differ in the last bits.
    """

    from_leaf: FromLeaf = staticmethod(torch_bridge.from_leaf)

    def __init__(
        self,
        model: Any,
        *,
        tokenizer: Any = None,
        processor: Any = None,
        progress: Progress = no_progress,
        cache: Literal["dynamic", "static"] = "dynamic",
        max_cache_len: int | None = None,
    ) -> None:
        if cache not in ("dynamic", "static") or (cache == "static") != (max_cache_len is not None):
            raise BadInput(
                f"a {str(cache)[:40]!r} cache with max_cache_len {max_cache_len}",
                hint="Give cache='static' and max_cache_len together, or neither for a dynamic cache.",
            )
        self.model, self.tokenizer, self.processor = model, tokenizer, processor
        self._static_tokens = max_cache_len
        self._progress = progress
        self._memory: Memory | None = None
        self._over: Over | None = None  # what lay over the weights at the last description

    def use_memory(self, memory: Memory) -> None:
        """Remember digests of weights there, so that the next process need not read them."""
        self._memory = memory

    def is_familiar(self) -> bool:
        """Tell whether the weights were read before."""
        return is_known(self.model)

    def describe(self) -> TargetState:
        """Return the model's fingerprint, its window, and the memory that is free for it."""
        found = describe_model(
            self.model,
            tokenizer=self.tokenizer,
            processor=self.processor,
            memory=self._memory,
            progress=self._progress,
        )
        self._over = found.over
        config, static = self.model.config.get_text_config(), self._static_tokens
        limits = [n for n in (found.window_tokens, static) if n is not None]
        own, others = (DYNAMIC, [STATIC]) if static is None else (STATIC, [DYNAMIC])
        odd = None if static is None else odd_static_layer(config)
        if odd is not None:
            own, others = f"{STATIC} with {odd}", []
        return TargetState(
            replace(found.fingerprint, cache_class=own),
            cache_classes=tuple(others),
            window_tokens=min(limits) if limits else None,
            host_free_bytes=spare_bytes(),
            device_free_bytes=spare_device_bytes(self.model.device),
            device=device_name(self.model.device),
            notes=found.notes,
        )

    def allocate(self, kv: KVCache) -> KVSink:
        """Return fresh host memory for a cache. Raises: UnsupportedState where this model has other layers."""
        layers = getattr(self.model.config.get_text_config(), "num_hidden_layers", len(kv.layout.layers))
        if layers != len(kv.layout.layers):
            raise UnsupportedState(f"the saved cache has {len(kv.layout.layers)} layers, the model {layers}")
        if self._static_tokens is not None:
            self._check_room(kv, self._static_tokens)
        return CacheSink(kv)

    def _check_room(self, kv: KVCache, tokens: int) -> None:
        if kv.tokens >= tokens:
            raise UnsupportedState(
                f"the saved cache has {kv.tokens} tokens, this target's static cache room for {tokens}",
                hint="Make the target with a larger max_cache_len, or with a dynamic cache.",
            )
        on_device = spare_device_bytes(self.model.device)
        need, free = tokens * kv.layout.token_bytes(), spare_bytes() if on_device is None else on_device
        if free is not None and need > free:
            raise UnsupportedState(
                f"a static cache of {tokens} tokens takes {need} bytes, {free} are free",
                hint="Make the target with a smaller max_cache_len, or with a dynamic cache.",
            )

    def check(self, woken: Woken) -> CanaryResult:
        """Run the canary: feed the last cached token again, and compare. The model stays as it was."""
        reference = canary.from_tree((woken.layers.get("tokens") or {}).get("canary"))
        if reference is None:
            return CanaryResult("not saved", "the backup holds no logits of a one-token step")
        return canary.run_again(self._session(woken), reference)

    def foresee(self, woken: Woken) -> Outcome:
        """Tell what `adopt` will make of the small layers. Raises: ContextTooLong, UnsupportedState."""
        return self._decide(woken)[1]

    def _decide(self, woken: Woken) -> tuple[Waking, Outcome]:
        waking = Decider(self.model, self.tokenizer, self.processor, woken).decide()
        if waking.ids is None and waking.draft is None:  # nothing for the model to read
            return waking, Outcome(None, notes=tuple(waking.notes), mode="text-only" if waking.notes else None)
        images = waking.draft.images if waking.draft is not None else []
        mode: Mode | None = None
        if waking.ids is None:
            mode = "media" if images else "text-only"
        pictures = sum(waking.pictures.placeholders(n) for n in images)
        return waking, Outcome(waking.tokens, pictures, tuple(waking.notes), mode)

    def adopt(self, woken: Woken) -> TransformersSession:
        """Make a live session and activate it.

        From the saved ids where the plan takes them over, else from the conversation in this model's own form, its
        images encoded again. Raises: ContextTooLong, UnsupportedState, before the model is touched.
        """
        device = self.model.device
        waking, woken.outcome = self._decide(woken)
        tokens: dict[str, Any] = {} if waking.ids is None else woken.layers.get("tokens") or {}
        rng = usable_rng(tokens.get("rng_state") or {}, device)
        made = waking.pictures.encode(waking.draft.images) if waking.draft is not None else None
        session = self._session(woken, from_ids=waking.ids is not None)
        self._over = None  # the next one is described first, or looks for itself
        session.observations += waking.pictures.observations
        session.mark, session.notes = waking.mark, list(waking.notes)
        if waking.draft is not None and waking.talk is not None:
            if waking.ids is None:
                session.config = without_token_ids(session.config)
            extend(session, waking.draft, made)
            session.media = waking.pictures.media
            if isinstance(session.conversation, list):
                session.conversation = waking.talk.messages
            else:
                session.mark = None  # a tree: its owner says where the answer belongs
        session.activate()
        for kind, state in rng.items():
            set_rng(kind, state, device)
        return session

    def _session(self, woken: Woken, *, from_ids: bool = True) -> TransformersSession:
        tokens: dict[str, Any] = (woken.layers.get("tokens") or {}) if from_ids else {}
        device, kv = self.model.device, woken.kv if tokens else None
        text: dict[str, Any] = woken.layers.get("text_context") or {}
        vision: dict[str, Any] = (woken.layers.get("vision_cache") or {}) if tokens else {}
        cache, static, model_config = None, self._static_tokens, self.model.config.get_text_config()
        if isinstance(kv, CacheSink):
            cache = kv.to_cache(model_config, device, static)
        elif static is not None:
            cache = StaticCache(model_config, max_cache_len=static)

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
            vision={kind: from_encoder_output(value, device) for kind, value in vision.items()},
            media=[Media(m["data"], m["media_type"]) for m in woken.layers.get("media") or []],
            conversation=text.get("conversation") or text.get("conversation_history") or [],
            tools=text.get("tools") or [],
            tool_calls=text.get("tool_calls") or [],
            thinking=text.get("thinking"),
            config=_unpruned(woken.layers.get("config_snapshot")),
            metadata=_unpruned(woken.layers.get("metadata")),
            rope_deltas=tokens.get("rope_deltas") if kv is not None else None,
        )
        if kv is not None:
            self._check_cache(session, self._over)
        reference = canary.from_tree(tokens.get("canary"))
        if kv is not None and reference is not None:  # the next save has it again, unless a step comes before
            fed = session.token_ids[:, : reference.position + 1]
            session.last_step = Step(weakref.ref(cache), fed, reference.environment, tree=tokens["canary"])
        return session

    @staticmethod
    def _check_cache(session: TransformersSession, over: Over | None) -> None:
        """Make sure of what `generate` would not notice, and note what the cache was found to be of.

        That is what lay over the weights when the backup's fingerprint was compared with theirs.
        Raises: UnsupportedState.
        """
        reason = session.why_not_ours(session.cache)
        if reason is not None:  # a manifest that lies
            raise UnsupportedState(reason, hint="Restore with at_most='embeddings': the cache is made again.")
        if session.rope_deltas is None:  # else those of another session would count
            session.rope_deltas = new_rope_deltas(session)
        session.note_adapters(over)

    def token_row(self, token_ids: Any, media: Sequence[Medium] = ()) -> TokenRow:
        """Return ids (a tensor, or integers) with the media that stand behind their placeholders."""
        return row_of_ids(torch.as_tensor(token_ids), self.model.config, media)

    def prefix_cache(self, sink: KVSink, tokens: int) -> Any:
        """Make a live cache of the first `tokens` positions of a filled sink."""
        assert isinstance(sink, CacheSink)
        sink.cut(tokens)
        return sink.to_cache(self.model.config.get_text_config(), self.model.device)

    def live_cache(self, cache: Any) -> LiveKV:
        """Return a cache of `prefix_cache` as a live one."""
        return LiveCache(cache)

    def live(self, session: Any) -> LiveKV | None:
        """Return the cache of a woken session."""
        return LiveCache(session.cache) if session.cache is not None else None


def _unpruned(layer: dict[str, Any] | None) -> dict[str, Any]:
    """Return a layer without the word that the cache was pruned: such a cache is never taken over."""
    return {key: value for key, value in (layer or {}).items() if key != "kv_cache_pruned"}
