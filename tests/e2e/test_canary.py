"""The canary, on real models: every state that does not belong to its model is caught, and no other one is.

The fingerprint says in each case that all is well: it is forged, in the backup or by a target that lies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support.daemon import Daemon
from support.forging import forged, read_kv
from torpor.adapters.demo_model import Loaded, small_model, start_session
from torpor.adapters.plain import PlainTarget
from torpor.adapters.transformers import TransformersSession, TransformersTarget
from torpor.client import CanaryResult, Keeper, Restored, TargetState, Woken
from torpor.state.backup import Backup
from torpor.state.errors import RestoreRefused, UnsupportedState

SAMPLING: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "pad_token_id": 0, "eos_token_id": None}
GREEDY: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}


class Target(TransformersTarget):
    """A target that can lie about its model, and looks on while the canary runs."""

    claims: TransformersTarget | None = None

    def describe(self) -> TargetState:
        return (self.claims or super()).describe()

    def check(self, woken: Woken) -> CanaryResult:
        cache = self._session(woken).cache
        before = self._state(cache)
        result = super().check(woken)
        assert all(torch.equal(a, b) for a, b in zip(before, self._state(cache), strict=True))
        return result

    def _state(self, cache: Any) -> list[torch.Tensor]:
        deltas = self.model.model.rope_deltas
        kv = [t.clone() for layer in cache.layers for t in (layer.keys, layer.values)]
        return [torch.get_rng_state(), torch.empty(0) if deltas is None else deltas.clone(), *kv]


def target_of(loaded: Loaded, claims: Loaded | None = None) -> Target:
    target = Target(loaded.model, tokenizer=loaded.tokenizer, processor=loaded.image_processor)
    target.claims = None if claims is None else target_of(claims)
    return target


def generate(session: TransformersSession, tokens: int = 10, **options: Any) -> list[torch.Tensor]:
    """Generate, and return what must be equal in two runs: the ids and all logits."""
    out = session.generate(max_new_tokens=tokens, output_logits=True, **{**SAMPLING, **options})
    return [session.token_ids, torch.stack(out.logits)]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return small_model()


@pytest.fixture(scope="module")
def models(loaded: Loaded) -> dict[str, Loaded]:
    """The same model with the kernels of the save, and with others."""
    eager = small_model()
    eager.model.set_attn_implementation("eager")
    return {"sdpa": loaded, "eager": eager}


@pytest.fixture(scope="module")
def keeper(shared_daemon: Daemon) -> Iterator[Keeper]:
    with shared_daemon.keeper() as connected:
        yield connected


@pytest.fixture(scope="module")
def backup(keeper: Keeper, loaded: Loaded) -> Backup:
    """A session with a picture, after ten steps of one token each."""
    torch.manual_seed(3)
    session = start_session(loaded, prompt_tokens=120)
    generate(session)
    return keeper.save("canary", session).wait(60)


def goes_on_from_rebuilt_kv(keeper: Keeper, woken: Restored[TransformersSession], loaded: Loaded) -> bool:
    """Whether a session goes on as one that had no KV to begin with."""
    rebuilt = keeper.restore(woken.backup.id, target_of(loaded), at_most="embeddings")
    expected = generate(rebuilt.session, **GREEDY)
    return woken.session.cache is None and equal(generate(woken.session, **GREEDY), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_healthy_session_passes_bit_by_bit(keeper: Keeper, dtype: torch.dtype) -> None:
    loaded = small_model(dtype=dtype)
    session = start_session(loaded, prompt_tokens=120)
    generate(session)
    saved = keeper.save("healthy", session).wait(60)
    expected = generate(session)
    woken = keeper.restore(saved.id, target_of(small_model(dtype=dtype)), require="full", canary=True)
    assert woken.canary == CanaryResult("passed", "bit by bit", 0.0, 0.0, 0.0, 0.0)
    assert woken.plan.notes == ("canary passed: bit by bit",)
    assert equal(generate(woken.session), expected)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch_passes(keeper: Keeper, loaded: Loaded, side: str) -> None:
    texts = ["short", "a much longer question than that"]
    rows = loaded.tokenizer(texts, return_tensors="pt", padding=True, padding_side=side)
    loaded.model.model.rope_deltas = None
    session = TransformersSession(loaded.model, rows["input_ids"], attention_mask=rows["attention_mask"])
    generate(session)
    saved = keeper.save("canary-batch", session).wait(60)
    assert keeper.restore(saved.id, Target(loaded.model), canary=True).canary.outcome == "passed"


def test_it_passes_after_another_session_used_the_model(keeper: Keeper, loaded: Loaded, backup: Backup) -> None:
    other = TransformersSession(loaded.model, loaded.tokenizer("only text", return_tensors="pt")["input_ids"])
    loaded.model.model.rope_deltas = None
    generate(other)
    assert keeper.restore(backup.id, target_of(loaded), canary=True).canary.outcome == "passed"


def test_other_kernels_pass_within_the_tolerance(keeper: Keeper, models: dict[str, Loaded], backup: Backup) -> None:
    woken = keeper.restore(backup.id, target_of(models["eager"]), require="full", canary=True)
    assert woken.canary.outcome == "passed"
    assert "attention" in woken.canary.detail
    assert 0 < (woken.canary.difference or 0) < (woken.canary.tolerance or 0)


def other_deltas(change: Callable[[torch.Tensor], Any]) -> dict[str, Any]:
    return {"tokens": lambda layer: {**layer, "rope_deltas": change(layer["rope_deltas"])}}


def swapped_layers(kv: list[Any]) -> list[Any]:
    return [*kv[2:4], *kv[0:2], *kv[4:]]


def swapped_k_and_v(kv: list[Any]) -> list[Any]:
    return [kv[i ^ 1] for i in range(len(kv))]


def swapped_heads(kv: list[Any]) -> list[Any]:
    return [t.flip(1) for t in kv]


def last_token_altered(kv: list[Any]) -> list[Any]:
    """Only the last token's V of the last layer: no step reads it, so the second witness alone can see it."""
    kv[-1][:, :, -1] *= -1
    return kv


