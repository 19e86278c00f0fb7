"""Answers of an assistant: the text that a model writes, and the message that it becomes. Pure.

The text is Qwen's own form, which the chat templates of transformers render and other families share: thinking between
`<think>` and `</think>`, then the content, then calls of tools as JSON between `<tool_call>` and `</tool_call>`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

THINK, THOUGHT = "<think>", "</think>"
_CALL, _CALLED = "<tool_call>", "</tool_call>"


@dataclass(frozen=True, slots=True)
class Begun:
    """What a model has written of an answer that is not in the conversation yet. `ended`: it had come to its end."""

    text: str
    ended: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing was said: a template may have opened the thinking already, or closed it."""
        return "".join(self.text.split()) in ("", THINK, THINK + THOUGHT)


def message_of(text: str) -> dict[str, Any]:
    """Make the assistant's message of what a model wrote; what does not parse as calls stays in the content."""
    thinking, body = _thinking(text)
    content, calls = _calls(body)
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if thinking:
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = calls
    return message


def text_of(message: Mapping[str, Any], *, thinking: bool = True) -> str:
    """Write an assistant's message as a model would have."""
    thought = _thought(message) if thinking else ""
    return (f"{THINK}\n{thought}\n{THOUGHT}\n\n" if thought else "") + _body(message)


def rest_of(message: Mapping[str, Any], begun: Begun) -> str | None:
    """Return what is left to write of a message after its beginning; None when it did not begin so."""
    if begun.ended:
        return "" if _fields(message_of(begun.text)) == _fields(message) else None
    whole = text_of(message)
    if whole.startswith(begun.text) or not begun.text.strip():
        return whole.removeprefix(begun.text)
    if not begun.text.lstrip().startswith(THINK):
        return None if _thought(message) else _after(_body(message), begun.text)
    inside = begun.text.lstrip()[len(THINK) :].lstrip("\n")
    if THOUGHT not in inside:
        return _after(f"{_thought(message)}\n{THOUGHT}\n\n{_body(message)}", inside)
    thought, _, said = inside.partition(THOUGHT)
    skipped = not thought.strip() and not said.strip()  # the template thinks nothing, as it does with old answers
    if not skipped and thought.strip("\n") != _thought(message):
        return None
    missing = "" if said.strip("\n") else "\n" * max(0, 2 - len(said))
    rest = _after(_body(message), said.lstrip("\n"))
    return None if rest is None else missing + rest


def content_text(content: Any) -> str:
    """Return the text of a content: a text itself, or its parts that are texts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else []
    texts = (part if isinstance(part, str) else part.get("text") for part in parts if isinstance(part, (str, Mapping)))
    return "".join(text for text in texts if isinstance(text, str))


def calls_text(calls: Any) -> str:
    """Write calls of tools as a model would have; empty where there are none."""
    found = [call.get("function", call) for call in calls or () if isinstance(call, Mapping)]
    return "\n".join(f"{_CALL}\n{_call_json(call)}\n{_CALLED}" for call in found if isinstance(call, Mapping))


def _call_json(call: Mapping[str, Any]) -> str:
    arguments = call.get("arguments")
    written = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return f'{{"name": {json.dumps(call.get("name"), ensure_ascii=False)}, "arguments": {written}}}'


def _after(text: str, beginning: str) -> str | None:
    return text[len(beginning) :] if text.startswith(beginning) else None


def _thought(message: Mapping[str, Any]) -> str:
    value = next((message[k] for k in ("reasoning_content", "reasoning", "thinking") if message.get(k)), "")
    return value.strip("\n") if isinstance(value, str) else ""


def _body(message: Mapping[str, Any]) -> str:
    content, calls = content_text(message.get("content")), calls_text(message.get("tool_calls"))
    return content + ("\n" if content and calls else "") + calls


def _fields(message: Mapping[str, Any]) -> tuple[str, str, str]:
    return _thought(message), content_text(message.get("content")), calls_text(message.get("tool_calls"))


def _thinking(text: str) -> tuple[str, str]:
    if not text.lstrip().startswith(THINK):
        return "", text
    thought, closed, body = text.lstrip()[len(THINK) :].partition(THOUGHT)
    return thought.strip("\n"), body.lstrip("\n") if closed else ""


def _calls(body: str) -> tuple[str, list[dict[str, Any]]]:
    content, *pieces = body.split(_CALL)
    calls = []
    for piece in pieces:
        written, closed, behind = piece.partition(_CALLED)
        call = _parsed(written)
        if call is None or not closed or behind.strip():
            return body, []
        calls.append({"type": "function", "function": call})
    return (content.removesuffix("\n"), calls) if calls else (body, [])


def _parsed(written: str) -> dict[str, Any] | None:
    try:
        call = json.loads(written)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or set(call) != {"name", "arguments"} or not isinstance(call["name"], str):
        return None
    return call
