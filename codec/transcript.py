"""The messages of a backup with their whole text, some at a time: what a page shows of a conversation.

A message is a mapping with a role and a content (codec/messages.py), wherever it stands. The i-th image part belongs to
the i-th source image, the i-th video part to the i-th source video.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..state.errors import BlobNotFound, Damaged
from ..state.manifest import Manifest
from . import messages
from .leaves import ReadBlob, leaf_pieces
from .nodes import brief, check_depth, entries, fields, items, shorten, stored
from .source_media import sources

TEXT_CHARS = 65_536  # of one part; what is longer is cut, and its length said
PAGE_CHARS = 1 << 20  # of all texts of a page, the first message excepted
_THOUGHTS = ("reasoning_content", "thinking", "reasoning")
_TEXT_KEYS = ("text", "content")


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a message. `medium` is the index of the source image or video, None where there is none.

    `cut` says that a text is longer, `missing` that it lies in a blob that cannot be read here.
    """

    type: Literal["text", "image", "video", "thinking", "tool_call"]
    text: str | None = None
    medium: int | None = None
    cut: bool = False
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Spoken:
    """A message: its place in the conversation, who speaks, and what."""

    index: int
    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Transcript:
    """Some messages of a conversation of `total`."""

    total: int
    messages: tuple[Spoken, ...]


def read_transcript(manifest: Manifest, read: ReadBlob, offset: int, limit: int) -> Transcript:
    """Return messages from an offset on, at most `limit`, fewer where they are long, but one at least.

    Raises: InvalidManifest, and what `read` raises but for blobs that are gone or damaged.
    """
    found = find_messages(manifest)
    numbered = _Media(manifest)
    for each in found[:offset]:
        numbered.pass_by(each.node)
    made: list[Spoken] = []
    chars = 0
    for index, each in enumerate(found[offset : offset + limit], offset):
        one = _spoken(index, fields(each.node), numbered, read)
        chars += sum(len(part.text or "") for part in one.parts)
        if made and chars > PAGE_CHARS:
            break
        made.append(one)
    return Transcript(len(found), tuple(made))


def find_messages(manifest: Manifest) -> list[messages.Found]:
    """Return the messages of a backup in their order. Raises: InvalidManifest when they are nested too deep."""
    tree = manifest.layers.get("text_context")
    check_depth(tree)
    return messages.find(tree, "text_context")[0]


def role_of(node: Any) -> str:
    """Return who speaks in a message."""
    return shorten(fields(node)["role"], messages.ROLE_CHARS)


def words_of(node: Any, read: ReadBlob, most: int) -> str:
    """Return the text of a message without what is no text, at most so many characters."""
    parts = (_part(part, read) for part in _contents(fields(node).get("content")))
    return "\n".join(part.text for part in parts if part is not None and part.text)[:most]


class _Media:
    """Counts image and video parts, and says which medium each is."""

    def __init__(self, manifest: Manifest) -> None:
        self._left: dict[str, deque[int]] = {"image": deque(), "video": deque()}
        for each in sources(manifest):
            kind = "video" if each.medium.media_type.startswith("video/") else "image"
            self._left[kind].append(each.medium.index)

    def next(self, kind: str) -> int | None:
        return self._left[kind].popleft() if self._left[kind] else None

    def pass_by(self, node: Any) -> None:
        for part in _contents(fields(node).get("content")):
            kind = _kind(part)
            if kind in self._left:
                self.next(kind)


def _spoken(index: int, known: dict[str, Any], numbered: _Media, read: ReadBlob) -> Spoken:
    return Spoken(index, shorten(known["role"], messages.ROLE_CHARS), tuple(_parts(known, numbered, read)))


def _parts(known: dict[str, Any], numbered: _Media, read: ReadBlob) -> Iterator[Part]:
    for key in _THOUGHTS:
        thought = _text("thinking", known.get(key), read)
        if thought is not None:
            yield thought
    for each in _contents(known.get("content")):
        part = _part(each, read)
        if part is not None:
            yield part if part.type == "text" else replace(part, medium=numbered.next(part.type))
    for call in items(known.get("tool_calls")) or ():
        yield Part("tool_call", _call(call))


def _contents(content: Any) -> list[Any]:
    held = items(content)
    return held if held is not None else [content]


def _kind(part: Any) -> Literal["text", "image", "video"]:
    if isinstance(part, str) or stored(part) is not None:
        return "text"
    known = fields(part)
    declared = known.get("type")
    name = declared if isinstance(declared, str) else next(iter(known), "")
    return "image" if "image" in name else "video" if "video" in name else "text"


def _part(part: Any, read: ReadBlob) -> Part | None:
    """Return a part of a content, None for a text that is empty or none."""
    kind = _kind(part)
    if kind != "text":
        return Part(kind)
    known = fields(part)
    value = next((known[key] for key in _TEXT_KEYS if key in known), None) if stored(part) is None and known else part
    return _text("text", value, read)


def _text(kind: Literal["text", "thinking"], value: Any, read: ReadBlob) -> Part | None:
    if isinstance(value, str):
        return Part(kind, value[:TEXT_CHARS], cut=len(value) > TEXT_CHARS) if value else None
    leaf = stored(value)
    if leaf is None or leaf.kind != "text":
        return None
    head = bytearray()
    try:
        for piece in leaf_pieces(value["$text"], leaf.size_bytes, read):
            head += piece
            if len(head) >= 4 * TEXT_CHARS:  # four bytes a character at most
                break
    except (BlobNotFound, Damaged):
        return Part(kind, missing=True)
    text = bytes(head).decode(errors="ignore")
    return Part(kind, text[:TEXT_CHARS], cut=len(text) > TEXT_CHARS or len(head) < leaf.size_bytes)


def _call(node: Any) -> str:
    """Write a tool call in one line, as its name and arguments."""
    known = fields(node)
    call = known if "name" in known else fields(known.get("function"))
    arguments = next((call[key] for key in ("arguments", "args", "input") if key in call), "")
    name = call.get("name")
    written = arguments if isinstance(arguments, str) else _mapping(arguments)
    return shorten(f"{name if isinstance(name, str) else 'tool'}({written})", 2000)


def _mapping(node: Any) -> str:
    pairs = entries(node)
    if pairs is None:
        return brief(node, 2000)
    return ", ".join(f"{brief(key)}: {brief(value, 500)}" for key, value in pairs)
