"""What a web page sees of a backup, what a page's state has in common with it, and how the two become one. Pure.

The messages that both have stay as they were saved, with all that a page never sees, and the images of the backup stay
where their messages do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from .answer import Begun, content_text, message_of, text_of
from .conversation import image_parts, kind_of, read_talk, settled
from .errors import BadInput, UnsupportedState
from .page_items import MAX_DEPTH, MAX_ROLE_CHARS, MESSAGE_TEXTS, Message, PageItem, is_number

_PROMPTS = ("system", "developer")
_KEYS = ("conversation", "messages", "conversation_history")


@dataclass(frozen=True, slots=True)
class View:
    """What a page sees of a backup. `key` is where its text layer has the conversation as a list."""

    conversation: tuple[Message, ...] = ()
    partial: bool = False
    draft: str | None = None
    key: str = "conversation"


@dataclass(frozen=True, slots=True)
class Layout:
    """A conversation to save: the first `shared` messages of the base as they are there, `messages`, what is begun.

    `images` are the entries of the base's media layer that its image parts belong to, in order.
    """

    shared: int
    messages: tuple[Message, ...]
    begun: Begun | None
    images: tuple[int, ...]


def view(text: Any) -> View:
    """Return what a page sees of a text layer. Raises: UnsupportedState where no path through a tree is given."""
    if not isinstance(text, Mapping):
        return View()
    talk, draft = settled(read_talk(text)), text.get("draft")
    messages = [page_message(message) for message in talk.messages]
    begun = talk.begun is not None and not talk.begun.is_empty
    if talk.begun is not None and begun:
        messages.append(page_message(message_of(talk.begun.text)))
    key = next((key for key in _KEYS if isinstance(text.get(key), list) and text[key]), "conversation")
    return View(tuple(messages), begun, draft if isinstance(draft, str) and draft else None, key)


def view_or_nothing(text: Any) -> View:
    """Return what a page sees of a text layer, which is nothing where no model could read it either."""
    try:
        return view(text)
    except UnsupportedState:
        return View()


def page_message(message: Any) -> Message:
    """Return a message in the form that pages get and send: texts, the places of pictures, calls."""
    if not isinstance(message, Mapping):
        return {"role": "user", "content": ""}
    content, calls = message.get("content"), message.get("tool_calls")
    found: Message = {"role": str(message.get("role", "user"))[:MAX_ROLE_CHARS], "content": _page_content(content)}
    found |= {key: message[key] for key in MESSAGE_TEXTS if isinstance(message.get(key), str)}
    if isinstance(calls, (list, tuple)) and calls:
        found["tool_calls"] = _plain(calls, 0)
    return found


def whole(item: PageItem, base: View) -> list[Message]:
    """Return the conversation that an item says, on its base or, where it names none, on the session's newest backup.

    A page that never shows the system's message means it all the same. Raises: BadInput where it keeps more messages
    than there are.
    """
    prompts = tuple(takewhile(lambda message: message["role"] in _PROMPTS, base.conversation))
    bare = item.bare or (item.messages and not item.keep and item.messages[0]["role"] not in _PROMPTS)
    keep = item.keep + (len(prompts) if bare else 0)
    if keep > len(base.conversation):
        raise BadInput(
            f"the item keeps {keep} messages of a base with {len(base.conversation)}",
            hint="Send all messages with base null and keep 0.",
        )
    kept = base.conversation[:keep]
    if item.behind is not None and not (item.keep and _ends(kept[-1], item.behind)):
        raise BadInput(
            "the last message that the item keeps is another one in its base",
            hint="Send all messages with base null and keep 0.",
        )
    return [*kept, *item.messages]


def shared(conversation: Sequence[Message], seen: View) -> int:
    """Return how many leading messages of a conversation a backup holds as they are."""
    count = 0
    for said, saved in zip(conversation, seen.conversation[: len(seen.conversation) - seen.partial], strict=False):
        if not _alike(said, saved):
            break
        count += 1
    return count


def holds(seen: View, item: PageItem, conversation: Sequence[Message]) -> bool:
    """Tell whether a backup has all messages of an item's conversation, and perhaps more."""
    if len(conversation) > len(seen.conversation):
        return False
    count = shared(conversation, seen)
    if count == len(conversation):
        return True
    open_end = item.partial and count == len(conversation) - 1
    return open_end and _begins(conversation[count], seen.conversation[count])


