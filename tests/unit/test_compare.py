"""What changed between two manifests: empty for the same, mirrored when turned round, and readable."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.manifests import FULL, KV, hostile_trees, manifest
from torpor.codec import torch_bridge, tree
from torpor.codec.compare import Change, Comparison, MessageCounts, compare, compare_kv, compare_messages
from torpor.state.errors import BadInput, InvalidManifest
from torpor.state.manifest import BlobRef, KVCache, KVLayer, KVLayout, Manifest

WIDTH = KV.layout.token_bytes()


def encoded(value: Any, seed: str = "0") -> Any:
    made = tree.encode(value, torch_bridge.to_leaf)
    for leaf, body in made.pending:
        tree.fill(body, [BlobRef(f"{i:063x}{seed}", chunk.nbytes) for i, chunk in enumerate(tree.chunks(leaf))])
    return made.value


def of(value: Any, layer: str = "config_snapshot") -> Manifest:
    return manifest(layers={layer: encoded(value)}, kv_cache=None)


def changes(a: Any, b: Any) -> list[tuple[str, str, str | None, str | None]]:
    return [(c.kind, c.path.removeprefix("config_snapshot"), c.before, c.after) for c in compare(of(a), of(b)).changes]


def turned(change: Change) -> Change:
    kinds: dict[str, Any] = {"added": "removed", "removed": "added", "changed": "changed"}
    return Change(kinds[change.kind], change.path, change.after, change.before, change.note)


def in_order(found: Any) -> list[Any]:
    return sorted(found, key=repr)


@given(hostile_trees, hostile_trees)
def test_comparing_is_mirrored_and_says_when_nothing_changed(a: Any, b: Any) -> None:
    """Over trees that nobody checked: only errors of our own get out."""
    first, second = manifest(layers={"text_context": a}), manifest(layers={"text_context": b})
    try:
        there, back = compare(first, second), compare(second, first)
    except BadInput:
        return
    assert in_order(map(turned, there.changes)) == in_order(back.changes)
    assert (there.messages_added, there.messages_removed) == (back.messages_removed, back.messages_added)
    assert (there.messages_same, there.shared_bytes) == (back.messages_same, back.shared_bytes)
    assert (there.only_a_bytes, there.only_b_bytes) == (back.only_b_bytes, back.only_a_bytes)
    assert there.same == back.same == (repr(a) == repr(b))


@given(hostile_trees)
def test_a_backup_is_the_same_as_itself(value: Any) -> None:
    made = manifest(layers={"vision_cache": value})
    try:
        found = compare(made, manifest(layers={"vision_cache": value}))
    except BadInput:
        return
    assert found.same
    assert found.changes == ()
    assert found.only_a_bytes == found.only_b_bytes == 0


values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.0, -0.0, 1.0, float("nan"), "", "a", b"b"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from(["a", "b", 0, 1, "$x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(values, values)
def test_any_difference_between_two_states_is_seen(a: Any, b: Any) -> None:
    assert bool(compare(of(a), of(b)).changes) == (repr(encoded(a)) != repr(encoded(b)))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ({"t": 0.7}, {"t": 0.9}, [("changed", ".t", "0.7", "0.9")]),
        ({"t": 1}, {"t": True}, [("changed", ".t", "1", "true")]),
        ({"t": 1}, {"t": 1.0}, [("changed", ".t", "1", "1.0")]),
        ({"a": 1}, {"b": [1]}, [("removed", ".a", "1", None), ("added", ".b", None, "list of 1")]),
        ([1, 2, 3], [1, 5, 3], [("changed", "[1]", "2", "5")]),
        ([1, 2, 3], [1, 3], [("removed", "[1]", "2", None)]),
        ([1], [1, 2, 3], [("added", "[1]", None, "2"), ("added", "[2]", None, "3")]),
        ([0, [1, 2]], [0, [1, 7]], [("changed", "[1][1]", "2", "7")]),
        ([1, 1], [1], [("removed", "[1]", "1", None)]),
        ((1,), [1], [("changed", "", "tuple of 1", "list of 1")]),
        ((1,), [2], [("changed", "", "tuple of 1", "list of 1")]),
        ({0: "x"}, {0: "y"}, [("changed", "[0]", '"x"', '"y"')]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, [("changed", "", '"a"', '"b"')]),
        ({"k": "x" * 200 + "old"}, {"k": "x" * 200 + "new"},
         [("changed", ".k", '"…' + "x" * 30 + 'old"', '"…' + "x" * 30 + 'new"')]),
        ({"t": torch.zeros(2, 3)}, {"t": torch.zeros(3, 2)}, [("changed", ".t", "float32[2, 3]", "float32[3, 2]")]),
    ],
    ids=lambda value: ascii(value)[:40],
)  # fmt: skip
def test_changes_stand_at_the_deepest_path(a: Any, b: Any, expected: Any) -> None:
    assert changes(a, b) == expected


def test_other_data_of_the_same_shape() -> None:
    small = compare(of({"t": torch.zeros(2)}), of({"t": torch.ones(2)})).changes
    assert small == (Change("changed", "config_snapshot.t", "float32[2]", "float32[2]", "other data"),)
    first = encoded({"t": torch.zeros(3 << 20)}, "0")
    second = encoded({"t": torch.zeros(3 << 20)}, "0")
    second["t"]["$tensor"]["blocks"][2]["digest"] = "f" * 64
    found = compare(manifest(layers={"vision_cache": first}), manifest(layers={"vision_cache": second}))
    assert found.changes[0].note == "other data, 2 of the blobs the same"


def test_an_array_of_another_library_has_changed() -> None:
    import numpy as np

    assert len(changes({"t": torch.zeros(2)}, {"t": np.zeros(2, "float32")})) == 1


def say(*texts: str) -> list[dict[str, str]]:
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": text} for i, text in enumerate(texts)]


def talk(*texts: str) -> Comparison:
    middle = texts.index("|")
    a, b = ({"conversation": say(*side)} for side in (texts[:middle], texts[middle + 1 :]))
    return compare(of(a, "text_context"), of(b, "text_context"))


@pytest.mark.parametrize(
    ("texts", "same", "removed", "added"),
    [
        (["a", "b", "|", "a", "b", "c", "d"], 2, [], ["c", "d"]),
        (["a", "b", "c", "|", "a"], 1, ["b", "c"], []),
        (["a", "b", "c", "|", "a", "x", "c"], 1, ["b", "c"], ["x", "c"]),
        (["a", "|", "b"], 0, ["a"], ["b"]),
        (["|"], 0, [], []),
    ],
)
def test_messages_part_after_what_both_have(texts: list[str], same: int, removed: Any, added: Any) -> None:
    found = talk(*texts)
    assert found.messages_same == same
    assert [m.text for m in found.messages_removed] == removed
    assert [m.text for m in found.messages_added] == added
    assert found.changes == ()


def test_a_message_differs_by_more_than_its_first_line() -> None:
    assert not talk("a\nb", "|", "a\nc").same


def test_a_message_that_stands_elsewhere_is_another() -> None:
    (turn,) = say("a")
    sides = [of({"c": c}, "text_context") for c in ([turn, 1], [1, turn])]
    assert not compare(*sides).same


def test_a_conversation_that_came_is_told_by_its_messages() -> None:
    found = compare(of({}, "text_context"), of({"c": say("a"), "d": []}, "text_context"))
    assert [(c.path, c.after) for c in found.changes] == [("text_context.d", "list of 0")]
    assert [m.path for m in found.messages_added] == ["text_context.c[0]"]


def test_what_lies_beside_the_messages_is_compared_as_a_layer() -> None:
    a = {"conversation": say("a"), "thinking": "x"}
    b = {"conversation": say("a", "b"), "thinking": "y"}
    found = compare(of(a, "text_context"), of(b, "text_context"))
    assert [c.path for c in found.changes] == ["text_context.thinking"]
    assert len(found.messages_added) == 1


def kv(tokens: int, *digests: str, layout: KVLayout = KV.layout) -> KVCache:
    sizes = [min(64, tokens - at) * layout.token_bytes() for at in range(0, tokens, 64)]
    blocks = tuple(BlobRef(digest * 64, size) for digest, size in zip(digests, sizes, strict=True))
    return KVCache(layout, tokens, "DynamicCache", blocks)


@pytest.mark.parametrize(
    ("a", "b", "blocks", "tokens"),
    [
        (kv(130, "a", "b", "c"), kv(200, "a", "b", "d", "e"), 2, 128),
        (kv(130, "a", "b", "c"), kv(130, "a", "b", "c"), 3, 130),
        (kv(130, "a", "b", "c"), kv(130, "f", "b", "c"), 0, 0),
        (kv(128, "a", "b"), kv(130, "a", "b", "c"), 2, 128),
        (kv(64, "a"), kv(64, "a", layout=replace(KV.layout, dtype="float16")), 0, 0),
    ],
)
def test_leading_blocks_of_the_kv_cache(a: KVCache, b: KVCache, blocks: int, tokens: int) -> None:
    for first, second in ((a, b), (b, a)):
        found = compare_kv(first, second)
        assert found is not None
        assert (found.blocks_same, found.tokens_same) == (blocks, tokens)
        assert found.same == (a == b)


def test_bytes_of_both_and_of_each() -> None:
    a = manifest(layers={}, kv_cache=kv(130, "a", "b", "c"))
    b = manifest(layers={}, kv_cache=kv(200, "a", "b", "d", "e"))
    found = compare(a, b)
    assert (found.shared_bytes, found.only_a_bytes, found.only_b_bytes) == (128 * WIDTH, 2 * WIDTH, 72 * WIDTH)


def test_layers_tokens_and_fingerprint() -> None:
    a = manifest(layers={"metadata": {}, "media": []}, tokens=66)
    other = replace(FULL, weights="other", processor=None)
    b = manifest(layers={"metadata": {}, "tokens": {}}, tokens=70, kv_cache=None, fingerprint=other)
    found = compare(a, b)
    assert (found.layers_removed, found.layers_added) == (("media", "kv_cache"), ("tokens",))
    assert (found.tokens_a, found.tokens_b, found.kv) == (66, 70, None)
    assert found.fingerprint == {"weights": (FULL.weights, "other"), "processor": (FULL.processor, None)}
    for change in ({"tokens": 67}, {"fingerprint": other}, {"kv_cache": None}, {"layers": {}}):
        assert not compare(manifest(), manifest(**change)).same
    assert compare(manifest(), manifest()).same


def test_another_layout_of_the_same_cache_is_told() -> None:
    wide = KVLayout("bfloat16", 2, (KVLayer(1, 8, 16), KVLayer(2, 4, 4)))
    found = compare_kv(kv(64, "a"), kv(64, "a", layout=wide))
    assert found is not None
    assert found.layout_b == "2 layers x 1 heads x 8/16, 2 heads x 4, bfloat16, 2 rows, blocks of 64, DynamicCache"


@pytest.mark.parametrize(
    "wrap", [lambda v: [v], lambda v: {"k": v}, lambda v: {"$tuple": [v]}, lambda v: {"$map": [[1, v]]}]
)
def test_deep_trees_are_compared_or_refused(wrap: Any) -> None:
    for depth in (tree.MAX_DEPTH // 3, 2 * tree.MAX_DEPTH, 60_000):
        a, b = 1, 2
        for _ in range(depth):
            a, b = wrap(a), wrap(b)
        sides = [manifest(layers={"text_context": value}) for value in (a, b)]
        if depth < tree.MAX_DEPTH:
            assert len(compare(sides[0], sides[1]).changes) == 1
        else:
            with pytest.raises(InvalidManifest, match="deep"):
                compare(sides[0], sides[1])


def test_lists_in_lists_do_not_multiply_the_work() -> None:
    """A change at the bottom of nested lists: each level looks at it a few times, never at all below it again."""
    a, b = 1, 2
    for _ in range(150):
        a, b = [[0], a, [0]], [[0], b, [0]]
    (change,) = compare(of(a), of(b)).changes
    assert (change.before, change.after) == ("1", "2")


def said(*texts: Any, role: str = "user") -> Manifest:
    return manifest(layers={"text_context": {"conversation": [{"role": role, "content": text} for text in texts]}})


PARTS = [{"type": "image", "image": 0}, {"type": "text", "text": "look"}]


@pytest.mark.parametrize(
    ("a", "b", "kept"),
    [
        (said("x", "y"), said("x", "y", "z"), 2),
        (said("x", "y"), said("x", "other", "z"), 1),
        (said("x", "y"), said("x"), 1),
        (said("x", "an answ"), said("x", "an answer"), 2),  # it was still being written
        (said("x", "an answ"), said("x", "an answer", "z"), 2),
        (said("x", ""), said("x", "an answer"), 2),
        (said("x", "an answ", "y"), said("x", "an answer", "y"), 1),  # not the last one: somebody changed it
        (said("x", "an answer"), said("x", "an answ"), 1),
        (said("x", "y"), said("x", "y", role="assistant"), 0),
        (said("y"), said("y", role="user2"), 0),
        (said("x", PARTS), said("x", [*PARTS[:1], {"type": "text", "text": "look here"}, {"type": "text", "text": "!"}]), 2),
        (said("x", PARTS), said("x", [{"type": "image", "image": 1}, PARTS[1]]), 1),
        (said(), said("x"), 0),
        (manifest(layers={}), said("x"), 0),
    ],
)  # fmt: skip
def test_kept_messages(a: Manifest, b: Manifest, kept: int) -> None:
    counts = [len(m.layers.get("text_context", {}).get("conversation", [])) for m in (a, b)]
    assert compare_messages(a, b) == MessageCounts(*counts, kept)


@given(hostile_trees, hostile_trees)
def test_messages_of_any_trees_are_counted(a: Any, b: Any) -> None:
    counts = compare_messages(manifest(layers={"text_context": a}), manifest(layers={"text_context": b}))
    assert 0 <= counts.kept <= min(counts.a, counts.b)
    same = compare_messages(manifest(layers={"text_context": a}), manifest(layers={"text_context": a}))
    assert same.a == same.b == same.kept == counts.a
