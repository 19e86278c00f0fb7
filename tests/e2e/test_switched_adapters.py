"""A server switches LoRA adapters between sessions: a cache is that of the adapter under which it grew."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from support.daemon import Daemon
from support.pictures import mixed_session, text
from torpor.adapters import loaded_weights
from torpor.adapters.demo_model import Loaded, small_model
from torpor.adapters.transformers import TransformersSession, TransformersTarget
from torpor.client import Keeper
from torpor.client.capture import KVSink
from torpor.state.manifest import KVCache

SETTINGS: dict[str, Any] = {
    "do_sample": False, "pad_token_id": 0, "eos_token_id": None, "max_new_tokens": 3, "suppress_tokens": [260, 261],
}  # fmt: skip


def with_adapters() -> Loaded:
    from peft import LoraConfig

    loaded = small_model()
    for seed, name in enumerate("ab"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = LoraConfig(r=4, target_modules=["k_proj"], init_lora_weights=False)
            with warnings.catch_warnings(action="ignore", category=UserWarning):  # that there are several
                loaded.model.add_adapter(config, adapter_name=name)
    loaded.model.eval()
    return loaded


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return with_adapters()


@pytest.fixture(scope="module")
def other() -> Loaded:
    return with_adapters()


@pytest.fixture
def keeper(shared_daemon: Daemon) -> Iterator[Keeper]:
    with shared_daemon.keeper() as keeper:
        yield keeper


def grown(loaded: Loaded, adapter: str, seed: int) -> TransformersSession:
    loaded.model.set_adapter(adapter)
    session = mixed_session(loaded, text(80, seed))
    session.generate(**SETTINGS)
    return session


def modes(keeper: Keeper, backup_id: str, other: Loaded) -> dict[str, str]:
    found = {}
    for adapter in "ab":
        other.model.set_adapter(adapter)
        found[adapter] = keeper.plan(backup_id, TransformersTarget(other.model, tokenizer=other.tokenizer)).mode
    return found


def test_a_cache_is_saved_as_that_of_the_adapter_it_grew_under(keeper: Keeper, loaded: Loaded, other: Loaded) -> None:
    session = grown(loaded, "a", 1)
    loaded.model.set_adapter("b")
    backup = keeper.save("switched", session).wait(60)
    assert modes(keeper, backup.id, other) == {"a": "full", "b": "embeddings"}
    other.model.set_adapter("b")
    assert keeper.reuse_prefix(mixed_session(other, text(80, 1))).tokens == 0
    other.model.set_adapter("a")
    assert keeper.reuse_prefix(mixed_session(other, text(80, 1))).tokens == 64


def test_a_cache_of_two_adapters_is_nobody_s(keeper: Keeper, loaded: Loaded, other: Loaded) -> None:
    session = grown(loaded, "a", 2)
    loaded.model.set_adapter("b")
    session.generate(**SETTINGS)
    backup = keeper.save("mixed", session).wait(60)
    assert modes(keeper, backup.id, other) == {"a": "embeddings", "b": "embeddings"}
    session.cache = None
    session.prefill()
    assert modes(keeper, keeper.save("mixed", session).wait(60).id, other) == {"a": "embeddings", "b": "full"}


@pytest.mark.parametrize("way", ["restore", "prefix"])
def test_a_cache_that_was_taken_over_counts(keeper: Keeper, loaded: Loaded, other: Loaded, way: str) -> None:
    keeper.save(f"over-{way}", grown(loaded, "a", 3)).wait(60)
    other.model.set_adapter("a")
    if way == "restore":
        woken = keeper.restore(f"over-{way}", TransformersTarget(other.model, tokenizer=other.tokenizer)).session
    else:
        woken = mixed_session(other, text(80, 3))
        assert keeper.reuse_prefix(woken).tokens == 64
    assert woken.cache is not None
    other.model.set_adapter("b")
    woken.generate(**SETTINGS)
    assert modes(keeper, keeper.save("over", woken).wait(60).id, other) == {"a": "embeddings", "b": "embeddings"}


def test_a_hook_that_was_there_while_the_cache_grew_counts(keeper: Keeper) -> None:
    loaded = small_model()
    hook = loaded.model.model.language_model.layers[0].register_forward_hook(lambda module, args, output: 2 * output)
    session = mixed_session(loaded, text(80))
    session.generate(**SETTINGS)
    hook.remove()
    backup = keeper.save("steered", session).wait(60)
    plan = keeper.plan(backup.id, TransformersTarget(loaded.model, tokenizer=loaded.tokenizer))
    assert (plan.mode, plan.layers["kv_cache"][1]) == ("embeddings", "not proven equal: adapters")


def test_a_woken_cache_is_of_the_adapter_that_it_was_compared_with(
    keeper: Keeper, loaded: Loaded, other: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is looked at once a restore, and what somebody switches meanwhile does not count."""

    class Switching(TransformersTarget):
        def allocate(self, kv: KVCache) -> KVSink:
            self.model.set_adapter("b")
            return super().allocate(kv)

    looks, real = list[Any](), loaded_weights.contents_of
    backup = keeper.save("woken-meanwhile", grown(loaded, "a", 7)).wait(60)
    other.model.set_adapter("a")
    monkeypatch.setattr(loaded_weights, "contents_of", lambda model: (looks.append(model), real(model))[1])
    restored = keeper.restore(backup.id, Switching(other.model, tokenizer=other.tokenizer))
    assert restored.mode == "full"
    assert len(looks) == 1
    again = keeper.save("woken-meanwhile", restored.session).wait(60)
    found = modes(keeper, again.id, other)
    assert (found["a"], found["b"]) == ("full", "embeddings")
