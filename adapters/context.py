"""Token ids of a conversation under one model: from its beginning, or behind ids that are there already.

Nothing here touches a session or runs a model: a draft says which ids, which images, and what to tell the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..state.answer import THINK, THOUGHT, Begun, rest_of
from ..state.conversation import Talk, image_parts, kind_of
from ..state.errors import UntrackedSession
from ..state.window import Overflow, left_out
from .chat_form import ChatForm, Shaped
from .pictures import Pictures


@dataclass(frozen=True, slots=True)
class Mark:
    """How far token ids follow the conversation: the first `position` ids are its first `messages` messages.

    `answer` is where the text of an answer begins that is not in the conversation yet (behind the template's header),
    None when none was begun. Of the messages, those in `left_out` are not among the ids.
    """

    messages: int
    position: int
    answer: int | None = None
    left_out: tuple[int, int] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the mark as it is saved."""
        found = {"messages": self.messages, "position": self.position, "answer": self.answer}
        return found | ({"left_out": list(self.left_out)} if self.left_out else {})

    @classmethod
    def from_dict(cls, value: Any, tokens: int) -> Mark | None:
        """Read a saved mark; None where it fits no session of so many tokens."""
        if not isinstance(value, dict):
            return None
        messages, position, answer = (value.get(k) for k in ("messages", "position", "answer"))
        out = tuple(value.get("left_out") or ())
        numbers = (messages, position, position if answer is None else answer, *out)
        if not all(type(n) is int and n >= 0 for n in numbers) or len(out) not in (0, 2):
            return None
        if not numbers[1] <= numbers[2] <= tokens:
            return None
        return cls(numbers[0], numbers[1], answer, (out[0], out[1]) if out else None)


@dataclass(slots=True)
class Draft:
    """Ids to use or to append; `images` are the image parts behind their placeholders, in order."""

    ids: list[int]
    mark: Mark
    images: list[int] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def follow(form: ChatForm, tail: Sequence[int], mark: Mark) -> Begun | None:
    """Return what was begun after the messages of a mark; `tail` are the ids behind it (its answer's, if it has one).

    Raises: UntrackedSession when the ids went on in some other way.
    """
    if mark.answer is None:
        if tail and list(tail) not in _endings(form):
            raise UntrackedSession("the token ids go on after what is known of them")
        return None
    ended = bool(tail) and tail[-1] in form.ends
    text = tail[: len(tail) - ended]
    if any(i in form.ends for i in text):
        raise UntrackedSession("the token ids go on after the end of an answer")
    return Begun(form.decode(text), ended)


def _endings(form: ChatForm) -> list[list[int]]:
    closing = form.tokens(form.closing, [])
    return [closing[at:] for at in range(len(closing))]


def fresh(
    form: ChatForm,
    talk: Talk,
    pictures: Pictures,
    *,
    window: int | None = None,
    room: int = 1,
    overflow: Overflow = "refuse",
) -> Draft:
    """Render a conversation from its beginning; an answer that was begun goes on, and else one is opened.

    Raises: UnsuitableTemplate, ContextTooLong.
    """
    out, roles = None, [m["role"] for m in talk.messages]
    if window is not None:

        def size(left: tuple[int, int]) -> int:
            return len(_rendered(form, left, talk, pictures).ids)

        out = left_out(roles, size, window=window, room=room, overflow=overflow)
    made = _rendered(form, out or (0, 0), talk, pictures)
    start, stop = out or (0, 0)
    told = _told(form, talk.messages[:start], pictures)
    told += _told(form, talk.messages[stop:], pictures, _images(talk.messages[:stop]))
    made.notes += dict.fromkeys(told)
    if out is not None:
        made.notes.append(f"messages {out[0] + 1} to {out[1]} are out of the context, which is longer than the window")
    return made


def _rendered(form: ChatForm, out: tuple[int, int], talk: Talk, pictures: Pictures) -> Draft:
    head, tail = talk.messages[: out[0]], talk.messages[out[1] :]
    first = form.shape(head, 0, pictures.sees)
    rest = form.shape(tail, _images(talk.messages[: out[1]]), pictures.sees)
    images = [*first.images, *rest.images]
    text = form.whole([*first.messages, *rest.messages])
    ids = form.tokens(text, [pictures.placeholders(n) for n in images])
    mark = Mark(len(talk.messages), len(ids), None, out if out[1] else None)
    return _opened(form, Draft(ids, mark, images), talk)


def _opened(form: ChatForm, draft: Draft, talk: Talk, before: int = 0) -> Draft:
    """Open an answer, unless the last message is one; with `begun`, write what was written of it."""
    role = talk.messages[-1]["role"] if talk.messages else "user"
    if role == "assistant" and talk.begun is None:
        return draft
    header, text = form.opening(role, talk.begun)
    draft.ids += form.tokens(header, [])
    draft.mark = Mark(draft.mark.messages, draft.mark.position, before + len(draft.ids), draft.mark.left_out)
    draft.ids += form.tokens(text, [])
    return draft


def appended(
    form: ChatForm, ids: Sequence[int], mark: Mark, talk: Talk, pictures: Pictures, *, answer: bool = True
) -> Draft:
    """Append to ids what a settled conversation has beyond them: only new ids are in the draft; old thinking stays.

    Raises: UnsuitableTemplate, UntrackedSession when the ids went on in some other way or the answer that was begun
    in them is not how the conversation goes on.
    """
    begun = follow(form, ids[mark.position if mark.answer is None else mark.answer :], mark)
    covered, new = mark.messages, list(talk.messages[mark.messages :])
    made = Draft([], Mark(mark.messages, mark.position, mark.answer, mark.left_out))
    role = talk.messages[covered - 1]["role"] if 0 < covered <= len(talk.messages) else "user"
    if begun is not None and not new and not begun.ended:
        return _resumed(form, made, begun, talk)
    if begun is not None:
        made.ids += _finished(form, new[0] if new else {}, begun, role)
        role, new, covered = "assistant", new[1:], covered + 1
    before = _images(talk.messages[:covered])
    shaped = form.shape(new, before, pictures.sees)
    counts = [pictures.placeholders(n) for n in shaped.images]
    made.ids += _closed(form, shaped, role, [*ids, *made.ids], counts)
    made.images, made.notes = shaped.images, _told(form, new, pictures, before)
    made.mark = Mark(len(talk.messages), len(ids) + len(made.ids), None, mark.left_out)
    if talk.begun is not None or answer:
        return _opened(form, made, talk, len(ids))
    return made


def _finished(form: ChatForm, message: Any, begun: Begun, role: str) -> list[int]:
    """Return the ids that finish a begun answer as the message that it became."""
    if begun.is_empty and not begun.ended:
        header, opener = form.opening(role)
        whole = form.after(role, form.shape([message], 0, lambda _: False))
        _, found, text = whole.partition(header) if header else ("", "", "")
        if found and (begun.text == "" or text.startswith(opener)):
            return form.tokens(text[len(opener) if begun.text else 0 :].removesuffix(form.closing), [])
    rest = rest_of(message, begun)
    if rest is None:
        raise UntrackedSession("the answer that the token ids begin is not how the conversation goes on")
    return form.written(rest)


def _resumed(form: ChatForm, made: Draft, begun: Begun, talk: Talk) -> Draft:
    """Go on with an answer that both sides have begun."""
    further = talk.begun.text if talk.begun is not None else ""
    said = begun.text
    if begun.is_empty and not further.startswith(said):  # the template opened a thought, the other model none
        thinks = further.lstrip().startswith(THINK)
        further = f"{said.rstrip()}\n{THOUGHT}\n\n{further}" if THOUGHT not in said else said + further
        said = "\0" if thinks else said.rstrip()
    if not further.startswith(said):
        raise UntrackedSession("the answer that the token ids begin is not how the conversation goes on")
    made.ids = form.written(further[len(said) :])
    return made


def _closed(form: ChatForm, shaped: Shaped, role: str, ids: list[int], images: list[int]) -> list[int]:
    """Return the ids of messages after one of `role`, its end of turn first unless the ids have it already."""
    behind = form.tokens(form.after(role, shaped), images)
    closing = form.tokens(form.after(role, Shaped([], [])), [])
    for there in range(min(len(closing), len(ids)), 0, -1):
        if ids[-there:] == closing[:there]:
            return behind[there:]
    return behind


def _images(messages: Sequence[Any]) -> int:
    return sum(1 for _ in image_parts(messages))


def _told(form: ChatForm, messages: Sequence[Any], pictures: Pictures, first: int = 0) -> list[str]:
    """Say in words what of some messages the model is not shown."""
    notes, count = [], _images(messages)
    why = pictures.blindness or (None if form.shows_images else "the chat template shows none")
    if count and why is not None:
        notes.append(f"{count} image{'s'[: count > 1]} stand in the context as the word [image]: {why}")
    elif count:
        bad = ((n, pictures.why_not(n)) for n in range(first, first + count))
        notes += [f"image {n + 1} stands in the context as the word [image]: {reason}" for n, reason in bad if reason]
    parts = [p for m in messages if isinstance(m.get("content"), (list, tuple)) for p in m["content"]]
    others = sorted({kind_of(p) for p in parts} - {"text", "image"})
    notes += [
        f"a part of kind {k[:20]} stands in the context as the word [{k[:20]}]: it is not encoded" for k in others
    ]
    if form.tools and not form.shows_tools:
        notes.append("the chat template shows no definitions of tools")
    if any(m.get("tool_calls") for m in messages) and not form.shows_calls:
        notes.append("the chat template shows no calls of tools: they stand in the context as text")
    if any(m.get("reasoning_content") for m in messages) and not form.shows_thinking:
        notes.append("the chat template shows no thinking: it stays in the conversation, out of the context")
    return notes
