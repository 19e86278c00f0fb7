"""Conversations: the open path of a tree, what ids cover, and whether one goes on from another."""

from __future__ import annotations

from typing import Any

import pytest
from torpor.state.answer import Begun
from torpor.state.conversation import Talk, active_path, image_parts, is_message, kind_of, read_talk, settled
from torpor.state.errors import UnsupportedState
from torpor.state.switch import why_apart


def says(role: str, content: Any = "x", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASK, ANSWER, AGAIN = says("user", "a?"), says("assistant", "b"), says("user", "c?")
PATH = [ASK, ANSWER, AGAIN]


@pytest.mark.parametrize(
    "tree",
    [
        PATH,
        tuple(PATH),
        {"messages": PATH, "title": "t"},
        {"head": "3", "nodes": {"1": ASK, "2": {**ANSWER, "parent": "1"}, "3": {**AGAIN, "parent": "2"}}},
        {
            "current_node": "c",
            "mapping": {
                "root": {"message": None, "parent": None},
                "a": {"message": ASK, "parent": "root"},
                "b": {"message": ANSWER, "parent": "a"},
                "b2": {"message": says("assistant", "other"), "parent": "a"},
                "c": {"message": AGAIN, "parent": "b"},
            },
        },
        {
            "head": 3,
            "nodes": [{"id": 1, **ASK, "children": [2]}, {"id": 2, **ANSWER, "children": [3]}, {"id": 3, **AGAIN}],
        },
        {
            "current": "z",
            "children": [
                {**ASK, "children": [says("assistant", "other"), {**ANSWER, "children": [{**AGAIN, "id": "z"}]}]},
            ],
        },
    ],
    ids=["list", "tuple", "wrapped", "parents", "mapping", "listed", "nested"],
)
def test_the_open_path(tree: Any) -> None:
    found = [{k: m[k] for k in ("role", "content")} for m in active_path(tree)]
    assert found == PATH


@pytest.mark.parametrize(
    "tree",
    [
        {"nodes": {"1": ASK}},  # no head
        {"head": "9", "nodes": {"1": ASK}},
        {"head": "1", "nodes": {"1": {**ASK, "parent": "2"}, "2": {**ANSWER, "parent": "1"}}},  # a circle
        ["text"],
        [ASK, {"role": "user"}],
        "text",
        7,
    ],
    ids=str,
)
def test_what_has_no_path(tree: Any) -> None:
    with pytest.raises(UnsupportedState, match="neither a list"):
        active_path(tree)


def test_parts() -> None:
    parts = [
        {"type": "text", "text": "x"},
        {"type": "image"},
        {"image_url": {"url": "u"}},
        {"type": "video"},
        "y",
        3,
        {},
    ]
    assert [kind_of(p) for p in parts] == ["text", "image", "image", "video", "text", "part", "part"]
    assert [at for at, _ in image_parts([ASK, says("user", parts), says("user", [{"type": "input_image"}])])] == [
        1,
        1,
        2,
    ]
    assert [is_message(m) for m in (ASK, {"role": "assistant", "tool_calls": []}, {"role": 3, "content": ""}, None)] == [
        True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("talk", "messages", "begun"),
    [
        (Talk([ASK], 1), [ASK], None),
        (Talk([ASK], 1, Begun("b")), [ASK], Begun("b")),
        (Talk([ASK], 1, Begun("b", ended=True)), [ASK, ANSWER], None),
        (Talk([ASK, ANSWER], 1, Begun("b")), [ASK, ANSWER], None),  # the answer was written down by hand
        (Talk([ASK, AGAIN], 1, Begun("b")), PATH, None),  # asked again in mid-answer
        (Talk([ASK, says("assistant", "no")], 1, Begun("b")), [ASK, ANSWER, says("assistant", "no")], None),
        (Talk([ASK, ANSWER], 1, None), [ASK, ANSWER], None),
    ],
)
def test_a_settled_talk(talk: Talk, messages: list[Any], begun: Begun | None) -> None:
    before = list(talk.messages)
    after = settled(talk)
    assert (after.messages, after.covered, after.begun) == (messages, len(messages), begun)
    assert talk.messages == before


def test_a_text_layer_is_read() -> None:
    text = {"conversation": PATH, "covered": 2, "pending": {"text": "t", "ended": False}, "tools": [1]}
    assert read_talk(text) == Talk(PATH, 2, Begun("t"), [1])
    assert read_talk({"conversation": PATH}) == Talk(PATH, 3)
    assert read_talk({"conversation": PATH, "covered": 9}) == Talk(PATH, 3)  # no such message
    assert read_talk({"conversation_history": PATH}).messages == PATH
    assert read_talk({}).messages == []
    assert read_talk({"conversation": PATH, "covered": 1, "pending": "odd"}).begun is None


def text(*messages: Any, covered: int | None = None, begun: Begun | None = None, tools: Any = None) -> dict[str, Any]:
    pending = None if begun is None else {"text": begun.text, "ended": begun.ended}
    return {
        "conversation": list(messages), "covered": len(messages) if covered is None else covered, "pending": pending,
        "tools": tools,
    }  # fmt: skip


THOUGHT = says("assistant", "b", reasoning_content="hm")


@pytest.mark.parametrize(
    ("earlier", "later", "why"),
    [
        (text(ASK), text(ASK, ANSWER), None),
        (text(ASK, ANSWER), text(ASK, ANSWER, AGAIN, begun=Begun("d")), None),
        (text(ASK, begun=Begun("")), text(ASK, begun=Begun("")), None),
        (text(ASK, begun=Begun("b")), text(ASK, says("assistant", "b and more"), AGAIN), None),
        (text(ASK, begun=Begun("<think>\nh")), text(ASK, THOUGHT), None),
        (text(ASK, begun=Begun("b", ended=True)), text(ASK, ANSWER), None),
        (text(ASK, begun=Begun("<think>\n")), text(ASK, ANSWER), None),
        (text(ASK, begun=Begun("b")), text(ASK, begun=Begun("bcd")), None),
        (text(ASK, begun=Begun("b")), text(ASK, AGAIN, covered=1, begun=Begun("bcd")), None),
        (text(ASK, AGAIN, covered=1), text(ASK, ANSWER), None),  # what the ids did not cover may have changed
        (text(ASK, begun=Begun("b")), text(ASK, begun=Begun("cd")), "another way"),
        (text(ASK, begun=Begun("b")), text(ASK, says("assistant", "no")), "another way"),
        (text(ASK, begun=Begun("b")), text(ASK), "another way"),
        (text(ASK, begun=Begun("b")), text(ASK, AGAIN), "another way"),
        (text(ASK, begun=Begun("b", ended=True)), text(ASK, says("assistant", "b and more")), "another way"),
        (text(ASK, ANSWER), text(ASK), "another one"),
        (text(ASK, ANSWER), text(says("user", "A?"), ANSWER, AGAIN), "another one"),
        (text(ASK, tools=[1]), text(ASK, ANSWER, tools=[2]), "tools"),
        ({"conversation": [ASK]}, text(ASK, ANSWER), "does not say"),
        (text(ASK), {"conversation": {"head": 1}}, "neither a list"),
        (text(ASK), {"conversation": PATH}, None),  # nobody says how far those ids go; the conversation does
    ],
)
def test_whether_one_goes_on_from_another(earlier: Any, later: Any, why: str | None) -> None:
    found = why_apart(earlier, later)
    assert found is None if why is None else why in str(found)
