"""What a page says of a conversation: read from anything, and laid on what was saved."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.manifests import hostile_trees
from torpor.state.errors import BadInput, TooLarge, TorporError
from torpor.state.page_items import MAX_CHARS, MAX_DEPTH, MAX_MESSAGES, PageItem, id_of, read_item
from torpor.state.page_view import View, drafts_more, holds, lay_out, page_message, shared, view, whole

ID, BASE = "01M81P35719XNDZ4R57NMV6DYZ", "01M81P35719XNDZ4R57NMV6DYA"
IMAGE = {"type": "image"}


def said(*messages: Any, **changes: Any) -> dict[str, Any]:
    made = {"id": ID, "session_id": "s", "created_at": 5, "base": None, "keep": 0, "messages": list(messages)}
    return made | changes


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content} | more


def read(*messages: Any, **changes: Any) -> PageItem:
    return read_item(said(*messages, **changes))


TALK = (user("Hello"), assistant("Hi"), user("And?"))


def test_only_what_is_known_is_read() -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"x": [1, None, "y"]}}}]
    item = read(
        user([{"type": "image", "index": 2, "src": "data:…"}, {"type": "text", "text": "What?"}, "more"])
        | {"key": "k7"},
        assistant(None, tool_calls=calls, reasoning_content="well"),
        title="A\ntitle\u0007 of  two lines",
        ids=[1, 2],
    )
    assert item.messages == (
        user([{"type": "image", "index": 2}, {"type": "text", "text": "What?"}, {"type": "text", "text": "more"}]),
        assistant("", tool_calls=calls, reasoning_content="well"),
    )
    assert item.title == "A title of two lines"


def test_what_a_model_writes_is_read_as_its_message() -> None:
    (message,) = read(assistant("<think>\nwell\n</think>\n\nYes")).messages
    assert message == assistant("Yes", reasoning_content="well")


def test_half_a_pair_becomes_a_sign_that_says_so() -> None:
    item = read(user("a\ud83d"), user("\ude00b"), user("\ud83d\ude00"), draft="\udc00")
    assert [m["content"] for m in item.messages] == ["a\ufffd", "\ufffdb", "😀"]
    assert item.draft == "\ufffd"


@pytest.mark.parametrize(
    "wrong",
    [
        None, [], "x", {}, said(id="x"), said(id=ID.lower()), said(id=1), said(session_id="../x"), said(session_id=None),
        said(created_at="now"), said(created_at=-1), said(created_at=float("nan")), said(created_at=float("inf")), said(created_at=True),
        said(base="x"), said(base=3), said(base=BASE, keep=-1), said(base=BASE, keep=1.5), said(base=BASE, keep=1 << 40), said(keep=1),
        said(messages=None), said(messages={}), said(*[user("x")] * (MAX_MESSAGES + 1)), said("x"), said(user(7)), said(user([7])),
        said({"content": "x"}), said({"role": "", "content": "x"}), said({"role": "a\nb", "content": "x"}), said({"role": 1, "content": "x"}),
        said(user([{"type": "audio"}])), said(user([{"type": "text", "text": 1}])), said(user([{"type": "text"}] * 1001)),
        said(assistant("x", tool_calls={"a": 1})), said(assistant("x", tool_calls=[10**30])), said(assistant("x", tool_calls=[float("inf")])),
        said(assistant("x", reasoning_content=[])), said(draft=1), said(partial="yes"), said(title=[]), said(behind=1),
    ],
)  # fmt: skip
def test_what_is_no_item_is_refused(wrong: Any) -> None:
    with pytest.raises(BadInput):
        read_item(wrong)


def test_texts_have_an_end() -> None:
    with pytest.raises(TooLarge):
        read(*[user("x" * 1000)] * (MAX_CHARS // 1000 + 1))
    deep: Any = 1
    for _ in range(MAX_DEPTH + 2):
        deep = [deep]
    with pytest.raises(BadInput):
        read(assistant("x", tool_calls=deep))


@given(hostile_trees)
def test_no_item_is_beyond_reading(value: Any) -> None:
    for wrong in (
        value,
        said(value),
        said(user(value)),
        said(assistant("x", tool_calls=[value]), draft=value),
        {"id": value},
    ):
        try:
            item = read_item(wrong)
        except TorporError:
            id_of(wrong)
            continue
        json.dumps(item.messages, allow_nan=False).encode()
        assert len(item.digest()) == 64


@given(hostile_trees, hostile_trees)
def test_no_text_layer_is_beyond_looking_at(layer: Any, message: Any) -> None:
    for text in (layer, {"conversation": [message]}, {"messages": [user(layer)]}):
        try:
            seen = view(text)
        except TorporError:
            continue
        json.dumps(seen.conversation, allow_nan=False)
        assert shared(seen.conversation, seen) == len(seen.conversation) - seen.partial


def test_a_page_sees_an_answer_that_was_begun() -> None:
    text = {"conversation": list(TALK), "covered": 3, "pending": {"text": "Well, I", "ended": False}, "draft": "Also"}
    seen = view(text)
    assert seen.conversation == (*TALK, assistant("Well, I"))
    assert (seen.partial, seen.draft) == (True, "Also")
    assert view({"messages": list(TALK)}) == View(TALK, key="messages")
    assert view(None) == View()


def test_a_page_sees_where_pictures_are_and_no_more() -> None:
    saved = user([{"type": "image", "image": b"bytes"}, {"type": "text", "text": "What?"}]) | {"id": 7}
    assert page_message(saved) == user([IMAGE, {"type": "text", "text": "What?"}])


def test_the_messages_that_both_have() -> None:
    saved = View(
        (
            user([{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]),
            assistant("Hi", reasoning_content="polite"),
        )
    )
    assert shared(TALK, saved) == 2  # a page may know less of a message
    assert shared((user("Hello"), assistant("Hi", reasoning_content="rude")), saved) == 1
    assert shared((user([IMAGE, "Hello"]),), saved) == 0
    assert shared((user("Hello\n"), assistant(" Hi")), saved) == 2  # nor does white space around a text count
    assert shared((user("Hel lo"),), saved) == 0
    assert shared(TALK, View((*TALK[:2], assistant("And?")))) == 2


def test_an_item_keeps_messages_of_its_base() -> None:
    item = read(user("And?"), base=BASE, keep=2)
    assert whole(item, View(TALK)) == list(TALK)
    with pytest.raises(BadInput):
        whole(item, View(TALK[:1]))


HELD: list[tuple[dict[str, Any], View, bool]] = [
    (said(*TALK), View(TALK), True),
    (said(*TALK[:2]), View(TALK), True),
    (said(*TALK, assistant("Wel"), partial=True), View((*TALK, assistant("Well"))), True),
    (said(*TALK, assistant("Wel"), partial=True), View((*TALK, assistant("Well", reasoning_content="hm"))), True),
    (said(*TALK, assistant("Wel")), View((*TALK, assistant("Well"))), False),
    (said(*TALK, assistant("Wel"), partial=True), View((*TALK, assistant("Well"), user("x"))), True),
    (said(*TALK, assistant("Wel"), partial=True), View((*TALK, assistant("We"), user("x"))), False),
    (said(*TALK, assistant("Wel"), partial=True), View((*TALK, assistant("Well")), partial=True), True),
    (said(*TALK, assistant("Well")), View((*TALK, assistant("Well")), partial=True), False),
    (said(*TALK[:2], user("An"), partial=True), View(TALK), False),
    (said(*TALK), View(TALK[:2]), False),
    (said(), View(), True),
]


@pytest.mark.parametrize(("sent", "seen", "held"), HELD)
def test_what_a_backup_has_already(sent: dict[str, Any], seen: View, held: bool) -> None:
    item = read_item(sent)
    assert holds(seen, item, whole(item, View())) is held


@pytest.mark.parametrize(
    ("draft", "seen", "more"),
    [
        (None, View(TALK), False),
        ("x", View(TALK), True),
        ("x", View(TALK, draft="x"), False),
        ("y", View(TALK, draft="x"), True),
        ("x", View((*TALK, assistant("Well"))), True),
        ("x", View((*TALK, assistant("Well"), user("x and y"))), False),  # it was sent since
    ],
)
def test_a_draft_that_no_backup_has(draft: str | None, seen: View, more: bool) -> None:
    assert drafts_more(seen, read(*TALK, draft=draft), TALK) is more


PROMPT = {"role": "system", "content": "Be short."}


def test_a_page_need_not_show_what_the_system_says() -> None:
    seen = View((PROMPT, *TALK))
    assert whole(read(*TALK, user("Now?")), seen) == [PROMPT, *TALK, user("Now?")]
    assert whole(read({"role": "system", "content": "Be long."}, *TALK), seen)[0]["content"] == "Be long."
    assert whole(read(user("Now?"), base=BASE, keep=4), seen) == [PROMPT, *TALK, user("Now?")]
    assert whole(read(), seen) == []


def test_a_page_that_shows_no_system_message_does_not_count_it() -> None:
    seen = View((PROMPT, *TALK))
    assert whole(read(user("Now?"), base=BASE, keep=3, bare=True), seen) == [PROMPT, *TALK, user("Now?")]
    assert whole(read(user("Now?"), base=BASE, keep=1, bare=True), seen) == [PROMPT, TALK[0], user("Now?")]
    assert whole(read(user("Now?"), base=BASE, keep=3, bare=True), View(TALK)) == [*TALK, user("Now?")]
    with pytest.raises(BadInput):
        whole(read(base=BASE, keep=4, bare=True), seen)
    with pytest.raises(BadInput):
        read(bare=1)


def test_a_page_that_miscounts_is_not_believed() -> None:
    seen = View((PROMPT, *TALK, assistant("Yes", reasoning_content="Well.")))
    for keep, behind in ((3, "Hi"), (4, "nd?"), (5, "Yes"), (5, "</think>\n\nYes"), (5, ""), (5, "es \n")):
        assert len(whole(read(base=BASE, keep=keep, behind=behind), seen)) == keep
    for keep, behind in ((2, "Hi"), (4, "Hi"), (0, "Hi"), (5, "No")):
        with pytest.raises(BadInput):
            whole(read(base=BASE, keep=keep, behind=behind), seen)
    assert len(whole(read(base=BASE, keep=2, bare=True, behind="Hi"), seen)) == 3


def test_an_answer_that_is_being_written_is_saved_as_begun() -> None:
    item = read(*TALK, assistant("Wel"), partial=True)
    layout = lay_out(item, item.messages, View(TALK[:2]), [])
    assert (layout.shared, layout.messages) == (2, (user("And?"),))
    assert layout.begun is not None
    assert (layout.begun.text, layout.begun.ended) == ("Wel", False)


PICTURED = (user([IMAGE, "one"]), assistant("1"), user([IMAGE, "two"]))


@pytest.mark.parametrize(
    ("messages", "there", "images"),
    [
        (PICTURED, [0, 1], (0, 1)),
        (PICTURED, [1, 2], (1, 2)),  # behind a video
        (PICTURED[:2], [0, 1], (0,)),
        ((*PICTURED[:2], user([IMAGE | {"index": 1}, "other"])), [0, 1], (0, 1)),
        ((user([IMAGE | {"index": 1}, "other"]),), [0, 1], (1,)),
        ((user([IMAGE, "new"]), user([IMAGE | {"index": 0}])), [0], ()),  # behind one without a source, none
        ((user([IMAGE | {"index": 5}]),), [0], ()),
        ((user([IMAGE | {"index": 0}]),), [1], ()),
        ((*PICTURED, user([IMAGE | {"index": 0}])), [0], (0,)),
    ],
)
def test_pictures_stay_where_their_messages_do(messages: Any, there: list[int], images: tuple[int, ...]) -> None:
    item = read(*messages)
    layout = lay_out(item, item.messages, View(tuple(map(page_message, PICTURED))), there)
    assert layout.images == images
    assert "index" not in json.dumps(layout.messages)


@given(
    st.lists(st.sampled_from([*TALK, *PICTURED]), max_size=5), st.lists(st.sampled_from([*TALK, *PICTURED]), max_size=5)
)
def test_laid_out_it_says_what_the_page_said(conversation: list[Any], there: list[Any]) -> None:
    item, base = read(*conversation), View(tuple(map(page_message, there)))
    layout = lay_out(item, item.messages, base, list(range(9)))
    assert [*base.conversation[: layout.shared], *layout.messages] == list(item.messages)
    assert shared(item.messages, base) == layout.shared


def test_a_clock_that_is_wrong_makes_nothing_late() -> None:
    item = read(created_at=1000, sent_at=1060)
    assert item.digest() == read(created_at=1000).digest() == read(created_at=1000, sent_at=2000).digest()
    assert item.by_clock(9000.0).created_at == 8940.0
    assert read(created_at=1000, sent_at=900).by_clock(9000.0).created_at == 9000.0  # it was set back meanwhile
    assert read(created_at=1000).by_clock(9000.0).created_at == 1000.0
    assert read(created_at=1000, sent_at=1060).by_clock(1061.0).created_at == 1000.0  # it was only on its way
    with pytest.raises(BadInput):
        read(sent_at="now")
