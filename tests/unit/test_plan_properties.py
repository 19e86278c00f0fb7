"""What every plan keeps to, whatever was saved, whatever it goes into and whatever is lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import event, given, settings
from hypothesis import strategies as st
from support.manifests import FULL, LAYOUT, manifest
from torpor.state.errors import RestoreRefused
from torpor.state.fingerprint import KV_PARTS, TOKEN_PARTS, VISION_PARTS, Fingerprint
from torpor.state.kv_limits import cut, holds_media
from torpor.state.manifest import BlobRef, KVCache, Manifest, block_ranges, layer_blobs
from torpor.state.plan import MODES, Conditions, RestorePlan, TargetState, plan_restore

PARTS = (*KV_PARTS, *VISION_PARTS, *TOKEN_PARTS)
IN_BLOBS = ("text_context", "tokens", "media", "vision_cache", "config_snapshot")


def _leaf(digest: str) -> Any:
    return {
        "$tensor": {"shape": [8], "dtype": "uint8", "kind": "torch", "blocks": [{"digest": digest, "size_bytes": 8}]}
    }


LEAVES = {name: f"{i + 1000:064x}" for i, name in enumerate(IN_BLOBS)}
fingerprints = st.fixed_dictionaries({}, optional={part: st.sampled_from([None, "another"]) for part in PARTS}).map(
    lambda parts: replace(FULL, **parts)
)
few = st.just(FULL) | st.just(FULL) | fingerprints


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    ids = draw(st.integers(1, 300))
    kept = draw(st.none() | st.integers(1, ids) | st.just(ids - 1 or 1) | st.integers(1, 300))
    kv = None
    if kept is not None:
        blocks = [
            BlobRef(f"{i:064x}", (b - a) * LAYOUT.token_bytes()) for i, (a, b) in enumerate(block_ranges(kept, 64))
        ]
        kv = KVCache(LAYOUT, kept, "DynamicCache", tuple(blocks))
    edges = sorted(draw(st.sets(st.integers(0, ids), max_size=6)))
    spans = tuple(zip(edges[::2], edges[1::2], strict=False))
    layers = {name: _leaf(LEAVES[name]) for name in IN_BLOBS if draw(st.integers(0, 6))} | {"metadata": {}}
    omitted = {name: "it was too odd" for name in ("kv_cache", "vision_cache") if draw(st.integers(0, 5)) == 0}
    return manifest(tokens=ids, kv_cache=kv, media_spans=spans, layers=layers, omitted=omitted, fingerprint=draw(few))


@st.composite
def targets(draw: st.DrawFn) -> TargetState:
    free = st.none() | st.integers(-5, 300 * LAYOUT.token_bytes())
    return TargetState(draw(few), host_free_bytes=draw(free), device_free_bytes=draw(free))


lost = st.sets(st.sampled_from([*LEAVES.values(), *(f"{i:064x}" for i in range(5))]), max_size=4).map(frozenset)
conditions = st.builds(
    Conditions,
    max_recoverable_tokens=st.just(400) | st.integers(0, 400),
    missing=st.just(frozenset()) | lost,
    remote=lost,
)


@settings(max_examples=400, deadline=None)
@given(
    manifests(), targets(), conditions, st.just(MODES[0]) | st.sampled_from(MODES), st.none() | st.sampled_from(MODES)
)
def test_every_plan(saved: Manifest, target: TargetState, known: Conditions, at_most: Any, require: Any) -> None:
    plan = plan_restore(saved, target, known, at_most=at_most)
    event(plan.mode)
    if require is not None:
        try:
            assert plan_restore(saved, target, known, at_most=at_most, require=require) == plan
        except RestoreRefused:
            assert MODES.index(plan.mode) > MODES.index(require)
        else:
            assert MODES.index(plan.mode) <= MODES.index(require)
    assert MODES.index(plan.mode) >= MODES.index(at_most)
    assert set(plan.layers) == set(saved.present_layers())
    _the_cache_is_right(saved, target, plan)
    _the_mode_is_true(saved, plan)
    _costs_are_true(saved, known, plan)


def _agree(saved: Manifest, wanted: Fingerprint, parts: tuple[str, ...]) -> bool:
    return all(saved.fingerprint.part(p) is not None and saved.fingerprint.part(p) == wanted.part(p) for p in parts)


def _the_cache_is_right(saved: Manifest, target: TargetState, plan: RestorePlan) -> None:
    wanted = target.fingerprint
    if plan.mode != "refuse":
        assert plan.reuses("kv_cache") is (plan.tokens_reused > 0)
        assert plan.tokens_reused + plan.tokens_prefill == saved.tokens
    if plan.reuses("tokens"):
        bare = wanted.tokenizer is None  # then the same weights read the same ids
        assert _agree(saved, wanted, ("weights", "text_config") if bare else TOKEN_PARTS)
        if holds_media(saved):
            assert _agree(saved, wanted, ("vision_weights",))
        unfed = saved.media_spans and saved.media_spans[-1][1] > plan.tokens_reused
        assert plan.reuses("vision_cache") or not unfed or plan.mode == "refuse"
    if plan.reuses("vision_cache"):
        assert _agree(saved, wanted, VISION_PARTS if wanted.processor is not None else VISION_PARTS[:1])
    if plan.tokens_reused == 0:
        return
    assert saved.kv_cache is not None
    assert _agree(saved, wanted, KV_PARTS)
    assert plan.reuses("tokens")
    assert plan.tokens_reused < saved.tokens
    assert plan.tokens_reused <= saved.kv_cache.tokens
    if plan.tokens_reused < saved.kv_cache.tokens:
        assert plan.tokens_reused % 64 == 0
        assert not any(start < plan.tokens_reused < stop for start, stop in saved.media_spans)


def _the_mode_is_true(saved: Manifest, plan: RestorePlan) -> None:
    reused = {name for name in plan.layers if plan.reuses(name)}
    if plan.mode == "full":
        assert reused == set(saved.present_layers())
        assert saved.kv_cache is None or plan.tokens_reused == saved.kv_cache.tokens
    elif plan.mode == "prefix":
        assert plan.tokens_reused
    elif plan.mode == "embeddings":
        assert "tokens" in reused
        assert "vision_cache" in reused or not holds_media(saved)
    elif plan.mode == "media":
        assert "media" in reused
    if plan.mode not in ("full", "prefix"):
        assert plan.tokens_reused == 0


def _costs_are_true(saved: Manifest, known: Conditions, plan: RestorePlan) -> None:
    read: dict[str, int] = {}
    for name in plan.layers:
        if plan.mode == "refuse" or not plan.reuses(name):
            continue
        kv = saved.kv_cache
        refs = cut(kv, plan.tokens_reused).blocks if name == "kv_cache" and kv else layer_blobs(saved.layers.get(name))
        read |= {ref.digest: ref.size_bytes for ref in refs}
    assert not read.keys() & known.missing
    assert plan.bytes_read == sum(read.values())
    assert plan.bytes_fetch == sum(size for digest, size in read.items() if digest in known.remote)