def drafts_more(seen: View, item: PageItem, conversation: Sequence[Message]) -> bool:
    """Tell whether an item has a draft that a backup with all its messages lacks, and that was not sent since."""
    if item.draft in (None, seen.draft):
        return False
    return all(message["role"] != "user" for message in seen.conversation[len(conversation) :])


def lay_out(item: PageItem, conversation: Sequence[Message], base: View, pictures: Sequence[int]) -> Layout:
    """Return what is saved of an item on a base; `pictures` are the images among its media, in their order."""
    count = shared(conversation, base)
    rest = [dict(message) for message in conversation[count:]]
    begun = None
    if item.partial and rest and rest[-1]["role"] == "assistant":
        begun = Begun(text_of(rest.pop()))
    kept = sum(1 for _ in image_parts(base.conversation[:count]))
    images: list[int | None] = [*pictures[:kept], *[None] * (kept - len(pictures))]
    for message in rest:
        message["content"] = _sourced(message["content"], images, pictures)
    # The i-th part belongs to the i-th image, so behind a part without one there is none either.
    known = images.index(None) if None in images else len(images)
    return Layout(count, tuple(rest), begun, tuple(n for n in images[:known] if n is not None))


def _sourced(content: Any, images: list[int | None], pictures: Sequence[int]) -> Any:
    """Note which image each part belongs to, and return the content without the numbers that pages use for it."""
    if isinstance(content, str):
        return content
    parts = []
    for part in content:
        if kind_of(part) == "image":
            images.append(part["index"] if part.get("index") in pictures else None)
        parts.append({"type": "image"} if kind_of(part) == "image" else part)
    return parts


def _alike(said: Message, saved: Message) -> bool:
    """Tell whether a page's message is one that was saved; a page may know less of it."""
    if said is saved:  # what an item keeps of its base
        return True
    if said["role"] != saved["role"] or _flat(said["content"]) != _flat(saved["content"]):
        return False
    return all(saved.get(key) == said[key] for key in said if key not in ("role", "content"))


def _ends(saved: Message, end: str) -> bool:
    texts = content_text(saved["content"]), text_of(saved)
    return any(text.rstrip().endswith(end.rstrip()) for text in texts)


def _begins(said: Message, saved: Message) -> bool:
    """Tell whether a message that was still being written is the beginning of one that was saved."""
    if said["role"] != "assistant" or saved["role"] != "assistant":
        return False
    if "reasoning_content" in said or "tool_calls" in said:
        return text_of(saved).startswith(text_of(said))
    return content_text(saved["content"]).lstrip().startswith(content_text(said["content"]).lstrip())


def _flat(content: Any) -> list[tuple[str, str]]:
    """Return a content as kinds of parts and their texts; texts that follow each other are one.

    Without white space around them, which models write and pages drop.
    """
    found: list[tuple[str, str]] = []
    for part in [content] if isinstance(content, str) else content:
        kind, text = kind_of(part), part if isinstance(part, str) else str(part.get("text", ""))
        if kind != "text":
            found.append((kind, ""))
        elif found and found[-1][0] == "text":
            found[-1] = ("text", found[-1][1] + text)
        elif text:
            found.append(("text", text))
    stripped = [(kind, text.strip()) for kind, text in found]
    return [each for each in stripped if each != ("text", "")]


def _page_content(content: Any) -> Any:
    if isinstance(content, str):
        return content
    parts: list[Message] = []
    for part in content if isinstance(content, (list, tuple)) else ():
        kind = kind_of(part)
        if kind == "text":
            text = part if isinstance(part, str) else part.get("text")
            parts.append({"type": "text", "text": text if isinstance(text, str) else ""})
        else:
            parts.append({"type": kind if kind in ("image", "video") else "part"})
    return parts


def _plain(value: Any, depth: int) -> Any:
    """Return a value as JSON has it; what it has no form for becomes null."""
    if isinstance(value, (str, bool)) or value is None:
        return value
    if isinstance(value, (int, float)):
        return value if is_number(value) else None
    if depth >= MAX_DEPTH:
        return None
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item, depth + 1) for key, item in value.items() if isinstance(key, str)}
    return None
