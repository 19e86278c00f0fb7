"""Turns of a conversation on a live session: start, say, answer. Only new ids are made; what is in the ids stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from ..state.answer import message_of
from ..state.conversation import Talk, image_parts, is_message
from ..state.errors import BadInput, UnsuitableTemplate, UntrackedSession
from .chat_form import ChatForm
from .context import Draft, Mark, appended, follow, fresh
from .pictures import Pictures
from .vision import Media, joined_outputs

if TYPE_CHECKING:
    from .session import TransformersSession


def start_chat(
    model: Any,
    tokenizer: Any,
    processor: Any = None,
    conversation: Sequence[Mapping[str, Any]] = (),
    *,
    media: Sequence[Media] = (),
    tools: Sequence[Any] = (),
    config: Mapping[str, Any] | None = None,
) -> TransformersSession:
    """Start a session with a conversation: rendered by the chat template, its images encoded, an answer opened.

    Messages have the form of the chat templates; the i-th image part belongs to `media[i]`. `config` may hold
    `chat_template_kwargs` for the template.
    Raises: BadInput, UnsuitableTemplate.
    """
    from .session import TransformersSession

    none = torch.empty((1, 0), dtype=torch.int64, device=model.device)
    session = TransformersSession(model, none, tokenizer, processor, attention_mask=none)
    session.tools, session.config = list(tools), dict(config or {})
    if conversation:
        say(session, *conversation, media=media)
    return session


def say(session: TransformersSession, *messages: Any, media: Sequence[Media] = (), answer: bool = True) -> None:
    """Append messages (a user's, results of tools) and open an answer; what was begun of an answer becomes a message.

    Image parts count on from those in the conversation, `media` from those of the session. Only the new messages are
    rendered and tokenised. Raises: BadInput, UnsuitableTemplate, UntrackedSession; the session is as it was then.
    """
    wrong = next((m for m in messages if not is_message(m)), None)
    if wrong is not None:
        raise BadInput(f"a {type(wrong).__name__} is not a message", hint='E.g. {"role": "user", "content": "hello"}.')
    if not isinstance(session.conversation, list):
        raise UntrackedSession("the conversation is not a list of messages")
    form = form_of(session)
    mark, drop, said = _closed(session, form)
    at = mark.messages - len(said) if mark is not None else 0
    messages = (*session.conversation[:at], *said, *session.conversation[at:], *deepcopy(messages))
    talk = Talk(list(messages), len(messages), None, session.tools)
    pictures = Pictures(session.model, session.processor, talk.messages, [*session.media, *media])
    _check_images(form, pictures, _count(session.conversation))
    ids = session.token_ids[0].tolist()
    if not ids:
        draft = fresh(form, talk, pictures)
    elif mark is None:
        raise UntrackedSession("nothing says how far the token ids follow the conversation")
    else:
        draft = appended(form, ids[: len(ids) - drop], mark, talk, pictures, answer=answer)
    made = pictures.encode(draft.images)
    session.observations += pictures.observations
    take_back(session, drop)
    session.conversation[:], session.media[:] = talk.messages, pictures.media
    extend(session, draft, made)


def reply(session: TransformersSession, **options: Any) -> dict[str, Any]:
    """Generate an answer (`options` as in `generate`), append it to the conversation, and return its message.

    Unless told otherwise, the template's end of turn ends it, also where the model's own settings do not name that.
    Raises: BadInput when the last message is an answer already, UnsuitableTemplate, UntrackedSession.
    """
    if session.mark is None or session.mark.answer is None:
        if session.conversation and session.conversation[-1].get("role") == "assistant":
            raise BadInput("the last message is an answer already", hint="Say something first: session.say({...}).")
        say(session)
    ends = sorted(form_of(session).ends)
    if ends and "eos_token_id" not in session.config and "generation_config" not in options:
        options.setdefault("eos_token_id", ends)
    session.generate(**options)
    return finish(session)


def finish(session: TransformersSession) -> dict[str, Any]:
    """Make a message of the answer that was generated, whole or not, and return it.

    Thinking becomes `reasoning_content`, calls of tools `tool_calls`. Raises: UntrackedSession.
    """
    mark = session.mark
    begun = None if mark is None else follow(form_of(session), tail_of(session, mark), mark)
    if mark is None or begun is None:
        raise UntrackedSession("no answer was begun")
    message = message_of(begun.text)
    session.conversation.insert(mark.messages, message)
    session.mark = Mark(mark.messages + 1, session.token_ids.shape[-1], None, mark.left_out)
    return message


def progress(session: TransformersSession) -> dict[str, Any]:
    """Return what a save notes of a conversation: how far the ids cover it, and the answer that was begun."""
    mark = session.mark
    if mark is None or session.token_ids.shape[0] != 1 or not isinstance(session.conversation, list):
        return {}
    try:
        begun = follow(form_of(session), tail_of(session, mark), mark)
    except (UnsuitableTemplate, UntrackedSession):
        return {}  # the ids went on by hand: how far they cover the conversation is not known any more
    pending = None if begun is None else {"text": begun.text, "ended": begun.ended}
    return {"covered": mark.messages, "pending": pending}


def form_of(session: TransformersSession) -> ChatForm:
    """Return how the session's model writes conversations. Raises: UnsuitableTemplate."""
    options = session.config.get("chat_template_kwargs") if isinstance(session.config, dict) else None
    key = (list(session.tools), options, session.tokenizer, session.processor)
    if session.form is None or session.form[0] != key:
        form = ChatForm(session.model, session.tokenizer, session.processor, session.tools, options)
        session.form = key, form
    made: ChatForm = session.form[1]
    return made


def tail_of(session: TransformersSession, mark: Mark) -> list[int]:
    """Return the ids behind a mark: of the answer that was begun, if one was."""
    at = mark.position if mark.answer is None else mark.answer
    tail: list[int] = session.token_ids[0, at:].tolist()
    return tail


def extend(session: TransformersSession, draft: Draft, made: tuple[Any, torch.Tensor] | None) -> None:
    """Put a draft's ids behind those of a session, with the images that were encoded for it."""
    device = session.token_ids.device
    ids = torch.tensor([draft.ids], dtype=torch.int64, device=device).reshape(1, -1)
    place = getattr(session.model.config, "image_token_id", None)
    if session.mm_token_type_ids is None and isinstance(place, int):
        session.mm_token_type_ids = torch.zeros_like(session.token_ids)
    session.extend(ids)
    if session.mm_token_type_ids is not None and draft.images:
        session.mm_token_type_ids[:, -ids.shape[-1] :] = (ids == place).long()
    if made is not None:
        outputs, grids = made
        there = session.vision.get("image")
        session.vision["image"] = outputs if there is None else joined_outputs(there, outputs)
        before = session.image_grid_thw
        session.image_grid_thw = grids if before is None else torch.cat([before, grids])
    session.mark = draft.mark


def take_back(session: TransformersSession, count: int) -> None:
    """Take the last ids back, which the cache does not hold."""
    if count:
        for name in ("token_ids", "attention_mask", "mm_token_type_ids"):
            value = getattr(session, name)
            setattr(session, name, value if value is None else value[:, :-count])


def _closed(session: TransformersSession, form: ChatForm) -> tuple[Mark | None, int, list[Any]]:
    """Return the mark behind the answer that was begun, how many ids that takes back, and the answer's message.

    An answer that was opened and neither begun nor fed is taken back.
    """
    mark, tokens = session.mark, session.token_ids.shape[-1]
    if mark is None or mark.answer is None:
        return mark, 0, []
    cached = 0 if session.cache is None else int(session.cache.get_seq_length())
    begun = follow(form, tail_of(session, mark), mark)
    if begun is not None and begun.is_empty and not begun.ended and cached <= mark.position:
        return Mark(mark.messages, mark.position, None, mark.left_out), tokens - mark.position, []
    message = message_of(begun.text if begun is not None else "")
    return Mark(mark.messages + 1, tokens, None, mark.left_out), 0, [message]


def _count(messages: Sequence[Any]) -> int:
    return sum(1 for _ in image_parts(messages))


def _check_images(form: ChatForm, pictures: Pictures, first: int) -> None:
    """Make sure that the model can be shown every new image. Raises: BadInput."""
    for n in range(first, len(pictures)):
        reason = pictures.why_not(n) or (None if form.shows_images else "the chat template shows no images")
        if reason is not None:
            raise BadInput(f"image {n + 1} cannot be shown to the model: {reason}", hint="Give its bytes in `media`.")
