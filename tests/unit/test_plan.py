"""plan_restore as a table: what was saved, what it goes into, and what must come of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.manifests import FULL, manifest
from torpor.state.errors import BadInput, RestoreRefused
from torpor.state.fingerprint import KV_PARTS, TOKEN_PARTS, VISION_PARTS, Fingerprint
from torpor.state.plan import MODES, TargetState, check_mode, plan_restore


def changed(*parts: str) -> Fingerprint:
    return replace(FULL, **dict.fromkeys(parts, "something else"))


def unknown(*parts: str) -> Fingerprint:
    return replace(FULL, **dict.fromkeys(parts))


@pytest.mark.parametrize(
    ("target", "mode"),
    [
        (FULL, "full"),
        *[(changed(part), "embeddings") for part in KV_PARTS],
        *[(changed(part), "media") for part in VISION_PARTS],  # what stands behind the pictures was seen otherwise
        *[(changed(part), "media") for part in TOKEN_PARTS],
        *[(unknown(part), "embeddings") for part in KV_PARTS],
        (changed("weights", "vision_weights"), "media"),
        (changed("weights", "tokenizer"), "media"),
        (Fingerprint(), "media"),
    ],
)
def test_mode_by_what_differs(target: Fingerprint, mode: str) -> None:
    assert plan_restore(manifest(), TargetState(target)).mode == mode


def test_reasons_name_the_parts() -> None:
    plan = plan_restore(manifest(), TargetState(changed("weights")))
    assert plan.layers["kv_cache"] == ("rebuild", "differs: weights")
    assert plan.layers["text_context"][0] == "reuse"
    plan = plan_restore(manifest(), TargetState(unknown("weights")))
    assert plan.layers["kv_cache"] == ("rebuild", "not proven equal: weights")


def test_bytes_and_tokens_follow_the_decisions() -> None:
    full = plan_restore(manifest(), TargetState(FULL))
    assert (full.bytes_read, full.tokens_reused, full.tokens_prefill) == (64 * 64 + 64 + 32, 65, 1)
    other = plan_restore(manifest(), TargetState(changed("weights")))
    assert (other.bytes_read, other.tokens_reused, other.tokens_prefill) == (32, 0, 66)
    assert (full.bytes_fetch, full.estimated_s, full.notes) == (0, None, ())


def test_twins_of_one_geometry_do_not_share_a_cache() -> None:
    """An 8B and a 4B model have the same KV shapes: only the weights part differs, and the cache must not open."""
    plan = plan_restore(manifest(), TargetState(changed("weights", "vision_weights")))
    assert not plan.reuses("kv_cache")
    assert not plan.reuses("vision_cache")


def test_without_a_tokenizer_at_either_end_the_same_weights_read_the_same_ids() -> None:
    bare = unknown(*TOKEN_PARTS, *VISION_PARTS[1:])
    assert plan_restore(manifest(fingerprint=bare), TargetState(bare)).mode == "full"
    assert plan_restore(manifest(fingerprint=bare), TargetState(FULL)).mode == "media"
    assert plan_restore(manifest(fingerprint=bare), TargetState(replace(bare, weights="x"))).mode == "media"


@pytest.mark.parametrize("at_most", MODES[:5])
def test_at_most_caps_the_mode(at_most: Any) -> None:
    plan = plan_restore(manifest(), TargetState(FULL), at_most=at_most)
    assert plan.mode == at_most
    plain = manifest(kv_cache=None, layers={"metadata": {}, "text_context": {}})
    assert plan_restore(plain, TargetState(as_stored=True), at_most=at_most).mode == at_most


def test_require_refuses_with_the_reason() -> None:
    with pytest.raises(RestoreRefused, match="differs: weights"):
        plan_restore(manifest(), TargetState(changed("weights")), require="full")
    assert plan_restore(manifest(), TargetState(changed("weights")), require="embeddings").mode == "embeddings"


def test_an_omitted_cache_is_not_a_full_restore() -> None:
    without = manifest(kv_cache=None, omitted={"kv_cache": "a sliding window"})
    assert plan_restore(without, TargetState(FULL)).mode == "embeddings"


def test_a_plain_state_is_taken_as_it_was_stored() -> None:
    plain = manifest(kv_cache=None, tokens=0, fingerprint=Fingerprint(), layers={"metadata": {}, "text_context": {}})
    assert plan_restore(plain, TargetState(as_stored=True)).mode == "full"


def test_a_layer_the_target_does_not_take_is_dropped() -> None:
    plan = plan_restore(manifest(), TargetState(as_stored=True, takes=("metadata", "text_context")))
    assert plan.layers["kv_cache"][0] == "drop"
    assert plan.bytes_read == 0


def test_an_empty_backup_is_refused() -> None:
    assert plan_restore(manifest(layers={}, kv_cache=None), TargetState(FULL)).mode == "refuse"


def test_unknown_modes_are_refused() -> None:
    with pytest.raises(BadInput):
        check_mode("almost")
    assert check_mode("media") == "media"


def test_further_classes_of_cache_are_those_that_are_named() -> None:
    """A target of another class takes what it names, and no third one."""
    saved = manifest(fingerprint=replace(FULL, cache_class="StaticCache"))
    assert plan_restore(saved, TargetState(FULL, cache_classes=("StaticCache",))).mode == "full"
    assert plan_restore(saved, TargetState(FULL, cache_classes=("SlidingCache",))).mode == "embeddings"
