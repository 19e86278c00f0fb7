"""How a session is woken in a model: from its own ids, from its ids with new turns behind, or rendered anew.

Decided before anything is encoded or the model is touched, so that a plan can tell the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from ..client.capture import Woken
from ..state.conversation import Talk, read_talk, settled
from ..state.errors import UnsuitableTemplate, UnsupportedState, UntrackedSession
from ..state.window import answer_room, too_long
from .chat_form import ChatForm
from .context import Draft, Mark, appended, fresh
from .pictures import Pictures
from .vision import Media


@dataclass(slots=True)
class Waking:
    """What a session is woken with.

    `ids` are `[batch, length]` as saved, None when the conversation is rendered anew; `draft` is what comes behind
    them. `talk` is the conversation as the draft has it, None where there is no draft.
    """

    talk: Talk | None
    pictures: Pictures
    ids: torch.Tensor | None = None
    mark: Mark | None = None
    draft: Draft | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """How many ids the session will have."""
        return (0 if self.ids is None else int(self.ids.shape[-1])) + (0 if self.draft is None else len(self.draft.ids))


class Decider:
    """Decides how what a backup holds is woken in a model."""

    def __init__(self, model: Any, tokenizer: Any, processor: Any, woken: Woken) -> None:
        self._model, self._tokenizer, self._processor = model, tokenizer, processor
        self._woken, self._tokens = woken, woken.layers.get("tokens") or {}
        self._text: Mapping[str, Any] = woken.layers.get("text_context") or {}
        self._media = [Media(m["data"], m["media_type"]) for m in woken.layers.get("media") or []]
        window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self._window = window if isinstance(window, int) and window > 0 else None
        self._notes: list[str] = []

    def decide(self) -> Waking:
        """Decide. Raises: ContextTooLong, UnsuitableTemplate."""
        if self._tokens.get("ids") is None:
            return self._anew()
        waking = self._from_ids()
        if waking is None:
            return self._anew()
        cached = self._woken.plan.tokens_reused
        if self._window is None or waking.tokens < self._window or (cached and waking.draft is None):
            return waking  # a cache that may be reused was made under the same window
        if self._woken.overflow == "refuse":
            raise too_long(waking.tokens, self._window)
        return self._anew(must=True)

    def _talk(self) -> Talk | None:
        """Return the conversation where a model can read it; else say why not."""
        try:
            return settled(read_talk(self._text))
        except UnsupportedState as error:
            self._notes.append(error.detail)
            return None

    def _pictures(self, messages: Sequence[Any]) -> Pictures:
        return Pictures(self._model, self._processor, messages, self._media)

    def _form(self, talk: Talk) -> ChatForm:
        config = self._woken.layers.get("config_snapshot") or {}
        options = config.get("chat_template_kwargs") if isinstance(config, Mapping) else None
        return ChatForm(self._model, self._tokenizer, self._processor, talk.tools, options)

    def _from_ids(self) -> Waking | None:
        """Wake from the stored ids; None where that needs what is not there."""
        ids: torch.Tensor = self._tokens["ids"].to(torch.int64)
        mark = Mark.from_dict(self._tokens.get("mark"), ids.shape[-1]) if ids.shape[0] == 1 else None
        waking = Waking(None, self._pictures(()), ids, mark)
        try:
            return waking if self._woken.plan.base_id is None else self._carried_on(waking)
        except (UntrackedSession, UnsuitableTemplate) as error:
            self._notes.append(error.detail)
            return None

    def _carried_on(self, waking: Waking) -> Waking:
        """Put the turns that another model made behind the ids of an earlier backup."""
        talk = self._talk()
        if talk is None or waking.mark is None or waking.ids is None:
            raise UntrackedSession("nothing says how far the token ids follow the conversation")
        form, waking.talk, waking.pictures = self._form(talk), talk, self._pictures(talk.messages)
        waking.draft = appended(form, waking.ids[0].tolist(), waking.mark, talk, waking.pictures)
        kept = self._woken.plan.reuses("vision_cache") or self._tokens.get("image_grid_thw") is None
        if waking.draft.images and not kept:
            raise UntrackedSession("the embeddings of its earlier images are gone, and a new one is to be fed")
        waking.notes = [*self._notes, *waking.draft.notes]
        return waking

    def _anew(self, *, must: bool = False) -> Waking:
        """Render the conversation in the model's own form; without one, the session comes back as text alone."""
        talk = self._talk()
        if talk is None or not talk.messages:
            return Waking(None, self._pictures(()), notes=self._notes)
        pictures = self._pictures(talk.messages)
        config = self._woken.layers.get("config_snapshot") or {}
        room = answer_room(self._window or 1, config.get("max_new_tokens") if isinstance(config, Mapping) else None)
        try:
            form = self._form(talk)
            draft = fresh(form, talk, pictures, window=self._window, room=room, overflow=self._woken.overflow)
        except UnsuitableTemplate as error:
            if must:
                raise
            return Waking(None, pictures, notes=[*self._notes, error.detail])
        if "pending" not in self._text and "covered" not in self._text and self._woken.plan.layers.get("tokens"):
            self._notes.append(
                "the backup does not say how far its token ids follow the conversation: an answer that was begun after "
                "its last message is not carried over"
            )
        return Waking(talk, pictures, None, None, draft, [*self._notes, *draft.notes])
