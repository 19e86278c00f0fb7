"""A model's own form of a conversation: its chat template, its tokenizer, and its placeholders for images.

A template is a program: what it takes (texts or parts, images, calls of tools, thinking) is found by rendering tiny
conversations, never by its name. What it cannot show is written in Qwen's form inside the text, or noted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..state.answer import THINK, Begun, calls_text, content_text
from ..state.conversation import kind_of
from ..state.errors import UnsuitableTemplate

try:
    from jinja2.exceptions import TemplateError
except ImportError:  # transformers says so itself when a template is rendered
    TemplateError = ImportError  # type: ignore[assignment,misc]

_MARK = "torpor7sentinel"  # one word, so that no template changes it
_DECOY = "\ue0f0\ue0f1\ue0f0"  # stands for a placeholder that a text spells out


def _call(name: str) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": name, "arguments": {}}}]


def _dummy(role: str) -> list[dict[str, Any]]:
    """Return the shortest conversation that ends with a message of a role."""
    last: dict[str, Any] = {"role": role, "content": _MARK}
    if role in ("system", "user"):
        return [last]
    ask = {"role": "user", "content": "?"}
    if role == "tool":
        return [ask, {"role": "assistant", "content": "", "tool_calls": _call("t")}, {**last, "name": "t"}]
    return [ask, last]


@dataclass(frozen=True, slots=True)
class Shaped:
    """Messages as the template takes them; `images` says which image parts are shown, in their order."""

    messages: list[dict[str, Any]]
    images: list[int]


class ChatForm:
    """How one model writes conversations. `options` go to its template (`enable_thinking` and the like)."""

    def __init__(
        self, model: Any, tokenizer: Any, processor: Any = None, tools: Any = None, options: Any = None
    ) -> None:
        tokenizer = tokenizer if tokenizer is not None else getattr(processor, "tokenizer", None)
        template = getattr(processor, "chat_template", None) or getattr(tokenizer, "chat_template", None)
        if tokenizer is None or template is None:
            missing = "tokenizer" if tokenizer is None else "chat template"
            raise UnsuitableTemplate(f"no {missing} was given, so the conversation cannot be rendered for this model")
        self.tokenizer, self._template, self._options = tokenizer, template, dict(options or {})
        self._taken: dict[str, str] = {}
        self.tools = list(tools) if tools else None
        place = getattr(model.config, "image_token_id", None)
        self.image_token = tokenizer.convert_ids_to_tokens(place) if isinstance(place, int) else None
        ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        self._ends = set(ends if isinstance(ends, list) else [ends]) - {None}

    def render(self, messages: Sequence[Mapping[str, Any]], *, answer: bool = False, plain: bool = False) -> str:
        """Render messages that are shaped already. Raises: UnsuitableTemplate."""
        try:
            text = self.tokenizer.apply_chat_template(
                list(messages),
                chat_template=self._template,
                tools=None if plain else self.tools,
                tokenize=False,
                add_generation_prompt=answer,
                **self._options,
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError, ImportError) as error:
            raise UnsuitableTemplate(f"the chat template fails: {str(error)[:200] or type(error).__name__}") from error
        return str(text)

    def _shows(self, messages: list[dict[str, Any]], word: str = _MARK) -> bool:
        try:
            return word in self.render(messages, plain=True)
        except UnsuitableTemplate:
            return False

    def _takes(self, role: str) -> str:
        """Tell how the template takes a role's content: `text`, `parts`, or `no` when it does not show the role."""
        if role not in self._taken:
            *before, last = _dummy(role)
            before = [self._as_taken(m) for m in before]
            forms = (("text", _MARK), ("parts", [{"type": "text", "text": _MARK}]))
            shown = (kind for kind, content in forms if self._shows([*before, {**last, "content": content}]))
            self._taken[role] = next(shown, "no")
        return self._taken[role]

    def _role(self, role: str) -> str:
        """Return the role as which the template shows a message."""
        if self._takes(role) != "no":
            return role
        return "system" if role == "developer" else "user"

    def _as_taken(self, message: dict[str, Any]) -> dict[str, Any]:
        parts = self._takes(message["role"]) == "parts"
        return {**message, "content": [{"type": "text", "text": message["content"]}]} if parts else message

    def _before(self, role: str) -> list[dict[str, Any]]:
        return [self._as_taken(m) for m in _dummy(self._role(role))]

    @cached_property
    def shows_images(self) -> bool:
        """Whether an image part becomes the model's placeholder."""
        parts = [{"type": "image"}, {"type": "text", "text": _MARK}]
        return self.image_token is not None and self._shows([{"role": "user", "content": parts}], self.image_token)

    @cached_property
    def shows_calls(self) -> bool:
        """Whether calls of tools are rendered."""
        ask, answer = self._before("assistant")
        return self._shows([ask, {**answer, "content": "", "tool_calls": _call(_MARK)}])

    @cached_property
    def shows_thinking(self) -> bool:
        """Whether the thinking of the newest answer is rendered."""
        ask, answer = self._before("assistant")
        return self._shows([ask, {**answer, "content": "", "reasoning_content": _MARK}])

    @cached_property
    def shows_tools(self) -> bool:
        """Whether definitions of tools are rendered."""
        return self.tools is None or self.render(self._before("user")) != self.render(self._before("user"), plain=True)

    def shape(self, messages: Sequence[Any], first_image: int, sees: Callable[[int], bool]) -> Shaped:
        """Put messages into the form that the template takes.

        Image parts are counted from `first_image`; those that `sees` denies become the text `[image]`, videos
        `[video]`. Calls and results of tools that the template does not know become text in Qwen's form.
        """
        shaped, shown, count = [], [], first_image
        for message in messages:
            parts, content = [], message.get("content")
            for part in content if isinstance(content, (list, tuple)) else [content or ""]:
                kind = kind_of(part)
                if kind == "image":
                    if self.shows_images and sees(count):
                        shown.append(count)
                        parts.append({"type": "image"})
                    else:
                        parts.append({"type": "text", "text": "[image]"})
                    count += 1
                else:
                    text = content_text([part]) if kind == "text" else f"[{kind}]"
                    parts.append({"type": "text", "text": text})
            shaped.append(self._shaped(message, parts))
        return Shaped(shaped, shown)

    def _shaped(self, message: Mapping[str, Any], parts: list[dict[str, str]]) -> dict[str, Any]:
        known = {k: v for k, v in message.items() if k != "content"}
        if known.get("tool_calls") and not self.shows_calls:
            before = "\n" if any(p.get("text") for p in parts) else ""
            parts = [*parts, {"type": "text", "text": before + calls_text(known.pop("tool_calls"))}]
        role = self._role(known["role"])
        if known["role"] == "tool" != role:
            parts = [
                {"type": "text", "text": "<tool_response>\n"},
                *parts,
                {"type": "text", "text": "\n</tool_response>"},
            ]
        known["role"], takes = role, self._takes(role)
        has_image = any(p["type"] == "image" for p in parts)
        known["content"] = parts if takes == "parts" or has_image else "".join(p["text"] for p in parts)
        hidden: dict[str, Any] = self._hide(known)
        return hidden

    def _hide(self, value: Any) -> Any:
        """Replace the image placeholder where a text spells it out: it is no image."""
        if isinstance(value, str):
            return value.replace(self.image_token, _DECOY) if self.image_token else value
        if isinstance(value, Mapping):
            return {key: self._hide(item) for key, item in value.items()}
        return [self._hide(item) for item in value] if isinstance(value, (list, tuple)) else value

    def whole(self, messages: Sequence[Mapping[str, Any]], *, plain: bool = False) -> str:
        """Render shaped messages as they stand when more come after them."""
        return self.render(messages, plain=plain).removesuffix(self._behind)

    @cached_property
    def _behind(self) -> str:
        return self._opening("user")[1]

    def _opening(self, role: str) -> tuple[str, str]:
        """Return what opens an answer, and the white space at the end of the template that stands behind it then."""
        closed, opened = (self.render(self._before(role), answer=answer, plain=True) for answer in (False, True))
        pairs = zip(closed, opened, strict=False)
        common = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(closed), len(opened)))
        if closed[common:].strip():
            raise UnsuitableTemplate("the chat template opens an answer otherwise than behind the conversation")
        return opened[common:], closed[common:]

    def after(self, role: str, shaped: Shaped) -> str:
        """Render messages that come after one of `role`: what follows its content, its end of turn first.

        Raises: UnsuitableTemplate when the template does not write the message before them exactly once.
        """
        pieces = self.whole([*self._before(role), *shaped.messages], plain=True).split(_MARK)
        if len(pieces) != 2:
            raise UnsuitableTemplate(f"the chat template writes a message of {role} {len(pieces) - 1} times")
        return pieces[1]

    def opening(self, role: str, begun: Begun | None = None) -> tuple[str, str]:
        """Return how an answer is opened after a message of `role`: the header, and what stands before its text.

        That is the beginning of a thought, where the template begins one; with `begun`, what was written of the answer.
        """
        header, think, thought = self._opening(role)[0].partition(THINK)
        opener = think + thought
        if begun is None or begun.is_empty:
            return header, opener
        closes = "</think>" in opener and not begun.text.lstrip().startswith(THINK)
        return header, self._hide((opener if closes else "") + begun.text)

    @cached_property
    def closing(self) -> str:
        """What the template writes after an answer's content."""
        return self.after("assistant", Shaped([], []))

    @cached_property
    def ends(self) -> set[int]:
        """The ids that end an answer: the template's end of turn if it is a token of its own, and the model's stops."""
        first = set(self.tokens(self.closing, [])[:1])
        return self._ends | first & (set(self.tokenizer.all_special_ids) | set(self.tokenizer.added_tokens_decoder))

    def tokens(self, text: str, images: Sequence[int]) -> list[int]:
        """Turn rendered text into ids, placeholders repeated as often as `images` says. Raises: UnsuitableTemplate."""
        pieces = text.split(self.image_token) if self.image_token else [text]
        if len(pieces) != len(images) + 1:
            raise UnsuitableTemplate(f"the chat template shows {len(pieces) - 1} of {len(images)} images")
        filled = pieces[0] + "".join(
            str(self.image_token) * count + piece for count, piece in zip(images, pieces[1:], strict=True)
        )
        first, *others = [self._ids(piece) for piece in filled.split(_DECOY)]
        half = len(str(self.image_token)) // 2  # in two pieces, so that it does not become the placeholder
        spelled = self._ids(str(self.image_token)[:half]) + self._ids(str(self.image_token)[half:]) if others else []
        return first + [i for other in others for i in (*spelled, *other)]

    def written(self, text: str) -> list[int]:
        """Turn text that no template made into ids; a placeholder that it spells out is no image."""
        return self.tokens(self._hide(text), [])

    def _ids(self, text: str) -> list[int]:
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return [int(i) for i in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids into text, special tokens included, without a last character that is not whole yet."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text).rstrip("\ufffd")
