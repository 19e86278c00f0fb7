"""Real Qwen3-VL models (small configs, real classes): what is woken goes on bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.daemon import Daemon
from torpor.adapters.demo_model import Loaded, small_model, start_session
from torpor.adapters.plain import PlainTarget
from torpor.adapters.transformers import TransformersSession, TransformersTarget
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


def test_weights_swapped_after_the_save_do_not_get_its_cache(shared_daemon: Daemon) -> None:
    """The cache was made with the old weights; by the time the fingerprint is taken, the new ones are in."""
    own, other = small_model(seed=0), small_model(seed=7)
    session = start_session(own, prompt_tokens=60)
    session.generate(max_new_tokens=4, **SAMPLING)
    with shared_daemon.keeper() as keeper:
        keeper._saver.worker._checkpoint = lambda name: own.model.load_state_dict(other.model.state_dict()) and None  # type: ignore[assignment]
        backup = keeper.save("swapped", session).wait(60)
        assert keeper.plan(backup.id, target_of(other)).layers["kv_cache"][0] == "rebuild"
        assert keeper.plan(backup.id, target_of(small_model(seed=0))).layers["kv_cache"][0] == "rebuild"


def test_weights_written_through_data_are_noticed() -> None:
    """`.data` counts no version and keeps the address; merging a LoRA does it."""
    own = small_model()
    target = target_of(own)
    before = target.describe().fingerprint.weights
    own.model.model.language_model.layers[2].self_attn.k_proj.weight.data += 1.0
    assert target.describe().fingerprint.weights != before


def test_a_padded_call_of_the_tokenizer_is_not_another_tokenizer(loaded: Loaded) -> None:
    used, fresh = small_model(), small_model()
    before = target_of(used).describe().fingerprint.tokenizer
    used.tokenizer(["a", "bcd"], padding=True, truncation=True, max_length=2)
    used.tokenizer.add_tokens([])
    assert TransformersTarget(fresh.model, tokenizer=used.tokenizer).describe().fingerprint.tokenizer == before
    from torpor.adapters import model_configs

    model_configs._tokenizers.clear()
    assert target_of(used).describe().fingerprint.tokenizer == target_of(fresh).describe().fingerprint.tokenizer


def test_inference_mode(shared_daemon: Daemon) -> None:
    with torch.inference_mode():
        own = small_model()
        session = start_session(own, prompt_tokens=60)
        session.generate(max_new_tokens=4, **SAMPLING)
        with shared_daemon.keeper() as keeper:
            backup = keeper.save("inference", session).wait(60)
            expected = go_on(session)
            woken = keeper.restore(backup.id, target_of(own), require="full")
            assert equal(go_on(woken.session), expected)


def test_an_rng_state_of_another_torch_leaves_the_model_alone(shared_daemon: Daemon, loaded: Loaded) -> None:
    session = start_session(loaded, prompt_tokens=60)
    session.generate(max_new_tokens=2, **SAMPLING)
    with shared_daemon.keeper() as keeper:
        real = torch.get_rng_state
        torch.get_rng_state = lambda: torch.zeros(7, dtype=torch.uint8)
        try:
            backup = keeper.save("rng", session).wait(60)
        finally:
            torch.get_rng_state = real
        loaded.model.model.rope_deltas = torch.tensor([[123]])
        with pytest.raises(UnsupportedState, match="RNG"):
            keeper.restore(backup.id, target_of(loaded))
        assert loaded.model.model.rope_deltas.tolist() == [[123]]


def test_a_switch_of_sessions_does_not_repeat_the_random_numbers(shared_daemon: Daemon, loaded: Loaded) -> None:
    session = start_session(loaded, prompt_tokens=60)
    session.generate(max_new_tokens=2, **SAMPLING)
    with shared_daemon.keeper() as keeper:
        keeper.save("random", session).wait(60)
        woken = keeper.restore("random", target_of(loaded)).session
    woken.activate()
    first = torch.rand(3)
    woken.activate()
    assert not torch.equal(torch.rand(3), first)


def test_the_settings_of_a_session_come_back_and_are_used(shared_daemon: Daemon, loaded: Loaded) -> None:
    session = start_session(loaded, prompt_tokens=60)
    session.config = {"max_new_tokens": 3, "tool_call_enabled": True}
    with shared_daemon.keeper() as keeper:
        keeper.save("settings", session).wait(60)
        woken = keeper.restore("settings", target_of(loaded)).session
    assert woken.config["tool_call_enabled"] is True
    before = woken.token_ids.shape[-1]
    woken.generate(pad_token_id=0)
    assert woken.token_ids.shape[-1] == before + 3


def test_embeddings_that_change_between_saves_are_saved_again(shared_daemon: Daemon, loaded: Loaded) -> None:
    session = start_session(loaded, prompt_tokens=60)
    with shared_daemon.keeper() as keeper:
        keeper.save("embed", session).wait(60)
        before = len(shared_daemon.blob_files())
        keeper.save("embed", session).wait(60)
        assert len(shared_daemon.blob_files()) == before
        session.vision["image"].deepstack_features[1][0].add_(1)
        backup = keeper.save("embed", session).wait(60)
        woken = keeper.restore(backup.id, target_of(loaded)).session
    for mine, theirs in zip(
        session.vision["image"].deepstack_features, woken.vision["image"].deepstack_features, strict=True
    ):
        assert torch.equal(mine[0], theirs[0])


def test_the_first_token_after_a_restore_does_not_double_the_memory() -> None:
    """Each layer's tensors are memory of their own, freed when the cache replaces them."""
    from support.caches import CacheSession
    from torpor.adapters.dynamic_cache import CacheSink, LiveCache
    from torpor.state.manifest import BlobRef, KVCache

    session = CacheSession(layers=16, heads=8, dim=128)
    session.grow(2048, 1)
    layout = LiveCache(session.cache).layout
    refs = tuple(BlobRef("a" * 64, 64 * layout.token_bytes()) for _ in range(32))
    size = 2048 * layout.token_bytes()
    del session

    def resident() -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    sink = CacheSink(KVCache(layout, 2048, "DynamicCache", refs))
    for tensor in sink.tensors:
        tensor.zero_()
    live = CacheSession(sink.to_cache(None, "cpu"), layers=16, heads=8, dim=128)
    del sink, tensor
    before = resident()
    live.grow(1, 2)
    assert resident() - before < size / 4