FORGERIES: dict[str, dict[str, Any]] = {
    "rope deltas dropped to those of a text": other_deltas(torch.zeros_like),
    "rope deltas off by one": other_deltas(lambda deltas: deltas + 1),
    "two layers swapped": {"kv": swapped_layers},
    "K and V swapped": {"kv": swapped_k_and_v},
    "heads swapped": {"kv": swapped_heads},
    "last token altered": {"kv": last_token_altered},
}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("forgery", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_state_is_caught(
    keeper: Keeper, models: dict[str, Loaded], backup: Backup, forgery: Any, attention: str
) -> None:
    """Bit by bit with the kernels of the save, and within the tolerance with others."""
    loaded, liar = models[attention], forged(keeper, backup, **forgery)
    assert keeper.restore(liar.id, target_of(loaded)).mode == "full"  # nothing else sees it
    woken = keeper.restore(liar.id, target_of(loaded), canary=True)
    assert (woken.canary.outcome, woken.mode) == ("missed", "embeddings")
    assert woken.plan.layers["kv_cache"][0] == "rebuild"
    assert "canary missed" in woken.plan.layers["kv_cache"][1]
    assert woken.plan.notes[-1].startswith("canary missed")
    assert goes_on_from_rebuilt_kv(keeper, woken, loaded)


def test_rope_deltas_that_were_dropped_are_found_again(keeper: Keeper, loaded: Loaded, backup: Backup) -> None:
    """Not those that another session left in the model, and not none."""
    liar = forged(keeper, backup, **other_deltas(lambda deltas: None))
    loaded.model.model.rope_deltas = torch.tensor([[77]])
    woken = keeper.restore(liar.id, target_of(loaded), canary=True)
    assert (woken.canary.detail, woken.mode) == ("bit by bit", "full")
    assert torch.equal(woken.session.rope_deltas, keeper.restore(backup.id, target_of(loaded)).session.rope_deltas)


def test_the_cache_of_a_twin_with_the_same_geometry_is_caught(
    keeper: Keeper, models: dict[str, Loaded], loaded: Loaded, backup: Backup
) -> None:
    twin = small_model(seed=1)
    ids = keeper.restore(backup.id, target_of(loaded)).session
    own = TransformersSession(
        twin.model,
        ids.token_ids[:, :-10],
        mm_token_type_ids=ids.mm_token_type_ids[:, :-10],
        image_grid_thw=ids.image_grid_thw,
        vision=start_session(twin, prompt_tokens=120).vision,
    )
    generate(own)
    saved = keeper.save("twin", own).wait(60)
    theirs = read_kv(keeper, keeper.manifest(saved.id)[1])
    liar = forged(keeper, backup, kv=lambda kv: theirs)
    for model in models.values():
        woken = keeper.restore(liar.id, target_of(model), canary=True)
        assert (woken.canary.outcome, woken.mode) == ("missed", "embeddings")
        assert goes_on_from_rebuilt_kv(keeper, woken, model)


@pytest.mark.parametrize(
    ("name", "place", "bit"),
    [("layers.1.input_layernorm", (5,), 7), ("layers.2.mlp.down_proj", (3, 5), 14), ("embed_tokens", None, 8)],
)
def test_one_flipped_exponent_bit_of_a_weight_is_caught(
    keeper: Keeper, loaded: Loaded, backup: Backup, name: str, place: tuple[int, ...] | None, bit: int
) -> None:
    broken = small_model()
    weight = broken.model.model.language_model.get_submodule(name).weight.data
    if place is None:  # the largest number in the row of the token that is fed
        fed = int(keeper.restore(backup.id, target_of(loaded)).session.token_ids[0, -2])
        place = (fed, int(weight[fed].abs().argmax()))
    weight.view(torch.int16)[place] ^= 1 << bit
    woken = keeper.restore(backup.id, target_of(broken, claims=loaded), canary=True)
    assert (woken.canary.outcome, woken.mode) == ("missed", "embeddings")
    rebuilt = keeper.restore(backup.id, target_of(broken, claims=loaded), at_most="embeddings")
    for mine, theirs in zip(generate(woken.session, **GREEDY), generate(rebuilt.session, **GREEDY), strict=True):
        assert torch.equal(mine.nan_to_num(), theirs.nan_to_num())


def test_other_weights_under_a_forged_fingerprint(keeper: Keeper, loaded: Loaded, backup: Backup) -> None:
    other = small_model(seed=5)
    woken = keeper.restore(backup.id, target_of(other, claims=loaded), canary=True)
    assert (woken.canary.outcome, woken.mode) == ("missed", "embeddings")


def test_a_model_that_cannot_run_the_step_is_a_miss(keeper: Keeper, loaded: Loaded, backup: Backup) -> None:
    other = small_model(num_key_value_heads=1)
    woken = keeper.restore(backup.id, target_of(other, claims=loaded), canary=True)
    assert (woken.canary.outcome, woken.mode) == ("missed", "embeddings")
    assert "the step failed" in woken.canary.detail


def test_a_miss_with_full_required_leaves_the_target_alone(keeper: Keeper, loaded: Loaded, backup: Backup) -> None:
    liar = forged(keeper, backup, kv=swapped_layers)
    loaded.model.model.rope_deltas = torch.tensor([[123]])
    random = torch.get_rng_state()
    with pytest.raises(RestoreRefused, match=r"canary missed.*full was required"):
        keeper.restore(liar.id, target_of(loaded), require="full", canary=True)
    assert loaded.model.model.rope_deltas.tolist() == [[123]]
    assert torch.equal(torch.get_rng_state(), random)
    assert keeper.restore(liar.id, target_of(loaded), require="embeddings", canary=True).mode == "embeddings"


@pytest.mark.parametrize(
    ("case", "outcome"),
    [("no step", "not saved"), ("unknown", "not saved"), ("text", "not applicable"), ("plain", "not applicable")],
)
def test_what_cannot_be_checked_is_said_and_restored_all_the_same(
    keeper: Keeper, loaded: Loaded, backup: Backup, case: str, outcome: str
) -> None:
    target: Any = PlainTarget() if case == "plain" else target_of(loaded)
    if case == "no step":
        session = start_session(loaded, prompt_tokens=60)
        generate(session, 1)  # a prefill alone
        backup = keeper.save("no-step", session).wait(60)
    elif case == "unknown":
        backup = forged(keeper, backup, tokens=lambda layer: {**layer, "canary": {"version": 9}})
    woken = keeper.restore(backup.id, target, at_most="text-only" if case == "text" else "full", canary=True)
    assert woken.canary.outcome == outcome
    assert any(note.startswith(f"canary {outcome}: ") for note in woken.plan.notes)
    assert woken.mode == ("full" if case in ("no step", "unknown") else "text-only")


def test_nobody_asked(keeper: Keeper, loaded: Loaded, backup: Backup) -> None:
    woken = keeper.restore(backup.id, target_of(loaded))
    assert (woken.canary.outcome, woken.plan.notes) == ("not asked", ())


def test_a_woken_session_that_is_saved_again_keeps_its_reference(
    keeper: Keeper, loaded: Loaded, backup: Backup
) -> None:
    woken = keeper.restore(backup.id, target_of(loaded)).session
    again = keeper.save("again", woken).wait(60)
    assert keeper.restore(again.id, target_of(loaded), canary=True).canary.outcome == "passed"
    generate(woken, 3)
    later = keeper.save("again", woken).wait(60)
    assert keeper.restore(later.id, target_of(loaded), canary=True).canary.outcome == "passed"


@pytest.mark.parametrize("change", ["cropped", "other ids", "longer", "another cache"])
def test_logits_of_another_state_are_not_saved(keeper: Keeper, loaded: Loaded, change: str) -> None:
    session = start_session(loaded, prompt_tokens=60)
    generate(session, 4)
    if change == "cropped":
        session.cache.crop(-2)
        session.token_ids = session.token_ids[:, :-2]
    elif change == "other ids":
        session.token_ids = session.token_ids + 1
    elif change == "longer":
        session.extend(torch.tensor([[1, 2]]))
    else:
        session.cache = copy.deepcopy(session.cache)
    assert "canary" not in session.capture().layers["tokens"]


def test_a_loop_of_ones_own(keeper: Keeper, loaded: Loaded) -> None:
    session = start_session(loaded, prompt_tokens=60)
    generate(session, 4)
    with torch.no_grad():
        for _ in range(3):
            inputs = loaded.model.prepare_inputs_for_generation(
                session.token_ids,
                next_sequence_length=1,
                past_key_values=session.cache,
                attention_mask=session.attention_mask,
                position_ids=session.attention_mask.sum(-1)[None, :, None] - 1 + session.rope_deltas,
            )
            logits = loaded.model(**inputs).logits
            session.note_logits(logits)
            session.extend(logits[:, -1].argmax(-1, keepdim=True))
    saved = keeper.save("own-loop", session).wait(60)
    assert keeper.restore(saved.id, target_of(loaded), canary=True).canary.outcome == "passed"
    with pytest.raises(UnsupportedState, match="not of one token"):
        session.note_logits(logits.expand(1, 2, -1))
    with pytest.raises(UnsupportedState, match="not of one token"):
        session.note_logits(logits.expand(3, 1, -1))


def test_steps_of_several_tokens_are_not_taken_for_one(keeper: Keeper, loaded: Loaded) -> None:
    """Assisted decoding feeds several candidates at once (no placeholders: a prompt of text) and takes some back."""
    ids = loaded.tokenizer("What does the picture show? " * 4, return_tensors="pt")["input_ids"]
    session = TransformersSession(loaded.model, ids, loaded.tokenizer, loaded.image_processor)
    for tokens in (5, 6, 7):
        generate(session, tokens, **GREEDY, prompt_lookup_num_tokens=3)
        saved = keeper.save("assisted", session).wait(60)
        assert keeper.restore(saved.id, target_of(loaded), canary=True).canary.outcome != "missed"


def test_a_reference_of_other_rows_says_nothing(keeper: Keeper, loaded: Loaded, backup: Backup) -> None:
    def doubled(layer: dict[str, Any]) -> dict[str, Any]:
        found = layer["canary"]
        return {**layer, "canary": {**found, **{k: torch.cat([found[k]] * 2) for k in ("ids", "values")}}}

    liar = forged(keeper, backup, tokens=doubled)
    woken = keeper.restore(liar.id, target_of(loaded), canary=True)
    assert (woken.canary.outcome, woken.mode) == ("not applicable", "full")
    assert woken.canary.detail == "the saved logits are of another number of rows"
