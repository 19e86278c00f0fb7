"""A backup at a glance, from its manifest alone: quick enough to be done with every commit. No blob is read."""

from __future__ import annotations

from itertools import islice
from typing import Any

from ..state.errors import InvalidManifest
from ..state.glimpse import IMAGES_SHOWN, NOTHING, PICTURES, Glimpse, one_line
from ..state.manifest import Manifest
from . import messages
from .nodes import check_depth, fields, items, stored
from .source_media import sources

_LISTS = ("conversation", "messages", "conversation_history")
_SPOKEN = ("assistant", "user")
_TRIED = 20  # messages from the end that are looked at for one with text


def glimpse(manifest: Manifest) -> Glimpse:
    """Return what a listing shows of a backup; nothing of one whose layers cannot be read."""
    try:
        count, text = _conversation(manifest.layers.get("text_context"))
    except InvalidManifest:
        return NOTHING
    media = [each.medium for each in sources(manifest)]
    pictures = (each for each in media if each.media_type in PICTURES)
    return Glimpse(count, text, len(media), tuple(islice(pictures, IMAGES_SHOWN)))


def _conversation(tree: Any) -> tuple[int, str | None]:
    listed = _plain_list(tree)
    if listed is None:
        check_depth(tree)
        listed = [message.node for message in messages.find(tree, "")[0]]
    newest = (fields(node) for node in listed[: -_TRIED - 1 : -1])
    said = ((known.get("role"), _text(known.get("content"))) for known in newest)
    return len(listed), next((one_line(text) for role, text in said if role in _SPOKEN and text.strip()), None)


def _plain_list(tree: Any) -> list[Any] | None:
    """Return the messages of a layer whose only conversation is a plain list of them: most are."""
    known = fields(tree)
    found = [items(known[key]) for key in _LISTS if known.get(key)]
    if len(found) != 1 or found[0] is None:
        return None
    return found[0] if all(_is_plain(node) for node in found[0]) else None


def _is_plain(node: Any) -> bool:
    """Tell whether a node is a message with none below it; quick, since it is asked of each at every commit."""
    if not isinstance(node, dict) or not isinstance(node.get("role"), str) or "content" not in node:
        return False
    return "children" not in node and "replies" not in node


def _text(content: Any) -> str:
    """Return the text of a content, as far as it lies in the manifest."""
    parts = items(content)
    return " ".join(_part(part) for part in (parts if parts is not None else [content]))


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if stored(part) is not None:
        return ""
    text = fields(part).get("text")
    return text if isinstance(text, str) else ""
