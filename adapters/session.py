"""A running session of a transformers model: what it is made of, how it is captured, how it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from ..client.capture import Capture
from ..client.remembered import Memory
from ..state.block_keys import TokenRow
from ..state.conversation import read_talk, settled
from ..state.errors import BadInput, UnsupportedState
from ..state.fingerprint import Fingerprint
from ..state.manifest import LayerName
from ..state.rates import Observation
from . import canary, chat
from .cache_kinds import why_unsupported
from .context import Mark
from .device import timed_prefill
from .dynamic_cache import DYNAMIC, LiveCache, note_fed
from .generation import generation_config, generation_settings
from .last_step import Step, StepWatch, step_of
from .model_identity import Over, Stamp, fingerprint_of, over_weights, tokenizer_digest, weights_stamp
from .token_row import row_of_session
from .token_state import media_spans, model_rope_deltas, narrow, new_rope_deltas, rope_holder
from .vision import Media, check_fed, encoder_output, to_leaf, unfed_outputs, why_incomplete

if TYPE_CHECKING:
    from .target import TransformersTarget


@dataclass(eq=False)
class TransformersSession:
    """A running session. Set the fields as it goes on, or let `generate` do it.

    `token_ids` is `[batch, length]`, int64, all ids so far; the cache holds one fewer (the last is sampled, not fed).
    `vision` is what `generate` takes as `mm_encoder_outputs`: one encoder output each for `image` and `video`.
    `conversation` and `tools` have the form of the chat templates; the i-th image part belongs to `media[i]`. `say`,
    `reply` and `finish` keep them, the ids and `mark` (how far the ids follow the conversation) in step.
    `media` are in the order of their placeholders, one for each row of a grid (videos have a `video/` type).
    `rope_deltas` left None is read from the model, which is right as long as one session at a time uses it.
    Set `kv_cache_pruned` when tokens were evicted from the cache: it is then left out of saves.
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
    tools: list[Any] = field(default_factory=list)
    tool_calls: list[Any] = field(default_factory=list)
    thinking: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    rope_deltas: torch.Tensor | None = None
    kv_cache_pruned: bool = False
    last_step: Step | None = field(default=None, repr=False)
    mark: Mark | None = None
    notes: list[str] = field(default_factory=list)  # what the model is not shown, and why; of this waking alone
    form: Any = field(default=None, init=False, repr=False)  # the chat form, made when it is first needed
    observations: list[Observation] = field(default_factory=list, repr=False)  # what was timed since the last save
    _memory: Memory | None = field(default=None, init=False, repr=False)
    _fed_under: Over | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        tokenizer_digest(self.tokenizer)  # here, so that no save pays for it and no other thread touches it

    def use_memory(self, memory: Memory) -> None:
        """Remember digests of weights there, so that the next process need not read them."""
        self._memory = memory

    def capture(self) -> Capture:
        """Take a consistent picture in the calling thread. Raises: UnsupportedState."""
        kv, omitted = self._kv()
        layers: dict[LayerName, Any] = {
            "metadata": {**self.metadata, "model_name": _model_name(self.model)},
            "text_context": {
                "conversation": self.conversation,
                "tool_calls": self.tool_calls,
                "thinking": self.thinking,
                **({"tools": self.tools} if self.tools else {}),
                **chat.progress(self),
            },
            "tokens": self._tokens_layer(kv),
            "config_snapshot": {**generation_config(self.model), **self.config},
        }
        if self.media:
            layers["media"] = [{"data": m.data, "media_type": m.media_type} for m in self.media]
        types, config = self.mm_token_type_ids, self.model.config
        incomplete = why_incomplete(self.vision, self.token_ids, types, config) if self.vision else None
        if incomplete is not None:
            omitted["vision_cache"] = incomplete
        elif self.vision:
            layers["vision_cache"] = {kind: encoder_output(out) for kind, out in self.vision.items()}
        kv_dtype, stamp = kv.layout.dtype if kv is not None else None, weights_stamp(self.model, self._fed_under)
        cache_class = kv.cache_class if kv is not None else DYNAMIC
        return Capture(
            adapter="transformers",
            layers=layers,
            to_leaf=to_leaf,
            tokens=int(self.token_ids.shape[-1]),
            kv=kv,
            fingerprint=lambda: replace(self.fingerprint(kv_dtype, stamp), cache_class=cache_class),
            omitted=omitted,
            media_spans=media_spans(self.token_ids, config),
            observations=self._take_observations(),
            row=row_of_session(self) if kv is not None else lambda: None,
        )

    def fingerprint(self, kv_dtype: str | None = None, stamp: Stamp | None = None) -> Fingerprint:
        """Return what the session's model, tokenizer and processor are (see `fingerprint_of`)."""
        return fingerprint_of(
            self.model,
            tokenizer=self.tokenizer,
            processor=self.processor,
            kv_dtype=kv_dtype,
            stamp=stamp,
            memory=self._memory,
        )

    def _take_observations(self) -> list[Observation]:
        taken, self.observations = self.observations, []
        return taken

    def _tokens_layer(self, kv: LiveCache | None) -> dict[str, Any]:
        rng = {"cpu": torch.get_rng_state()}
        device = self.token_ids.device
        if device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(device)
        deltas = self.rope_deltas if self.rope_deltas is not None else model_rope_deltas(self.model)
        reference = canary.to_tree(self.last_step, self.cache, self.token_ids) if kv is not None else None
        return {
            "ids": narrow(self.token_ids),
            "attention_mask": narrow(self.attention_mask),
            "mm_token_type_ids": narrow(self.mm_token_type_ids),
            "image_grid_thw": narrow(self.image_grid_thw),
            "video_grid_thw": narrow(self.video_grid_thw),
            "rope_deltas": deltas,
            "rng_state": rng,
            "attention": getattr(self.model.config, "_attn_implementation", None),
            **({} if reference is None else {"canary": reference}),
            **({} if self.mark is None else {"mark": self.mark.to_dict()}),
        }

    def _kv(self) -> tuple[LiveCache | None, dict[str, str]]:
        if self.cache is None:
            return None, {}
        reason = why_unsupported(self.cache) or self.why_not_ours(self.cache)
        return (LiveCache(self.cache), {}) if reason is None else (None, {"kv_cache": reason})

    def why_not_ours(self, cache: Any) -> str | None:
        """Return why a cache that could be saved is not that of this session's ids, or None."""
        length, (rows, ids) = int(cache.get_seq_length()), self.token_ids.shape
        if self.kv_cache_pruned or any(d.get("kv_cache_pruned") for d in (self.config, self.metadata)):
            return "the session says that its cache was pruned: which tokens it holds does not follow from its length"
        if length >= ids:
            return f"the cache covers {length} of {ids} ids; it must be one short of them"
        held = cache.layers[0].keys.shape[0]
        return f"the cache has {held} rows, the session {rows}" if held != rows else None

    def token_row(self) -> TokenRow | None:
        """Return the ids with the media behind them, or None where positions do not follow from them."""
        return row_of_session(self)()

    def prefix_target(self) -> TransformersTarget:
        """Return the session's model as a target for a prefix. Raises: BadInput when there is a cache already."""
        from .target import TransformersTarget

        if self.cache is not None:
            raise BadInput("the session has a cache already", hint="Reuse a prefix before the first prefill.")
        return TransformersTarget(self.model, tokenizer=self.tokenizer, processor=self.processor)

    def take_prefix(self, cache: Any) -> None:
        """Go on from a cache that holds the beginning: `generate` prefills the rest."""
        self.rope_deltas = new_rope_deltas(self)
        self.cache = cache
        self.note_adapters()
        self.activate()

    @property
    def left_out(self) -> tuple[int, int] | None:
        """The messages `(start, stop)` of the conversation that are not in the context, since they did not fit."""
        return None if self.mark is None else self.mark.left_out

    def say(self, *messages: Any, media: Sequence[Media] = (), answer: bool = True) -> None:
        """Append messages and open an answer: `chat.say`. Raises: BadInput, UnsuitableTemplate, UntrackedSession."""
        chat.say(self, *messages, media=media, answer=answer)

    def reply(self, **options: Any) -> dict[str, Any]:
        """Generate an answer, append it to the conversation and return its message (see `chat.reply`)."""
        return chat.reply(self, **options)

    def finish(self) -> dict[str, Any]:
        """Make a message of what was generated (see `chat.finish`). Raises: UntrackedSession."""
        return chat.finish(self)

    def messages(self) -> list[Any]:
        """Return the conversation as a page shows it: with an answer that has come to its end and is not in it yet."""
        if not isinstance(self.conversation, list):
            return []
        return settled(read_talk({"conversation": self.conversation, **chat.progress(self)})).messages

    def activate(self) -> None:
        """Put the rope deltas, which belong to the session but live in the model, back there.

        `generate` does it by itself; a loop of your own calls it when another session has used the model in between.
        """
        holder = rope_holder(self.model)
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
        cached = 0 if self.cache is None else int(self.cache.get_seq_length())
        types, config = self.mm_token_type_ids, self.model.config
        inputs["mm_encoder_outputs"] = unfed_outputs(self.vision, self.token_ids, types, config, cached) or None
        return {name: value for name, value in inputs.items() if value is not None}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def generate(self, **options: Any) -> Any:
        """Call `model.generate` with the session's settings, keep its fields in step, and return the output.

        Settings are those in `config` that `GenerationConfig` knows (a woken session has those it was saved with);
        `options` go before them.
        """
        before = self.token_ids.shape[-1]
        if self.rope_deltas is not None or not self._cached():
            self.activate()
        settings = generation_settings(self.config, options, self.tokenizer)
        self._check_fed(options)
        self.note_adapters()
        with timed_prefill(self.model, self._cached(), self.observations), StepWatch(self.model) as steps:
            out = self.model.generate(**self.model_inputs(), **settings)
        # The rows of beams are those of the search, not of the sequences that came out of it.
        self.cache = None if hasattr(out, "beam_indices") else out.past_key_values
        self.extend(out.sequences[:, before:])
        self.rope_deltas = model_rope_deltas(self.model)
        note_fed(self.cache, self.token_ids.shape[-1] - 1)
        self.last_step = steps.last(self.cache, self.token_ids, self.rope_deltas)
        return out

    def _check_fed(self, options: dict[str, Any]) -> None:
        pixels = {"image": "pixel_values", "video": "pixel_values_videos"}
        kinds = {*self.vision, *(kind for kind, name in pixels.items() if options.get(name) is not None)}
        if {"mm_encoder_outputs", "inputs_embeds"}.isdisjoint(options):
            cached, types = self._cached(), self.mm_token_type_ids
            unfed_types = None if types is None else types[:, cached:]
            check_fed(kinds, self.token_ids[:, cached:], unfed_types, self.model.config)

    def note_adapters(self, over: Over | None = None) -> None:
        """Note which adapters are active: the cache is saved as theirs, whichever are when it is saved.

        `generate` and `prefill` do it by themselves; a loop of your own calls it when it switches adapters. `over` is
        what a look has found already.
        """
        now = over or over_weights(self.model)
        known = self._fed_under if self._cached() else None
        self._fed_under = now if known is None else known.and_then(now)

    def note_logits(self, logits: torch.Tensor) -> None:
        """Note what the model gave for the token it was just fed, for the canary; for a loop of your own.

        `logits` are `[batch, vocabulary]` or `[batch, 1, vocabulary]`, of a step that fed one token, with the cache and
        the ids as they are after it. They are kept, not copied. Raises: UnsupportedState.
        """
        logits = logits[:, 0] if logits.ndim == 3 and logits.shape[1] == 1 else logits
        step = step_of(self.model, self.cache, self.token_ids, logits) if logits.ndim == 2 and self.cache else None
        if step is None:
            raise UnsupportedState(
                f"logits {tuple(logits.shape)} are not of one token that is in the cache and among the ids",
                hint="Note them after the step, once `cache` and `token_ids` hold what was fed.",
            )
        self.last_step = step

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def prefill(self) -> int:
        """Bring the cache up to the last id but one, so that the next token comes at once; return how many were fed.

        `generate` does it by itself; this is for waking a session ahead of its next message.
        """
        missing = self.token_ids.shape[-1] - 1 - self._cached()
        if missing <= 0:
            return 0
        if self.rope_deltas is not None or not self._cached():
            self.activate()
        self._check_fed({})
        self.note_adapters()
        inputs = self.model_inputs()
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if name in inputs:
                inputs[name] = inputs[name][:, :-1]
        with timed_prefill(self.model, self._cached(), self.observations):
            out = self.model.generate(
                **inputs, max_new_tokens=1, do_sample=False, return_dict_in_generate=True, pad_token_id=0
            )
        self.cache, self.rope_deltas = out.past_key_values, model_rope_deltas(self.model)
        note_fed(self.cache, self.token_ids.shape[-1] - 1)
        return int(missing)

    def _cached(self) -> int:
        return 0 if self.cache is None else int(self.cache.get_seq_length())

    def extend(self, ids: torch.Tensor) -> None:
        """Append ids `[batch, new]` (sampled ones, or a new text message) to ids, mask and token types."""
        self.token_ids = torch.cat([self.token_ids, ids], dim=-1)
        if self.attention_mask is not None:
            self.attention_mask = torch.cat([self.attention_mask, torch.ones_like(ids)], dim=-1)
        if self.mm_token_type_ids is not None:
            zeros = torch.zeros_like(ids, dtype=self.mm_token_type_ids.dtype)
            self.mm_token_type_ids = torch.cat([self.mm_token_type_ids, zeros], dim=-1)


def _model_name(model: Any) -> str:
    return str(getattr(model.config, "_name_or_path", "") or type(model).__name__)
