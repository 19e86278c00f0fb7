"""Where a KV cache may be cut: at a block's border, in no image, before what is lost, and within the memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.manifests import FULL, LAYOUT, manifest
from torpor.state.kv_limits import Limit, Room, cut, kv_limit
from torpor.state.manifest import BlobRef, KVCache, block_ranges
from torpor.state.plan import Conditions, TargetState, plan_restore

WIDTH = LAYOUT.token_bytes()


def cache(tokens: int) -> KVCache:
    sizes = [(stop - start) * WIDTH for start, stop in block_ranges(tokens, 64)]
    return KVCache(LAYOUT, tokens, "DynamicCache", tuple(BlobRef(f"{i:064x}", size) for i, size in enumerate(sizes)))


def saved(tokens: int, *spans: tuple[int, int], **changes: Any) -> Any:
    layers = {"metadata": {}, "text_context": {}, "tokens": {}}
    if spans:
        layers |= {"media": [{"data": 1}], "vision_cache": {"image": 1}}
    values = {"kv_cache": cache(tokens), "tokens": tokens + 1, "media_spans": spans, "layers": layers, **changes}
    return manifest(**values)


LOST = frozenset({f"{3:064x}"})


@pytest.mark.parametrize(
    ("tokens", "spans", "room", "expected", "word"),
    [
        (300, (), Room(), 300, None),
        (300, (), Room(max_tokens=300), 300, None),
        (300, (), Room(max_tokens=299), 256, "max_recoverable_tokens is 299"),
        (300, (), Room(max_tokens=63), 0, "max_recoverable_tokens is 63"),
        (300, (), Room(host_bytes=300 * WIDTH), 300, None),
        (300, (), Room(host_bytes=300 * WIDTH - 1), 256, "the host's memory"),
        (300, (), Room(host_bytes=10**9, device_bytes=128 * WIDTH), 128, "the device's memory"),
        (300, (), Room(host_bytes=-5), 0, "the host's memory"),
        (300, (), Room(missing=LOST), 192, "block 3 is missing"),
        (300, (), Room(max_tokens=130, missing=LOST), 128, "max_recoverable"),
        (300, ((100, 200),), Room(max_tokens=150), 64, "max_recoverable"),
        (300, ((100, 200),), Room(max_tokens=200), 64, "max_recoverable"),  # the border below 200 lies inside
        (300, ((100, 192),), Room(max_tokens=200), 192, "max_recoverable"),
        (300, ((100, 193),), Room(max_tokens=200), 64, "max_recoverable"),  # one placeholder lies behind the border
        (300, ((191, 200),), Room(max_tokens=200), 128, "max_recoverable"),  # and one before it
        (300, ((100, 200),), Room(max_tokens=270), 256, "max_recoverable"),
        (300, ((10, 100), (110, 200)), Room(max_tokens=150), 0, "max_recoverable"),
        (300, ((64, 200),), Room(max_tokens=150), 64, "max_recoverable"),
    ],
)
def test_where_a_cache_is_cut(tokens: int, spans: Any, room: Room, expected: int, word: str | None) -> None:
    limit = kv_limit(saved(tokens, *spans), room)
    assert limit.tokens == expected
    assert limit.reason is None if word is None else word in str(limit.reason)


def test_images_of_unknown_places_allow_no_cut() -> None:
    blind = saved(300, (100, 200), media_spans=())
    assert kv_limit(blind, Room()) == Limit(300)
    assert kv_limit(blind, Room(max_tokens=256)).tokens == 0


@given(
    st.integers(1, 700),
    st.lists(st.tuples(st.integers(1, 90), st.integers(1, 150)), max_size=5),
    st.integers(0, 800),
    st.sets(st.integers(0, 11), max_size=3),
)
def test_a_cut_is_safe_and_no_shorter_than_it_must_be(tokens: int, gaps: Any, most: int, lost: set[int]) -> None:
    spans, at = [], 0
    for gap, length in gaps:
        if at + gap + length <= tokens:
            spans.append((at + gap, at + gap + length))
            at += gap + length
    room = Room(max_tokens=most, missing=frozenset(f"{i:064x}" for i in lost))
    limit = kv_limit(saved(tokens, *spans), room)
    bound = min([tokens, most, *(i * 64 for i in lost if i * 64 < tokens)])
    good = [n for n in range(0, bound + 1, 64) if not any(a < n < b for a, b in spans)]
    assert limit.tokens == (tokens if bound == tokens else max(good))
    part = cut(cache(tokens), limit.tokens) if limit.tokens else None
    assert part is None or not {ref.digest for ref in part.blocks} & room.missing


def test_a_plan_tells_the_cut_and_its_costs() -> None:
    source = saved(300, (10, 20))
    plan = plan_restore(source, TargetState(source.fingerprint), Conditions(max_recoverable_tokens=200))
    assert (plan.mode, plan.tokens_reused, plan.tokens_prefill) == ("prefix", 192, 109)
    assert plan.bytes_read == 192 * WIDTH
    assert plan.layers["kv_cache"] == ("reuse", "cut at 192 of 300 tokens: max_recoverable_tokens is 200")
    assert plan_restore(source, TargetState(source.fingerprint)).bytes_read == 300 * WIDTH


def test_memory_that_takes_no_block_leaves_embeddings() -> None:
    source = saved(300, (10, 20))
    target = TargetState(source.fingerprint, host_free_bytes=1000)
    plan = plan_restore(source, target)
    assert (plan.mode, plan.tokens_reused, plan.layers["kv_cache"][0]) == ("embeddings", 0, "rebuild")
    assert "the host's memory ends there" in plan.layers["kv_cache"][1]


def test_a_window_that_is_too_short_is_told() -> None:
    source = saved(300)
    plan = plan_restore(source, TargetState(source.fingerprint, window_tokens=200))
    assert "301 tokens, the model's window 200" in plan.notes[0]


KV_BLOB, VISION_BLOB = "a" * 64, "c" * 64


@pytest.mark.parametrize(
    ("missing", "mode", "decisions"),
    [
        ((KV_BLOB,), "embeddings", {"kv_cache": "rebuild", "vision_cache": "reuse", "tokens": "reuse"}),
        ((VISION_BLOB,), "prefix", {"kv_cache": "reuse", "vision_cache": "rebuild", "tokens": "reuse"}),
        ((KV_BLOB, VISION_BLOB), "media", {"kv_cache": "rebuild", "vision_cache": "rebuild", "tokens": "rebuild"}),
        (("d" * 64,), "full", {"kv_cache": "reuse"}),
    ],
)
def test_what_is_lost_lowers_the_mode(missing: Any, mode: str, decisions: dict[str, str]) -> None:
    source = manifest(layers={**manifest().layers, "media": [{"data": 1}]})
    plan = plan_restore(source, TargetState(source.fingerprint), Conditions(missing=frozenset(missing)))
    assert plan.mode == mode
    assert {name: plan.layers[name][0] for name in decisions} == decisions  # type: ignore[index]


TEXT = {"$text": {"size_bytes": 9, "blocks": [{"digest": "e" * 64, "size_bytes": 9}]}}


def test_a_session_whose_text_is_lost_goes_on_from_its_cache() -> None:
    source = manifest(layers={**manifest().layers, "text_context": {"conversation": TEXT}})
    state, lost = TargetState(source.fingerprint), frozenset({"e" * 64})
    assert plan_restore(source, state, Conditions(missing=lost)).mode == "prefix"
    rest = Conditions(missing=lost | {KV_BLOB, VISION_BLOB})
    assert plan_restore(manifest(layers={"text_context": {"c": TEXT}}, kv_cache=None), state, rest).mode == "refuse"


def test_a_plain_state_is_whole_or_refused() -> None:
    plain = manifest(kv_cache=None, layers={"metadata": {}, "text_context": {"conversation": TEXT}})
    state, lost = TargetState(as_stored=True), Conditions(missing=frozenset({"e" * 64}))
    assert plan_restore(plain, state, lost).mode == "refuse"
    assert plan_restore(plain, state).mode == "full"
    only = TargetState(as_stored=True, takes=("metadata",))
    assert plan_restore(plain, only, lost).mode != "refuse"


@pytest.mark.parametrize("layer", ["metadata", "text_context", "config_snapshot"])
@pytest.mark.parametrize(("said", "mode"), [(True, "embeddings"), (False, "full"), (None, "full")])
def test_a_cache_that_the_session_says_was_pruned_is_not_opened(layer: str, said: Any, mode: str) -> None:
    """Whoever wrote the manifest saved it all the same."""
    plain = manifest()
    source = replace(plain, layers={**plain.layers, layer: {"kv_cache_pruned": said}})
    plan = plan_restore(source, TargetState(FULL))
    assert plan.mode == mode
    assert ("pruned" in plan.layers["kv_cache"][1]) == (mode != "full")


def test_a_cache_of_another_class_that_the_target_takes_is_noted() -> None:
    source = manifest()
    state = TargetState(replace(FULL, cache_class="StaticCache"))
    assert plan_restore(source, state).layers["kv_cache"] == ("rebuild", "differs: cache_class")
    taking = replace(state, cache_classes=(str(FULL.cache_class),))
    plan = plan_restore(source, taking)
    assert plan.mode == "full"
    assert plan.notes == (
        "saved from a DynamicCache, goes on in a StaticCache: the last bits of what follows may differ",
    )


def test_a_cut_cache_has_the_keys_of_its_blocks() -> None:
    keys = tuple(f"{i + 50:064x}" for i in range(4))
    part = cut(replace(cache(300), keys=keys), 128)
    assert (part.keys, len(part.blocks), part.tokens) == (keys[:2], 2, 128)


@pytest.mark.parametrize(("limit", "mode"), [(300, "full"), (256, "prefix"), (192, "media"), (128, "media")])
def test_pictures_that_cannot_be_fed_again_must_all_be_in_the_cache(limit: int, mode: str) -> None:
    layers = {"metadata": {}, "text_context": {}, "tokens": {}, "media": [{"data": 1}]}
    backup = saved(300, (10, 20), (70, 100), (200, 220), layers=layers)
    plan = plan_restore(backup, TargetState(FULL), Conditions(max_recoverable_tokens=limit))
    assert plan.mode == mode
