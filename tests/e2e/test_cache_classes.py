"""Every class of KV cache: saved and opened again, or named plainly and prefilled; never wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support import small_models
from support.daemon import Daemon
from support.forging import forged
from torpor.adapters.transformers import TransformersSession, TransformersTarget
from torpor.client import Keeper
from torpor.state.errors import BadInput, UnsupportedState
from transformers import DynamicCache, EncoderDecoderCache, StaticCache
from transformers.cache_utils import Cache, DynamicIndexedLayer, MtpCache

GREEDY: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None, "output_logits": True}
IDS = torch.randint(0, 100, (1, 70), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def keeper(shared_daemon: Daemon) -> Iterator[Keeper]:
    with shared_daemon.keeper() as connected:
        yield connected


def session_of(model: Any, cache: Any = None, **options: Any) -> TransformersSession:
    """A session that has generated 30 tokens."""
    session = TransformersSession(model, IDS, cache=cache)
    session.generate(max_new_tokens=30, **{**GREEDY, **options})
    return session


def go_on(session: TransformersSession) -> tuple[torch.Tensor, torch.Tensor]:
    """Generate, and return the ids and all logits."""
    out = session.generate(max_new_tokens=12, **GREEDY)
    return session.token_ids, torch.stack(out.logits)


def from_a_full_prefill(session: TransformersSession) -> tuple[torch.Tensor, torch.Tensor]:
    return go_on(TransformersSession(session.model, session.token_ids))


def same(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor], tolerance: float = 0.0) -> bool:
    close = torch.equal(a[1], b[1]) if not tolerance else torch.allclose(a[1], b[1], rtol=0, atol=tolerance)
    return torch.equal(a[0], b[0]) and close


def with_index() -> Cache:
    return Cache(layer_class_to_replicate=DynamicIndexedLayer)


# The model, the cache that its session gets (None: the library's choice), options of `generate`, and the reason.
REFUSED: dict[str, tuple[Callable[[], Any], Callable[[Any], Any] | None, dict[str, Any], str]] = {
    "windows": (small_models.windows, None, {}, "layer 2 is a sliding window"),
    "windows of fixed size": (
        small_models.windows, lambda c: StaticCache(c, max_cache_len=128), {}, "layer 2 is a sliding window"
    ),
    "Gemma 3": (small_models.gemma, None, {}, "layer 0 is a sliding window"),
    "Qwen3-Next": (small_models.qwen_next, None, {}, "layer 0 is linear attention"),
    "Qwen3.5": (small_models.qwen_3_5, None, {}, "layer 0 is linear attention"),
    "quantised": (
        small_models.plain, None, {"cache_implementation": "quantized", "cache_config": {"backend": "fp8"}},
        "layer 0 is quantised",
    ),
    "sparse with an index": (small_models.plain, lambda c: with_index(), {}, "layer 0 is sparse attention"),
    "look-ahead heads": (small_models.plain, lambda c: MtpCache(), {}, "a MtpCache counts positions"),
}  # fmt: skip


@pytest.mark.parametrize(("build", "cache", "options", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_block_form_is_named_and_prefilled(
    keeper: Keeper, build: Any, cache: Any, options: dict[str, Any], reason: str
) -> None:
    model = build()
    session = session_of(model, cache(model.config) if cache else None, **options)
    backup = keeper.save("class", session).wait(60)
    manifest = keeper.manifest(backup.id)[1]
    assert manifest.kv_cache is None
    assert reason in manifest.omitted.get("kv_cache", "")
    woken = keeper.restore(backup.id, TransformersTarget(model), canary=True)
    assert (woken.mode, woken.canary.outcome) == ("embeddings", "not applicable")
    assert woken.session.cache is None
    assert same(go_on(woken.session), from_a_full_prefill(session))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("encoder-decoder", "is two caches"), ("offloaded", "moves between host and device"), ("none", "not a transf")],
)
def test_caches_that_this_machine_or_model_cannot_run(keeper: Keeper, name: str, reason: str) -> None:
    session = session_of(small_models.plain())
    whole = session.cache
    if name == "encoder-decoder":
        session.cache = EncoderDecoderCache(whole, DynamicCache())
    elif name == "offloaded":
        session.cache = DynamicCache(offloading=True)
        session.cache.layers = whole.layers
    else:
        session.cache = [(layer.keys, layer.values) for layer in whole.layers]
    backup = keeper.save("class", session).wait(60)
    assert reason in keeper.manifest(backup.id)[1].omitted["kv_cache"]
    woken = keeper.restore(backup.id, TransformersTarget(session.model))
    assert woken.mode == "embeddings"
    assert same(go_on(woken.session), from_a_full_prefill(session))


KINDS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "DynamicCache": (lambda config: DynamicCache(config=config), {}),
    "StaticCache": (lambda config: StaticCache(config, max_cache_len=128), {"cache": "static", "max_cache_len": 128}),
}


@pytest.mark.parametrize("into", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_dynamic_and_static_caches_go_into_each_other(keeper: Keeper, kind: str, into: str) -> None:
    """Into its own kind bit for bit; into the other one with the same numbers and other kernels."""
    model = small_models.plain()
    session = session_of(model, KINDS[kind][0](model.config))
    backup = keeper.save(f"from-{kind}", session).wait(60)
    manifest = keeper.manifest(backup.id)[1]
    assert manifest.kv_cache is not None
    assert (manifest.kv_cache.tokens, manifest.kv_cache.cache_class, manifest.fingerprint.cache_class) == (
        99,
        kind,
        kind,
    )
    saved = [t[:, :, :99].clone() for layer in session.cache.layers for t in (layer.keys, layer.values)]
    prefilled = from_a_full_prefill(session)
    woken = keeper.restore(backup.id, TransformersTarget(model, **KINDS[into][1]), require="full", canary=True)
    assert woken.canary.outcome == "passed"
    assert (woken.canary.detail == "bit by bit") == (kind == into)
    assert any("last bits" in note for note in woken.plan.notes) == (kind != into)
    cache = woken.session.cache
    assert type(cache).__name__ == into
    now = [t[:, :, :99] for layer in cache.layers for t in (layer.keys, layer.values)]
    assert all(torch.equal(a, b) for a, b in zip(saved, now, strict=True))
    expected, seen = go_on(session), go_on(woken.session)
    assert same(seen, expected, 0.0 if kind == into else 1e-4)
    assert same(seen, prefilled, 1e-4)
    again = keeper.save(f"from-{kind}", woken.session).wait(60)
    assert keeper.manifest(again.id)[1].fingerprint.cache_class == into


@pytest.mark.parametrize("into", KINDS)
def test_the_canary_sees_swapped_layers_in_either_kind(keeper: Keeper, into: str) -> None:
    model = small_models.plain()
    session = session_of(model, StaticCache(model.config, max_cache_len=128))
    backup = keeper.save("swapped", session).wait(60)
    liar = forged(keeper, backup, kv=lambda kv: [*kv[2:4], *kv[0:2], *kv[4:]])
    woken = keeper.restore(liar.id, TransformersTarget(model, **KINDS[into][1]), canary=True)
    assert (woken.canary.outcome, woken.mode) == ("missed", "embeddings")
    assert same(go_on(woken.session), from_a_full_prefill(session), 1e-4)


def test_a_longer_static_cache_holds_the_same(keeper: Keeper) -> None:
    model = small_models.plain()
    session = session_of(model, StaticCache(model.config, max_cache_len=112))
    backup = keeper.save("longer", session).wait(60)
    woken = keeper.restore(backup.id, TransformersTarget(model, cache="static", max_cache_len=256), canary=True)
    assert (woken.mode, woken.canary.outcome) == ("full", "passed")
    assert same(go_on(woken.session), go_on(session), 1e-4)


def test_a_static_cache_that_is_too_short_is_refused(keeper: Keeper) -> None:
    model = small_models.plain()
    backup = keeper.save("short", session_of(model)).wait(60)
    target = TransformersTarget(model, cache="static", max_cache_len=99)
    with pytest.raises(UnsupportedState, match="99 tokens, this target's static cache room for 99") as caught:
        keeper.restore(backup.id, target)
    assert "max_cache_len" in caught.value.hint
    assert any("window 99" in note for note in keeper.plan(backup.id, target).notes)
    huge = TransformersTarget(model, cache="static", max_cache_len=1 << 40)
    with pytest.raises(UnsupportedState, match=r"bytes, .* are free"):
        keeper.restore(backup.id, huge)


@pytest.mark.parametrize("options", [{"cache": "static"}, {"max_cache_len": 9}, {"cache": "other"}])
def test_a_target_is_described_wholly(options: Any) -> None:
    with pytest.raises(BadInput, match="max_cache_len"):
        TransformersTarget(small_models.plain(), **options)


def test_a_static_target_without_kv_begins_with_an_empty_static_cache(keeper: Keeper) -> None:
    model = small_models.plain()
    session = session_of(model)
    backup = keeper.save("empty", session).wait(60)
    target = TransformersTarget(model, cache="static", max_cache_len=128)
    woken = keeper.restore(backup.id, target, at_most="embeddings").session
    assert type(woken.cache) is StaticCache
    assert same(go_on(woken), from_a_full_prefill(session), 1e-4)
    assert int(woken.cache.get_seq_length()) == 111


def test_a_whole_cache_of_a_model_with_windows(keeper: Keeper) -> None:
    """A DynamicCache made without the config keeps all tokens in every layer, so it is saved and opened as such."""
    model = small_models.windows()
    session = session_of(model, DynamicCache())
    backup = keeper.save("whole", session).wait(60)
    expected = go_on(session)
    woken = keeper.restore(backup.id, TransformersTarget(model), require="full", canary=True)
    assert woken.canary.detail == "bit by bit"
    assert same(go_on(woken.session), expected)
    static = TransformersTarget(model, cache="static", max_cache_len=128)
    plan = keeper.plan(backup.id, static)
    assert (plan.mode, plan.layers["kv_cache"][1]) == ("embeddings", "differs: cache_class")
    assert same(go_on(keeper.restore(backup.id, static).session), from_a_full_prefill(woken_ids(session)), 1e-4)


def woken_ids(session: TransformersSession) -> TransformersSession:
    """The session as it was 12 tokens ago."""
    return TransformersSession(session.model, session.token_ids[:, :-12])


def evict(session: TransformersSession, layers: slice = slice(None)) -> None:
    """Drop tokens 10 to 29, as a library that saves memory does."""
    for layer in session.cache.layers[layers]:
        layer.keys = torch.cat([layer.keys[:, :, :10], layer.keys[:, :, 30:]], dim=-2)
        layer.values = torch.cat([layer.values[:, :, :10], layer.values[:, :, 30:]], dim=-2)


def claim(session: TransformersSession) -> None:
    """As caches count that keep a few sinks and the last tokens."""
    session.cache = DynamicCache([(layer.keys[:, :, -64:], layer.values[:, :, -64:]) for layer in session.cache.layers])
    session.cache._seen_tokens = 99


PRUNED: dict[str, Callable[[TransformersSession], Any]] = {
    "the session says so": lambda s: setattr(s, "kv_cache_pruned", True),
    "its settings say so": lambda s: s.config.update(kv_cache_pruned=True),
    "its metadata say so": lambda s: s.metadata.update(kv_cache_pruned=True),
    "evicted behind the back": evict,
    "evicted in one layer": lambda s: evict(s, slice(1, 2)),
    "evicted, then new text": lambda s: (evict(s), s.extend(IDS[:, :5])),
    "a cache that counts what it was fed": claim,
}


@pytest.mark.parametrize("saved_before", [False, True])
@pytest.mark.parametrize("prune", PRUNED.values(), ids=PRUNED)
def test_a_pruned_cache_does_not_pass_for_a_short_one(keeper: Keeper, prune: Any, saved_before: bool) -> None:
    session = session_of(small_models.plain())
    if saved_before:
        keeper.save("pruned", session).wait(60)
    prune(session)
    backup = keeper.save("pruned", session).wait(60)
    manifest = keeper.manifest(backup.id)[1]
    assert manifest.kv_cache is None
    assert "pruned" in manifest.omitted["kv_cache"]
    woken = keeper.restore(backup.id, TransformersTarget(session.model))
    assert woken.mode == "embeddings"
    assert same(go_on(woken.session), from_a_full_prefill(session))
    whole = keeper.save("pruned", woken.session).wait(60)  # it was rebuilt, so it is no pruned one any more
    assert keeper.plan(whole.id, TransformersTarget(session.model)).mode == "full"


def test_a_static_cache_that_was_pruned(keeper: Keeper) -> None:
    model = small_models.plain()
    session = session_of(model, StaticCache(model.config, max_cache_len=128))
    session.kv_cache_pruned = True
    backup = keeper.save("static-pruned", session).wait(60)
    assert "pruned" in keeper.manifest(backup.id)[1].omitted["kv_cache"]


def test_eviction_while_generating(keeper: Keeper) -> None:
    """A hook cuts the cache while the model runs: it never has the length that its ids say."""
    model = small_models.plain()
    session = TransformersSession(model, IDS, cache=DynamicCache())
    hook = model.model.layers[-1].register_forward_hook(
        lambda *_: evict(session) if session.cache.get_seq_length() == 80 else None
    )
    session.generate(max_new_tokens=30, **GREEDY)
    hook.remove()
    assert session.cache.get_seq_length() == 79
    backup = keeper.save("while", session).wait(60)
    assert "holds 79 of the 99 tokens" in keeper.manifest(backup.id)[1].omitted["kv_cache"]


@pytest.mark.parametrize("change", ["cropped", "new text", "both", "reset"])
def test_a_cache_that_is_short_for_good_reason_is_saved(keeper: Keeper, change: str) -> None:
    session = session_of(small_models.plain())
    keeper.save("good", session).wait(60)
    if change in ("cropped", "both"):
        session.cache.crop(-20)
        session.token_ids = session.token_ids[:, :-20]
    if change in ("new text", "both"):
        session.extend(IDS[:, :7])
    if change == "reset":
        session.cache.reset()
        session.token_ids = session.token_ids[:, :40]
        session.generate(max_new_tokens=3, **GREEDY)
    cached = int(session.cache.get_seq_length())
    backup = keeper.save("good", session).wait(60)
    expected = go_on(session)
    woken = keeper.restore(backup.id, TransformersTarget(session.model), require="full")
    assert woken.plan.tokens_reused == cached
    assert same(go_on(woken.session), expected)


def test_the_rows_of_beams_are_not_those_of_the_text(keeper: Keeper) -> None:
    """The cache of a beam search is as its beams were left, in their order; the session goes on without it."""
    session = session_of(small_models.plain(), num_beams=3)
    assert session.cache is None
    backup = keeper.save("beams", session).wait(60)
    woken = keeper.restore(backup.id, TransformersTarget(session.model))
    assert same(go_on(woken.session), from_a_full_prefill(session))


def test_a_batch_that_has_other_rows_than_its_cache(keeper: Keeper) -> None:
    session = session_of(small_models.plain())
    session.token_ids = session.token_ids.repeat(2, 1)
    backup = keeper.save("rows", session).wait(60)
    assert keeper.manifest(backup.id)[1].omitted["kv_cache"] == "the cache has 1 rows, the session 2"
