"""A saved conversation in the form that a web page shows: messages of JSON alone, pictures by their number. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .answer import message_of
from .conversation import kind_of, read_talk
from .errors import UnsupportedState

_MAX_DEPTH = 40
_INT53 = 1 << 53  # beyond it a page would round
_BESIDE = ("name", "tool_calls", "tool_call_id", "reasoning_content")


def conversation_of(text: Any) -> tuple[list[dict[str, Any]], bool]:
    """Return the messages of a text layer on its open path, and whether the last one was still being written.

    A conversation of another form than that of chat templates gives no messages.
    """
    if not isinstance(text, Mapping):
        return [], False
    try:
        talk = read_talk(text)
    except UnsupportedState:
        return [], False
    messages = [message_form(message) for message in talk.messages]
    if talk.begun is not None and talk.covered >= len(messages) and not talk.begun.is_empty:
        return [*messages, message_form(message_of(talk.begun.text))], not talk.begun.ended
    return messages, bool(text.get("partial")) and bool(messages)


def draft_of(text: Any) -> str | None:
    """Return what the user was writing, where a page has saved it."""
    draft = text.get("draft") if isinstance(text, Mapping) else None
    return draft if isinstance(draft, str) and draft else None


def message_form(message: Any) -> dict[str, Any]:
    """Return a message as a page shows it: its pictures are parts that name nothing, the i-th is the i-th image."""
    found = message if isinstance(message, Mapping) else {"role": "user", "content": str(message)}
    shown: dict[str, Any] = {"role": str(found.get("role", "user")), "content": _content(found.get("content"))}
    return shown | {name: _plain(found[name], 0) for name in _BESIDE if found.get(name)}


def _content(content: Any) -> str | list[dict[str, Any]]:
    if isinstance(content, (list, tuple)):
        return [_part(part) for part in content]
    return "" if content is None else str(content)


def _part(part: Any) -> dict[str, Any]:
    kind = kind_of(part)
    if kind in ("image", "video"):
        return {"type": kind}
    text = part if isinstance(part, str) else part.get("text") if isinstance(part, Mapping) else part
    return {"type": "text", "text": text if isinstance(text, str) else ""}


def images_of(media: Any) -> list[dict[str, Any]]:
    """List the pictures of a media layer as it stands in a manifest: index among all media, media type, size."""
    found = []
    for index, each in enumerate(media if isinstance(media, list) else ()):
        data = each.get("data") if isinstance(each, Mapping) else None
        body = data.get("$bytes") if isinstance(data, Mapping) else None
        size = body.get("size_bytes") if isinstance(body, Mapping) else None
        kind = each.get("media_type") if isinstance(each, Mapping) else None
        if type(size) is int and isinstance(kind, str) and not kind.startswith("video/"):
            found.append({"index": index, "media_type": kind, "size_bytes": size})
    return found


def _plain(value: Any, depth: int) -> Any:
    """Return a value as JSON that a page reads unchanged."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _INT53 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if depth < _MAX_DEPTH and isinstance(value, Mapping):
        return {str(key): _plain(item, depth + 1) for key, item in value.items()}
    if depth < _MAX_DEPTH and isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    return f"({type(value).__name__})"
