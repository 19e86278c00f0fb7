"""What a web page knows of a conversation and saves by itself: read from JSON that may hold anything. Pure.

A page writes text and nothing else. What it says goes on from a backup, its base (state/page_view.py).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from typing import Any

from .answer import THINK, message_of
from .conversation import kind_of
from .errors import BadInput, TooLarge
from .ids import MAX_TITLE_CHARS, parse_backup_id, parse_session_id

MAX_MESSAGES = 10_000  # of an item, and MAX_PARTS of one message
MAX_PARTS = 1_000
MAX_CHARS = 8 << 20  # of all texts of an item
MAX_ROLE_CHARS = 40
MAX_DEPTH = 20  # of the arguments of a call
AGREE_S = 5.0  # between two clocks that agree: for so long an item may have been on its way
MESSAGE_TEXTS = (
    "reasoning_content",
    "name",
    "tool_call_id",
)  # what a message has beside role and content, as far as it does
_INT64 = range(-(1 << 63), 1 << 63)

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PageItem:
    """A state of a page. `keep` messages are those of `base`, `messages` come behind; `created_at` in seconds.

    `partial` says that the last message was still being written; `draft` is what the user was typing. A `bare` page
    shows no system message: it keeps what the base begins with of those, and does not count them. `behind` is how the
    last message ends that it keeps, so that a page which miscounts is refused, and not believed. `sent_at` is when it
    was sent, by the page's own clock.
    """

    id: str
    session_id: str
    created_at: float
    base: str | None
    keep: int
    messages: tuple[Message, ...]
    draft: str | None = None
    partial: bool = False
    title: str | None = None
    bare: bool = False
    behind: str | None = None
    sent_at: float | None = None

    def digest(self) -> str:
        """Return the SHA-256 of all that it says, by which a second one under the same id is told from the same."""
        said = astuple(replace(self, sent_at=None))
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def by_clock(self, now: float) -> PageItem:
        """Return it with the time at which it was said by another clock, which shows `now` when it has come."""
        if self.sent_at is None or abs(now - self.sent_at) <= AGREE_S:
            return self
        return replace(self, created_at=max(now - max(self.sent_at - self.created_at, 0.0), 0.0))


def read_item(value: Any) -> PageItem:
    """Read what a page sent. Keys that are not known are left out. Raises: BadInput, InvalidId, TooLarge."""
    fields = _mapping(value, "an item")
    messages = fields.get("messages")
    if not isinstance(messages, list) or len(messages) > MAX_MESSAGES:
        raise BadInput(f"`messages` is not a list of at most {MAX_MESSAGES} messages")
    keep, base = fields.get("keep", 0), fields.get("base")
    partial, bare = fields.get("partial", False), fields.get("bare", False)
    if type(keep) is not int or not 0 <= keep <= 1 << 30 or type(partial) is not bool or type(bare) is not bool:
        raise BadInput("`keep` is not a count, or `partial` or `bare` neither true nor false")
    if base is None and keep:
        raise BadInput("an item keeps messages of no base", hint="Send all messages with base null and keep 0.")
    _check_size(fields)
    return PageItem(
        id=parse_backup_id(_text(fields.get("id"), "id")),
        session_id=parse_session_id(_text(fields.get("session_id"), "session_id")),
        created_at=_time(fields.get("created_at")),
        base=None if base is None else parse_backup_id(_text(base, "base")),
        keep=keep,
        messages=tuple(map(_read_message, messages)),
        draft=_optional(fields.get("draft"), "draft") or None,
        partial=partial,
        title=_title(_optional(fields.get("title"), "title")),
        bare=bare,
        behind=_optional(fields.get("behind"), "behind"),
        sent_at=None if fields.get("sent_at") is None else _time(fields["sent_at"]),
    )


def id_of(value: Any) -> str | None:
    """Return the id that an item claims, to say of it that it is refused."""
    found = value.get("id") if isinstance(value, Mapping) else None
    return _sound(found[:64]) if isinstance(found, str) else None


def _read_message(value: Any) -> Message:
    fields = _mapping(value, "a message")
    role, content, calls = _text(fields.get("role"), "role"), fields.get("content"), fields.get("tool_calls")
    if not 0 < len(role) <= MAX_ROLE_CHARS or not role.isprintable():
        raise BadInput(f"{role[:MAX_ROLE_CHARS]!r} is not a role")
    found: Message = {"role": role, "content": _read_content(content)}
    found |= {key: _text(fields[key], key) for key in MESSAGE_TEXTS if fields.get(key) is not None}
    if calls:
        if not isinstance(calls, list) or len(calls) > MAX_PARTS:
            raise BadInput(f"`tool_calls` is not a list of at most {MAX_PARTS} calls")
        found["tool_calls"] = _json(calls, 0)
    if role == "assistant" and isinstance(found["content"], str) and found["content"].lstrip().startswith(THINK):
        return found | message_of(found["content"])  # as a model writes it: its thinking apart
    return found


def _read_content(content: Any) -> Any:
    if content is None:
        return ""
    if isinstance(content, str):
        return _sound(content)
    if not isinstance(content, list) or len(content) > MAX_PARTS:
        raise BadInput(f"a content is neither text nor a list of at most {MAX_PARTS} parts")
    return [_read_part(part) for part in content]


def _read_part(part: Any) -> Message:
    kind = kind_of(part)
    if kind == "text":
        return {"type": "text", "text": _text(part if isinstance(part, str) else part.get("text"), "text")}
    if kind == "image" and isinstance(part, Mapping):
        index = part.get("index")
        return {"type": "image"} | ({"index": index} if type(index) is int and 0 <= index < MAX_PARTS else {})
    if kind == "video":
        return {"type": "video"}
    raise BadInput(f"a part of a message is neither text nor the place of an image: {kind[:40]!r}")


def _json(value: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise BadInput(f"a call is nested more than {MAX_DEPTH} deep")
    if isinstance(value, str):
        return _sound(value)
    if isinstance(value, list):
        return [_json(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {_sound(key): _json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (int, float)) and not is_number(value):
        raise BadInput("a call holds a number that no JSON reader takes")
    return value


def is_number(value: float) -> bool:
    """Tell whether a number is one for every reader of JSON."""
    return value in _INT64 if isinstance(value, int) else math.isfinite(value)


def _check_size(fields: Mapping[str, Any]) -> None:
    """Refuse texts without end, before they are copied. Raises: TooLarge."""
    chars, open_values = 0, list(fields.values())
    while open_values:
        value = open_values.pop()
        if isinstance(value, str):
            chars += len(value)
        elif isinstance(value, list):
            open_values += value
        elif isinstance(value, dict):
            open_values += [*value, *value.values()]
    if chars > MAX_CHARS:
        raise TooLarge(f"an item of {chars} characters (at most {MAX_CHARS})", hint="Send fewer messages at once.")


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{what} is not an object")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"`{name}` is not a text")
    return _sound(value)


def _optional(value: Any, name: str) -> str | None:
    return None if value is None else _text(value, name)


def _sound(text: str) -> str:
    """Return a text that UTF-8 can carry: half of a pair, as JavaScript may cut one, becomes U+FFFD."""
    return text if text.isascii() else text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _time(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e11:
        raise BadInput("`created_at` or `sent_at` is not a time in seconds")
    return float(value)


def _title(text: str | None) -> str | None:
    """Return a title as one line, as far as one has room."""
    line = " ".join("".join(c if c.isprintable() else " " for c in (text or "")[: 4 * MAX_TITLE_CHARS]).split())
    return line[:MAX_TITLE_CHARS].rstrip() or None
