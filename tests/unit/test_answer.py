"""The text of an answer and its message, both ways, and the rest of one that was begun."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torpor.state.answer import Begun, message_of, rest_of, text_of


def call(name: str, arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


ZOOM = '<tool_call>\n{"name": "zoom", "arguments": {"x": 1}}\n</tool_call>'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", {"content": "hello"}),
        ("  two\n", {"content": "  two\n"}),
        ("<think>\nhm\n</think>\n\nyes", {"content": "yes", "reasoning_content": "hm"}),
        ("<think>\n\n</think>\n\nyes", {"content": "yes"}),
        ("<think>\ncut off", {"content": "", "reasoning_content": "cut off"}),
        (ZOOM, {"content": "", "tool_calls": [call("zoom", {"x": 1})]}),
        (f"look\n{ZOOM}\n{ZOOM}", {"content": "look", "tool_calls": [call("zoom", {"x": 1})] * 2}),
        ("<tool_call>\n{broken\n</tool_call>", {"content": "<tool_call>\n{broken\n</tool_call>"}),
        ('<tool_call>\n{"name": "a"}\n</tool_call>', {"content": '<tool_call>\n{"name": "a"}\n</tool_call>'}),
        (f"{ZOOM} and more", {"content": f"{ZOOM} and more"}),
        ("<tool_call>\n" + "[" * 100_000, {"content": "<tool_call>\n" + "[" * 100_000}),
    ],
)
def test_what_a_model_wrote_becomes_a_message(text: str, message: dict[str, Any]) -> None:
    assert message_of(text) == {"role": "assistant", **message}


@given(thought=st.text("ab ", max_size=8), content=st.text("ab{} ", max_size=8), name=st.sampled_from(["", "f", "zöö"]))
def test_a_message_is_written_and_read_again(thought: str, content: str, name: str) -> None:
    message: dict[str, Any] = {"role": "assistant", "content": content}
    message |= {"reasoning_content": thought} if thought.strip() else {}
    message |= {"tool_calls": [call(name, {"k": content})]} if name else {}
    assert message_of(text_of(message)) == message


@given(thought=st.text("ab ", max_size=8), content=st.text("ab ", max_size=8), cut=st.integers(0, 80))
def test_any_beginning_and_its_rest_make_the_message(thought: str, content: str, cut: int) -> None:
    message = {"role": "assistant", "content": content, "reasoning_content": thought.strip()}
    whole = text_of(message)
    rest = rest_of(message, Begun(whole[:cut]))
    assert rest is not None
    made = message_of(whole[:cut] + rest)
    assert (made["content"], made.get("reasoning_content", "")) == (content, thought.strip())


@pytest.mark.parametrize(
    ("begun", "rest"),
    [
        (Begun(""), "<think>\nhm\n</think>\n\nyes"),
        (Begun("<think>\n"), "hm\n</think>\n\nyes"),
        (Begun("<think>\nh"), "m\n</think>\n\nyes"),
        (Begun("<think>\nhm\n</think>"), "\n\nyes"),
        (Begun("<think>hm</think>y"), "es"),
        (Begun("<think>\n\n</think>\n\n"), "yes"),  # a template that lets the model think nothing
        (Begun("<think>\nho"), None),
        (Begun("<think>\nhm\n</think>\n\nno"), None),
        (Begun("yes"), None),
        (Begun("<think>\nhm\n</think>\n\nyes", ended=True), ""),
        (Begun("<think>\nhm\n</think>\n\nye", ended=True), None),
    ],
)
def test_the_rest_of_an_answer(begun: Begun, rest: str | None) -> None:
    assert rest_of({"role": "assistant", "reasoning_content": "hm", "content": "yes"}, begun) == rest


def test_calls_that_are_spaced_otherwise_are_the_same_when_they_had_ended() -> None:
    written = '<tool_call>{"arguments":{"x":1},"name":"zoom"}</tool_call>'
    message = message_of(written)
    assert message["tool_calls"] == [call("zoom", {"x": 1})]
    assert rest_of(message, Begun(written, ended=True)) == ""


def test_content_in_parts_and_arguments_as_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, "b"]
    message = {"role": "assistant", "content": parts, "tool_calls": [call("f", '{"raw": 1}')]}
    assert text_of(message) == 'ab\n<tool_call>\n{"name": "f", "arguments": {"raw": 1}}\n</tool_call>'
    assert text_of({"role": "assistant", "content": None, "reasoning_content": "x"}, thinking=False) == ""