def test_two_queued_saves_around_a_silent_change_of_the_weights(shared_daemon: Daemon) -> None:
    """Both caches were made with the old weights; neither may open under the new ones."""
    own = small_model(seed=3)
    session = start_session(own, prompt_tokens=60)
    session.generate(max_new_tokens=4, **SAMPLING)
    with shared_daemon.keeper() as keeper:
        keeper.save("silent", session).wait(60)
        stamps = [session.capture().fingerprint for _ in range(2)]
        own.model.lm_head.weight.data.mul_(1.5)
        assert [stamp().weights for stamp in stamps] == [None, None]
        assert session.capture().fingerprint().weights == target_of(own).describe().fingerprint.weights


def test_a_silent_change_before_the_first_digest(loaded: Loaded) -> None:
    own = small_model(seed=4)
    session = start_session(own, prompt_tokens=60)
    captured = session.capture()
    own.model.lm_head.weight.data.mul_(1.5)
    assert captured.fingerprint().weights is None


@pytest.mark.parametrize(
    ("config", "options", "new"),
    [
        ({"max_new_tokens": 9}, {}, 9),
        ({"max_new_tokens": 9}, {"max_new_tokens": 3}, 3),
        ({"max_new_tokens": 9, "return_dict_in_generate": False}, {"return_dict_in_generate": True}, 9),
        ({"max_new_tokens": 9, "validate": True, "tool_call_enabled": True}, {}, 9),
        ({"max_new_tokens": 9}, {"generation_config": 4}, 4),
        ({"max_new_tokens": 9}, {"max_length": 6}, 6),
        ({"max_new_tokens": 9, "stop_strings": ["\0\0\0\0"]}, {}, 9),
    ],
    ids=str,
)
def test_settings_and_options_of_a_call(loaded: Loaded, config: Any, options: Any, new: int) -> None:
    from transformers import GenerationConfig

    session = start_session(loaded, prompt_tokens=60)
    session.config = config
    before = session.token_ids.shape[-1]
    if "generation_config" in options:
        options = {"generation_config": GenerationConfig(max_new_tokens=new)}
    if "max_length" in options:
        options = {"max_length": before + new}
    session.generate(pad_token_id=0, eos_token_id=None, **options)
    assert session.token_ids.shape[-1] == before + new
