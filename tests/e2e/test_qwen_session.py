"""Real Qwen3-VL models (small configs, real classes): what is woken goes on bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.daemon import Daemon
from torpor.adapters.plain import PlainTarget
from torpor.adapters.transformers import TransformersSession, TransformersTarget
from torpor.cli.demo_model import Loaded, small_model, start_session
from torpor.state.errors import RestoreRefused, UnsupportedState
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM

SAMPLING = {"do_sample": True, "temperature": 1.0, "pad_token_id": 0, "eos_token_id": None}


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return small_model()


def target_of(loaded: Loaded) -> TransformersTarget:
    return TransformersTarget(loaded.model, tokenizer=loaded.tokenizer, processor=loaded.image_processor)


def go_on(session: TransformersSession, tokens: int = 24) -> tuple[list[int], torch.Tensor, list[torch.Tensor]]:
    """Generate, and return everything that must be equal in two runs."""
    out = session.generate(max_new_tokens=tokens, output_logits=True, **SAMPLING)
    kv = [t.clone() for layer in session.cache.layers for t in (layer.keys, layer.values)]
    return session.token_ids[0, -tokens:].tolist(), torch.stack(out.logits), kv


def equal(a: Any, b: Any) -> bool:
    return a[0] == b[0] and torch.equal(a[1], b[1]) and all(torch.equal(x, y) for x, y in zip(a[2], b[2], strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_woken_session_goes_on_bit_for_bit(shared_daemon: Daemon, dtype: torch.dtype) -> None:
    loaded = small_model(dtype=dtype)
    torch.manual_seed(7)
    session = start_session(loaded, prompt_tokens=200)
    session.generate(max_new_tokens=20, **SAMPLING)
    with shared_daemon.keeper() as keeper:
        backup = keeper.save(f"chat-{dtype}", session).wait(60)
        expected = go_on(session)
        fresh = small_model(dtype=dtype)
        assert fresh.model.model.rope_deltas is None
        woken = keeper.restore(backup.id, target_of(fresh), require="full")
    assert woken.mode == "full"
    assert len(set(expected[0])) > 8  # the text does not repeat itself, so equality says something
    assert equal(go_on(woken.session), expected)
    assert [m.data for m in woken.session.media] == [m.data for m in session.media]
    assert woken.session.conversation == session.conversation
    assert woken.session.thinking == session.thinking
    assert woken.session.tool_calls == session.tool_calls


def test_two_sessions_on_one_model_do_not_mix_their_rope_deltas(shared_daemon: Daemon, loaded: Loaded) -> None:
    torch.manual_seed(1)
    with_image = start_session(loaded, prompt_tokens=120)
    with_image.generate(max_new_tokens=8, **SAMPLING)
    text = loaded.tokenizer("only text here", return_tensors="pt")["input_ids"]
    without = TransformersSession(loaded.model, text, loaded.tokenizer, loaded.image_processor)
    loaded.model.model.rope_deltas = None
    without.generate(max_new_tokens=8, **SAMPLING)
    assert not torch.equal(with_image.rope_deltas, without.rope_deltas)  # type: ignore[arg-type]
    with shared_daemon.keeper() as keeper:
        a, b = (keeper.save(name, s).wait(60) for name, s in (("image", with_image), ("text", without)))
        with_image.activate()
        torch.manual_seed(5)
        expected = go_on(with_image)
        woken_b = keeper.restore(b.id, target_of(loaded))
        woken_a = keeper.restore(a.id, target_of(loaded))
    assert torch.equal(woken_b.session.rope_deltas, without.rope_deltas)
    torch.manual_seed(5)
    assert equal(go_on(woken_a.session), expected)


def test_a_left_padded_batch(shared_daemon: Daemon, loaded: Loaded) -> None:
    rows = loaded.tokenizer(["short", "a much longer question than that"], return_tensors="pt", padding=True)
    session = TransformersSession(
        loaded.model, rows["input_ids"], loaded.tokenizer, loaded.image_processor, attention_mask=rows["attention_mask"]
    )
    loaded.model.model.rope_deltas = None
    torch.manual_seed(3)
    session.generate(max_new_tokens=12, **SAMPLING)
    with shared_daemon.keeper() as keeper:
        backup = keeper.save("batch", session).wait(60)
        expected = go_on(session)
        woken = keeper.restore(backup.id, target_of(loaded), require="full")
    assert woken.session.token_ids.shape[0] == 2
    assert equal(go_on(woken.session), expected)


def test_saved_embeddings_prefill_again_without_pixels(shared_daemon: Daemon, loaded: Loaded) -> None:
    """KV is not allowed: pooled embeddings and every deepstack tensor, in order, give the same logits as at first."""
    torch.manual_seed(2)
    session = start_session(loaded, prompt_tokens=150)
    prompt = session.token_ids
    inputs = session.model_inputs()
    first = loaded.model.generate(
        **inputs, max_new_tokens=6, output_logits=True, return_dict_in_generate=True, do_sample=False, pad_token_id=0
    )
    session.cache, session.rope_deltas = first.past_key_values, loaded.model.model.rope_deltas
    session.extend(first.sequences[:, prompt.shape[1] :])
    with shared_daemon.keeper() as keeper:
        backup = keeper.save("embeddings", session).wait(60)
        fresh = small_model()
        woken = keeper.restore(backup.id, target_of(fresh), at_most="embeddings")
    assert woken.mode == "embeddings"
    again = woken.session
    assert again.cache is None
    again.token_ids = again.token_ids[:, : prompt.shape[1]]
    again.attention_mask = again.attention_mask[:, : prompt.shape[1]]  # type: ignore[index]
    again.mm_token_type_ids = again.mm_token_type_ids[:, : prompt.shape[1]]  # type: ignore[index]
    out = again.generate(max_new_tokens=6, output_logits=True, do_sample=False, pad_token_id=0)
    assert torch.equal(torch.stack(out.logits), torch.stack(first.logits))


@pytest.mark.parametrize("change", ["weights", "one bit", "rope", "tokenizer", "processor"])
def test_another_model_of_the_same_shape_does_not_get_the_cache(
    shared_daemon: Daemon, loaded: Loaded, change: str
) -> None:
    torch.manual_seed(2)
    session = start_session(loaded, prompt_tokens=100)
    session.generate(max_new_tokens=4, **SAMPLING)
    other = small_model(seed=1 if change == "weights" else 0)
    if change == "one bit":
        weight = other.model.model.language_model.layers[1].mlp.up_proj.weight
        weight.data.view(torch.int16)[3, 5] ^= 1
    elif change == "rope":
        other = small_model(rope_parameters={"rope_type": "default", "rope_theta": 2e6, "mrope_section": [12, 10, 10]})
    elif change == "tokenizer":
        other.tokenizer.add_tokens(["<new>"])
    elif change == "processor":
        other.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 224 * 224}
    with shared_daemon.keeper() as keeper:
        backup = keeper.save("twin", session).wait(60)
        plan = keeper.plan(backup.id, target_of(other))
        if change == "processor":
            assert (plan.mode, plan.layers["vision_cache"][0]) == ("full", "rebuild")
            return
        assert plan.layers["kv_cache"][0] == "rebuild"
        with pytest.raises(RestoreRefused):
            keeper.restore(backup.id, target_of(other), require="full")
        assert other.model.model.rope_deltas is None
        woken = keeper.restore(backup.id, target_of(other))
        assert woken.session.cache is None
        assert [m.data for m in woken.session.media] == [m.data for m in session.media]


def test_weights_that_change_in_memory_are_noticed(loaded: Loaded) -> None:
    own = small_model()
    target = target_of(own)
    before = target.describe().fingerprint
    assert target.describe().fingerprint == before
    with torch.no_grad():
        own.model.lm_head.weight.mul_(1.01)
    assert target.describe().fingerprint.weights != before.weights
    assert target.describe().fingerprint.vision_weights == before.vision_weights


def test_a_text_model_of_another_family(shared_daemon: Daemon) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, initializer_range=0.2,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    session = TransformersSession(model, torch.randint(0, 300, (1, 90)))
    session.generate(max_new_tokens=10, **SAMPLING)
    with shared_daemon.keeper() as keeper:
        backup = keeper.save("text-model", session).wait(60)
        expected = go_on(session)
        woken = keeper.restore(backup.id, TransformersTarget(model), require="full")
    assert equal(go_on(woken.session), expected)


@pytest.mark.parametrize("case", ["sliding", "torn", "complete", "foreign"])
def test_a_cache_that_has_no_block_form_is_left_out_with_the_reason(
    shared_daemon: Daemon, loaded: Loaded, case: str
) -> None:
    session = start_session(loaded, prompt_tokens=60)
    session.generate(max_new_tokens=4, **SAMPLING)
    if case == "sliding":
        config = Qwen3Config(num_hidden_layers=2, use_sliding_window=True, sliding_window=8, max_window_layers=0)
        session.cache = DynamicCache(config=config)
        for i in range(2):
            session.cache.update(torch.randn(1, 2, 20, 8), torch.randn(1, 2, 20, 8), i)
    elif case == "torn":
        session.cache.layers[0].keys = session.cache.layers[0].keys[:, :, :-1]
        session.cache.layers[0].values = session.cache.layers[0].values[:, :, :-1]
    elif case == "complete":
        session.token_ids = session.token_ids[:, :-1]
    else:
        session.cache = [(torch.zeros(1), torch.zeros(1))]
    with shared_daemon.keeper() as keeper:
        backup = keeper.save("left-out", session).wait(60)
        _, manifest = keeper.manifest(backup.id)
        assert manifest.kv_cache is None
        reason = manifest.omitted["kv_cache"]
        assert {"sliding": "Sliding", "torn": "torn", "complete": "one short", "foreign": "list"}[case] in reason
        plan = keeper.plan(backup.id, target_of(loaded))
        assert plan.mode == "embeddings"


def test_a_cropped_and_continued_session_is_saved_as_it_is(shared_daemon: Daemon, loaded: Loaded) -> None:
    """Regenerate an answer: crop the cache, drop the ids, go on."""
    torch.manual_seed(4)
    session = start_session(loaded, prompt_tokens=200)
    session.generate(max_new_tokens=90, **SAMPLING)
    with shared_daemon.keeper() as keeper:
        keeper.save("edited", session).wait(60)
        session.cache.crop(-70)
        for name in ("token_ids", "attention_mask", "mm_token_type_ids"):
            setattr(session, name, getattr(session, name)[:, :-70])
        session.generate(max_new_tokens=90, **SAMPLING)
        backup = keeper.save("edited", session).wait(60)
        expected = go_on(session)
        woken = keeper.restore("edited", target_of(loaded), require="full")
    assert woken.backup.id == backup.id
    assert equal(go_on(woken.session), expected)


def test_the_text_of_a_model_session_can_be_read_without_a_model(shared_daemon: Daemon, loaded: Loaded) -> None:
    session = start_session(loaded, prompt_tokens=60)
    with shared_daemon.keeper() as keeper:
        backup = keeper.save("readable", session).wait(60)
        state = keeper.restore(backup.id, PlainTarget()).session.state
    assert state["text_context"]["conversation"] == session.conversation
    assert "tokens" not in state


def test_ids_of_another_type_are_refused(shared_daemon: Daemon, loaded: Loaded) -> None:
    session = TransformersSession(loaded.model, torch.zeros((1, 3)))
    with shared_daemon.keeper() as keeper, pytest.raises(UnsupportedState, match="int64"):
        keeper.save("floats", session)
