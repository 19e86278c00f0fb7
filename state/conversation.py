"""What a conversation is: messages in the chat-template form, their images, and how far token ids cover them. Pure.

A message is a mapping with a `role` and a `content`: text, or parts `{"type": "text", "text": …}`, `{"type": "image"}`.
The i-th image part of a conversation belongs to its i-th source image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .answer import Begun, message_of, rest_of
from .errors import UnsupportedState

_HEADS = ("head", "current", "current_node", "current_id", "active")
_NODES = ("nodes", "mapping")
_CHILDREN = ("children", "replies")
_LISTS = ("messages", "conversation_history", "conversation")
_MAX_DEPTH = 100_000  # messages on one path: beyond it the parents go in circles


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation and how far token ids follow it.

    The ids cover the first `covered` messages whole, and then, where an answer was begun, what was written of it.
    """

    messages: list[Any]
    covered: int
    begun: Begun | None = None
    tools: Any = None


def settled(talk: Talk) -> Talk:
    """Return a talk whose ids would cover all messages, with at most one answer that goes on after them.

    An answer that had come to its end becomes a message, and so does one after which the conversation goes on without
    it: right behind the messages that the ids cover.
    """
    messages, begun = list(talk.messages), talk.begun
    if begun is not None and (begun.ended or talk.covered < len(messages)):
        following = messages[talk.covered] if talk.covered < len(messages) else {}
        if following.get("role") != "assistant" or rest_of(following, begun) is None:
            messages.insert(talk.covered, message_of(begun.text))
        begun = None
    return replace(talk, messages=messages, covered=len(messages), begun=begun)


def is_message(value: Any) -> bool:
    """Tell whether a value is a message."""
    if not isinstance(value, Mapping) or not isinstance(value.get("role"), str):
        return False
    return "content" in value or "tool_calls" in value


def kind_of(part: Any) -> str:
    """Return what a part of a content is: text, image, video, or the word that it calls itself."""
    if isinstance(part, str):
        return "text"
    if not isinstance(part, Mapping):
        return "part"
    declared = part.get("type")
    name = declared if isinstance(declared, str) else str(next(iter(part), "part"))
    return next((kind for kind in ("image", "video", "text") if kind in name), name)


def image_parts(messages: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Yield each image part with the index of its message."""
    for index, message in enumerate(messages):
        content = message.get("content") if isinstance(message, Mapping) else None
        for part in content if isinstance(content, (list, tuple)) else ():
            if kind_of(part) == "image":
                yield index, part


def read_talk(text: Mapping[str, Any]) -> Talk:
    """Read a text layer: its conversation, or the path through it that was open. Raises: UnsupportedState."""
    value: Any = next((text[key] for key in ("conversation", *_LISTS) if text.get(key)), [])
    messages = active_path(value)
    covered, pending = text.get("covered"), text.get("pending")
    if isinstance(value, list) and type(covered) is int and 0 <= covered <= len(messages):
        return Talk(messages, covered, _begun(pending), text.get("tools"))
    return Talk(messages, len(messages), None, text.get("tools"))


def count_messages(text: Any) -> int | None:
    """Return how many messages a text layer holds on its open path; None where there is no such path."""
    try:
        return len(read_talk(text).messages) if isinstance(text, Mapping) else None
    except UnsupportedState:
        return None


def _begun(value: Any) -> Begun | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("text"), str):
        return None
    return Begun(value["text"], value.get("ended") is True)


def active_path(value: Any) -> list[Any]:
    """Return the messages of a conversation: a list of them, or the path to the head of a tree of them.

    A tree names its head (`head`, `current`, `current_node`, …) and holds nodes by id (`nodes`, `mapping`) with a
    `parent`, or messages with an `id` and `children`. Raises: UnsupportedState where no path is given.
    """
    if isinstance(value, (list, tuple)) and all(is_message(m) for m in value):
        return list(value)
    if isinstance(value, Mapping):
        for key in _LISTS:
            if isinstance(value.get(key), (list, tuple)):
                return active_path(value[key])
        head = next((value[key] for key in _HEADS if isinstance(value.get(key), (str, int))), None)
        nodes = next((value[key] for key in _NODES if isinstance(value.get(key), (Mapping, list))), None)
        if head is not None:
            path = _by_parents(nodes, head) if nodes is not None else _by_children(value, head)
            found = [m for m in (_held(node) for node in path) if m is not None]
            if found:
                return found
    raise UnsupportedState(
        "the conversation is neither a list of messages nor a tree with a head, so no model can read it again",
        hint="The conversation itself came back untouched. Give its open path to `start_chat` as a list of messages.",
    )


def _held(node: Any) -> Any:
    """Return the message of a node: under `message`, or the node itself without what hangs below it."""
    if not isinstance(node, Mapping):
        return None
    inner = node.get("message")
    if is_message(inner):
        return inner
    return {k: v for k, v in node.items() if k not in _CHILDREN} if is_message(node) else None


def _by_parents(nodes: Any, head: Any) -> list[Any]:
    listed = nodes.values() if isinstance(nodes, Mapping) else nodes
    known = dict(nodes) if isinstance(nodes, Mapping) else {}
    known |= {n["id"]: n for n in listed if isinstance(n, Mapping) and isinstance(n.get("id"), (str, int))}
    parents = {c: i for i, n in known.items() if isinstance(n, Mapping) for k in _CHILDREN for c in _ids(n.get(k))}
    path: list[Any] = []
    while head in known and len(path) < _MAX_DEPTH:
        node = known[head]
        path.append(node)
        parent = node.get("parent", node.get("parent_id")) if isinstance(node, Mapping) else None
        head = parent if isinstance(parent, (str, int)) else parents.get(head)
    return path[::-1] if len(path) < _MAX_DEPTH else []


def _ids(children: Any) -> list[Any]:
    return [c for c in children if isinstance(c, (str, int))] if isinstance(children, (list, tuple)) else []


def _by_children(root: Mapping[str, Any], head: Any) -> list[Any]:
    open_paths: list[list[Any]] = [[root]]
    while open_paths:
        path = open_paths.pop()
        if path[-1].get("id") == head:
            return path
        for key in (*_CHILDREN, "root"):
            below = path[-1].get(key)
            listed = [below] if isinstance(below, Mapping) else below if isinstance(below, list) else []
            open_paths += [[*path, node] for node in listed if isinstance(node, Mapping)]
    return []
