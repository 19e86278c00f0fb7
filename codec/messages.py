"""Messages of a conversation, wherever they stand in a text layer: a list, or a tree of any shape.

A message is a mapping with a `role` that is text and a `content`: text, or a list of parts (text, image, video).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from .nodes import Stored, children, entries, fields, first_line, items, shorten, stored, tag_of

ROLE_CHARS = 20
_TEXT_KEYS = ("text", "content")

# Reads the beginning of a text that lies in blobs; None when that cannot be read.
Head = Callable[[Stored], str | None]


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its first line, shortened, and what else it carries. `path` is from the layer's root."""

    path: str
    role: str
    text: str
    images: int = 0
    videos: int = 0
    tool_calls: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A message and its own node: what other messages lie under it is cut out."""

    path: str
    node: dict[str, Any]
    parent: str  # path of what holds it


def find(tree: Any, path: str) -> tuple[list[Found], Any]:
    """Return the messages of a tree in the order of the document, and the tree without them.

    Replies that lie under a message come after it. The tree's depth was checked.
    """
    found: list[Found] = []
    rest = _cut(tree, path, "", found)
    return found, None if rest is _CUT else rest


_CUT: Any = object()  # stands where a message was


def _cut(node: Any, path: str, parent: str, found: list[Found]) -> Any:
    if not isinstance(node, (list, dict)):
        return node
    if not _is_message(node):
        return _without(node, path, found)
    below: list[Found] = []
    found.append(Found(path, _without(node, path, below, spare=".content"), parent))
    found.extend(below)
    return _CUT


def _is_message(node: list[Any] | dict[str, Any]) -> bool:
    known = fields(node)
    return isinstance(known.get("role"), str) and "content" in known


def _without(node: Any, path: str, found: list[Found], spare: str | None = None) -> Any:
    """Copy a container without the messages in it; what lies at the step `spare` is left as it is."""
    kept = [value if key == spare else _cut(value, path + key, path, found) for key, value in children(node)]
    if items(node) is not None:
        whole = [value for value in kept if value is not _CUT]
        return whole if isinstance(node, list) else {"$tuple": whole}
    pairs = entries(node)
    if pairs is None:
        return node
    left = [[key, value] for (key, _), value in zip(pairs, kept, strict=True) if value is not _CUT]
    return {"$map": left} if tag_of(node) == "$map" else dict(left)


def describe(message: Found, head: Head | None = None) -> Message:
    """Describe a message in one line; `head` reads how a text begins that lies in blobs."""
    known = fields(message.node)
    lines, images, videos = [], 0, 0
    for part in _parts(known["content"]):
        kind, text = _part(part, head)
        images, videos = images + (kind == "image"), videos + (kind == "video")
        lines.append(text)
    calls = items(known.get("tool_calls")) or ()
    text = first_line("\n".join(line for line in lines if line))
    return Message(message.path, shorten(known["role"], ROLE_CHARS), text, images, videos, len(calls))


def _parts(content: Any) -> Iterator[Any]:
    held = items(content)
    yield from (held if held is not None else [content])


def _part(part: Any, head: Head | None) -> tuple[str, str]:
    """Return the kind of a part (text, image, video) and its text, if it has one."""
    if isinstance(part, str):
        return "text", part
    leaf = stored(part)
    if leaf is not None:
        return "text", (head(leaf) if head and leaf.kind == "text" else None) or f"({leaf.brief()})"
    known = fields(part)
    declared = known.get("type")
    name = declared if isinstance(declared, str) else next(iter(known), "")
    for kind in ("image", "video"):
        if kind in name:
            return kind, ""
    return "text", next(
        (_part(known[key], head)[1] for key in _TEXT_KEYS if isinstance(known.get(key), (str, dict))), ""
    )
