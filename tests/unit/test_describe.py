"""What a manifest says of itself: stored values, messages, traces; and that nothing hostile gets through."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.manifests import hostile_trees, manifest
from torpor.codec import messages, nodes, torch_bridge, tree
from torpor.codec.describe import Description, describe
from torpor.state.errors import InvalidManifest, UnsupportedState
from torpor.state.manifest import BlobRef


def encoded(value: Any) -> Any:
    made = tree.encode(value, torch_bridge.to_leaf)
    for number, (leaf, body) in enumerate(made.pending):
        chunks = tree.chunks(leaf)
        tree.fill(body, [BlobRef(f"{number:032x}{i:032x}", chunk.nbytes) for i, chunk in enumerate(chunks)])
    return made.value


def described(**layers: Any) -> Description:
    return describe(manifest(layers={name: encoded(value) for name, value in layers.items()}, kv_cache=None))


def test_every_tensor_and_byte_string_is_found_with_its_place() -> None:
    found = described(
        vision_cache={
            "embeddings": [torch.zeros(1, 2, 3, dtype=torch.bfloat16)],
            "frames": {0: np.arange(3)},
            "$odd": (b"abc",),
            "a key": torch.zeros(3 << 20),
        }
    )
    rows = [(x.path, x.kind, x.dtype, x.shape, x.size_bytes, len(x.blobs), x.library) for x in found.stored]
    assert rows == [
        ("vision_cache.embeddings[0]", "tensor", "bfloat16", (1, 2, 3), 12, 0, "torch"),
        ("vision_cache.frames[0]", "tensor", "int64", (3,), 24, 0, "numpy"),
        ('vision_cache["$odd"][0]', "bytes", None, (), 3, 0, None),
        ('vision_cache["a key"]', "tensor", "float32", (3 << 20,), 12 << 20, 3, "torch"),
    ]
    (layer,) = found.layers
    assert (layer.tensors, layer.values, layer.blobs, layer.size_bytes) == (3, 1, 3, 12 + 24 + 3 + (12 << 20))


def test_a_long_text_is_described_like_bytes() -> None:
    body = {"size_bytes": 40_000, "blocks": [{"digest": "c" * 64, "size_bytes": 40_000}]}
    conversation = [{"role": "user", "content": {"$text": body}}]
    found = describe(manifest(layers={"text_context": {"conversation": conversation}}))
    assert found.stored[0] == nodes.Stored("text_context.conversation[0].content", "text", 40_000, blobs=("c" * 64,))
    assert found.messages[0].text == "(text of 40000 bytes)"


TURNS: list[dict[str, Any]] = [
    {"role": "system", "content": "\n  Be brief.\nAlways."},
    {"role": "user", "content": [{"type": "image", "image": b"png"}, {"type": "text", "text": "What is this?"}]},
    {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}, {"name": "zoom"}]},
    {"role": "user", "content": ({"type": "video"}, {"type": "image_url", "image_url": {}}, "go " + "on " * 99)},
]
LINES = [
    ("system", "Be brief.…", 0, 0, 0),
    ("user", "What is this?", 1, 0, 0),
    ("assistant", "", 0, 0, 2),
    ("user", ("go " + "on " * 99)[:99] + "…", 1, 1, 0),
]


@pytest.mark.parametrize("key", ["conversation", "conversation_history", "messages", "any"])
def test_messages_are_found_under_any_key(key: str) -> None:
    found = described(text_context={"before": 1, key: TURNS}).messages
    assert [(m.role, m.text, m.images, m.videos, m.tool_calls) for m in found] == LINES
    assert [m.path for m in found] == [f"text_context.{key}[{i}]" for i in range(4)]


def test_messages_of_a_tree_come_in_the_order_of_the_document() -> None:
    leaf = {"role": "assistant", "content": "c"}
    nested = {"role": "user", "content": "a", "children": [{"role": "assistant", "content": "b"}, {"reply": leaf}]}
    by_id = {7: {"message": {"role": "user", "content": "d"}, "parent": None}, "n2": {"role": "tool", "content": ""}}
    found = described(text_context={"tree": nested, "nodes": by_id}).messages
    assert [(m.path, m.text) for m in found] == [
        ("text_context.tree", "a"),
        ("text_context.tree.children[0]", "b"),
        ("text_context.tree.children[1].reply", "c"),
        ("text_context.nodes[7].message", "d"),
        ("text_context.nodes.n2", ""),
    ]


def test_a_tree_without_its_messages_keeps_all_else() -> None:
    value = encoded({"m": [1, TURNS[0], (2, TURNS[1]), {3: TURNS[2], 4: 5}], "x": b"y", "z": TURNS[0]})
    found, rest = messages.find(value, "t")
    assert [m.path for m in found] == ["t.m[1]", "t.m[2][1]", "t.m[3][3]", "t.z"]
    assert rest == encoded({"m": [1, (2,), {4: 5}], "x": b"y"})


def test_what_only_looks_like_a_message_is_none() -> None:
    for almost in ({"role": "user"}, {"content": "x"}, {"role": 1, "content": "x"}, {"role": None, "content": "x"}):
        assert described(text_context={"c": [almost]}).messages == ()


def test_tool_calls_and_thinking() -> None:
    calls = [{"name": "search", "arguments": {"q": "cats", "n": 3}}, {"function": {"name": "open", "arguments": "{}"}}]
    thinking = [{"thinking": "First\nI look."}, "Then I\nanswer."]
    text = {"tool_call_stack": calls, "thinking_trace": thinking, "thinking": "", "tools": [1], "reasoning": None}
    found = described(text_context=text)
    assert [(t.path, t.kind, t.steps, t.newest) for t in found.traces] == [
        ("text_context.tool_call_stack", "tool_calls", 2, "open({})"),
        ("text_context.thinking_trace", "thinking", 2, "Then I…"),
    ]
    (one,) = described(text_context={"tool_calls": calls[:1]}).traces
    assert one.newest == 'search(q="cats", n=3)'


def test_the_kv_cache() -> None:
    kv = describe(manifest()).kv
    assert kv is not None
    assert (kv.tokens, kv.blocks, kv.block_tokens, kv.dtype, kv.layers) == (65, 2, 64, "bfloat16", 1)
    assert (kv.shapes, kv.token_bytes, kv.size_bytes) == (("2 heads x 8",), 64, 65 * 64)


@pytest.mark.parametrize(
    ("text", "line"),
    [("", ""), (" \n\t\n", ""), ("a", "a"), ("a\n", "a"), ("a\nb", "a…"), ("x" * 100, "x" * 100),
     ("x" * 101, "x" * 99 + "…"), ("x" * 100 + "\ny", "x" * 99 + "…"), ("\n\n b \r\nc", "b…"), ("a\u2028b", "a…")],
)  # fmt: skip
def test_first_lines(text: str, line: str) -> None:
    assert nodes.first_line(text) == line


@pytest.mark.parametrize(
    ("value", "line"),
    [(None, "null"), (True, "true"), (1, "1"), (1.0, "1.0"), ("1", '"1"'), ("é\n", '"é\\n"'), (float("nan"), "nan"),
     (2**70, str(2**70)), ([1, 2], "list of 2"), ((1,), "tuple of 1"), ({}, "mapping of 0"),
     ({"a": 1, 2: 3}, "mapping of 2 (a)"), (dict.fromkeys("abcde"), "mapping of 5 (a, b, c, d, …)"),
     (b"abc", "bytes[3]"), (torch.zeros(2, 3), "float32[2, 3]"), ("x" * 200, '"' + "x" * 99 + '…"')],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_values_in_one_line(value: Any, line: str) -> None:
    assert nodes.brief(encoded(value)) == line


DIGEST = {"digest": "a" * 64, "size_bytes": 1}


@pytest.mark.parametrize(
    "node",
    [
        {"$what": 1}, {"$": 1}, {"$tensor": 1}, {"$tensor": {}}, {"$tensor": {"shape": [1], "dtype": ["int8"], "data": ""}},
        {"$tensor": {"shape": [-1], "dtype": "int8", "data": ""}}, {"$tensor": {"shape": [[]], "dtype": "int8", "data": ""}},
        {"$tensor": {"shape": [2], "dtype": "int8", "blocks": [DIGEST]}}, {"$bytes": {"size_bytes": True, "data": ""}},
        {"$bytes": {"size_bytes": 1, "blocks": [{"digest": "../x", "size_bytes": 1}]}}, {"$bytes": {"size_bytes": 1, "data": 5}},
        {"$bytes": {"size_bytes": 1, "blocks": [{"digest": "a" * 64, "size_bytes": True}]}}, {"$text": {"size_bytes": 1}},
        {"$bytes": {"size_bytes": 1, "blocks": [5]}}, {"$bytes": {"size_bytes": 1, "blocks": {}}}, {"$text": "x"},
        {"$bytes": {"size_bytes": 1 << 60, "blocks": [{"digest": "a" * 64, "size_bytes": 1 << 60}]}},
        {"$tuple": {}}, {"$map": 5}, {"$map": [5]}, {"$map": [[1]]}, {"$map": [[1, 2, 3]]}, {"$float": 1}, {"$int": []}, {"$bytes": {"size_bytes": 0, "data": ""}, "x": 1},
    ],
    ids=lambda node: ascii(node)[:60],
)  # fmt: skip
def test_a_malformed_tag_is_described_as_such(node: Any) -> None:
    found = describe(manifest(layers={"text_context": {"a": [node]}}))
    assert [(x.path, x.kind) for x in found.stored] == [("text_context.a[0]", "malformed")]
    assert nodes.brief(node) == "malformed"


@given(hostile_trees)
def test_nothing_hostile_gets_through(value: Any) -> None:
    found = describe(manifest(layers={"text_context": value, "vision_cache": [value]}))
    for line in (*(m.text for m in found.messages), *(t.newest for t in found.traces), nodes.brief(value)):
        assert len(line) <= nodes.TEXT_CHARS + 60
    messages.find(value, "")


WRAPS = [
    lambda v: [v], lambda v: {"k": v}, lambda v: {"$tuple": [v]}, lambda v: {"$map": [[v, 1]]}, lambda v: {"$map": [[1, v]]},
    lambda v: {"role": "user", "content": [v]}, lambda v: {"role": "u", "content": {"text": v}},
    lambda v: {"role": "user", "content": "", "children": [v]}, lambda v: {"thinking": [v]}, lambda v: {"$bytes": v},
]  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPS)
def test_deep_trees_are_described_or_refused(wrap: Any) -> None:
    for depth in (tree.MAX_DEPTH // 3, 2 * tree.MAX_DEPTH, 60_000):
        value: Any = "x"
        for _ in range(depth):
            value = wrap(value)
        made = manifest(layers={"text_context": value})
        if depth < tree.MAX_DEPTH:
            describe(made)
        else:
            with pytest.raises(InvalidManifest, match="deep"):
                describe(made)


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"k": v}, lambda v: {1: v}])
def test_whatever_can_be_saved_can_be_described(wrap: Any) -> None:
    """The deepest value that the encoder takes, with a tag at its end."""
    deep: Any = b"x"
    while True:
        try:
            value = encoded(deep)
        except UnsupportedState:
            break
        last, deep = value, wrap(deep)
    assert len(describe(manifest(layers={"text_context": last})).stored) == 1


@given(st.integers(0, 30))
def test_a_walk_keeps_the_order_of_the_document(count: int) -> None:
    found = described(vision_cache=[{"t": [b"x"] * 2}] * count)
    assert [x.path for x in found.stored] == [f"vision_cache[{i}].t[{j}]" for i in range(count) for j in range(2)]
