"""LoRA over a model: the base weights stay what they are, and what an adapter adds is told apart, however it came."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from support.model_folders import copied, describe, flip, rewrite, save_folder
from torpor.adapters.demo_model import small_model
from torpor.adapters.model_folder import describe_folder
from torpor.adapters.model_identity import describe_model, fingerprint_of, weights_stamp
from torpor.state.fingerprint import KV_PARTS

# What the two libraries say of each other, and of several adapters on one model.
pytestmark = [pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("FutureWarning", "UserWarning")]


def lora(**options: Any) -> LoraConfig:
    return LoraConfig(**{"target_modules": ["q_proj", "v_proj"], "r": 4, "init_lora_weights": False, **options})


def model_with(seed: int = 1, name: str = "default", **options: Any) -> Any:
    """The small model with an adapter of random weights, injected by transformers."""
    model = small_model().model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.add_adapter(lora(**options), name)
    return model


@pytest.fixture(scope="module")
def base() -> Any:
    return fingerprint_of(small_model().model)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter folder."""
    folder = tmp_path_factory.mktemp("adapters") / "one"
    model_with().save_pretrained(folder)
    return folder


def differing(a: Any, b: Any) -> tuple[str, ...]:
    return tuple(a.differing(b, KV_PARTS))


def test_off_on_other_merged(base: Any) -> None:
    model = model_with()
    one = fingerprint_of(model)
    assert base.adapters == "none"
    assert differing(one, base) == ("adapters",)
    assert one.vision_weights == base.vision_weights
    model.disable_adapters()
    assert fingerprint_of(model) == base
    model.enable_adapters()
    assert fingerprint_of(model) == one
    model.add_adapter(lora(), "other")
    model.set_adapter("other")
    other = fingerprint_of(model)
    assert differing(other, one) == ("adapters",)
    assert differing(other, base) == ("adapters",)
    model.set_adapter(["default", "other"])
    both = fingerprint_of(model)
    model.set_adapter(["other", "default"])
    assert len({base.adapters, one.adapters, other.adapters, both.adapters, fingerprint_of(model).adapters}) == 5
    model.delete_adapter(["default", "other"])
    assert fingerprint_of(model) == base


def test_a_name_says_nothing() -> None:
    assert fingerprint_of(model_with(name="a")) == fingerprint_of(model_with(name="b"))


@pytest.mark.parametrize(
    "options",
    [
        {"r": 8}, {"lora_alpha": 16}, {"target_modules": ["q_proj"]}, {"use_dora": True}, {"seed": 2},
        {"use_rslora": True}, {"lora_alpha": 4, "alpha_pattern": {"v_proj": 8}},
    ],
    ids=str,
)  # fmt: skip
def test_what_an_adapter_adds_counts(base: Any, options: dict[str, Any]) -> None:
    assert differing(fingerprint_of(model_with(**options)), fingerprint_of(model_with())) == ("adapters",)


def test_what_only_training_needs_does_not_count() -> None:
    assert fingerprint_of(model_with(lora_dropout=0.1).eval()) == fingerprint_of(model_with())
    assert fingerprint_of(model_with(r=8, lora_alpha=16, rank_pattern={".*": 4}, alpha_pattern={".*": 8})).adapters == (
        fingerprint_of(model_with()).adapters
    )


def test_every_way_to_load_it_is_the_same(base: Any, saved: Path) -> None:
    expected = fingerprint_of(model_with())
    loaded = small_model().model
    loaded.load_adapter(str(saved), "of-another-name")
    assert fingerprint_of(loaded) == expected
    wrapped = PeftModel.from_pretrained(small_model().model, saved, autocast_adapter_dtype=False)
    assert fingerprint_of(wrapped) == expected
    with wrapped.disable_adapter():
        assert fingerprint_of(wrapped) == base
    assert fingerprint_of(wrapped) == expected
    widened = PeftModel.from_pretrained(small_model().model, saved)  # float32 over bfloat16 computes other values
    assert differing(fingerprint_of(widened), expected) == ("adapters",)


def test_a_merged_adapter_is_a_change_of_the_weights(base: Any, saved: Path) -> None:
    model = PeftModel.from_pretrained(small_model().model, saved, autocast_adapter_dtype=False)
    assert fingerprint_of(model).weights == base.weights
    stamp = weights_stamp(model)
    model.merge_adapter()
    merged = fingerprint_of(model)
    assert differing(merged, base) == ("weights",)
    assert fingerprint_of(model, stamp=stamp).weights is None
    with model.disable_adapter():
        assert "merged" in describe_model(model).notes["adapters"]
    assert fingerprint_of(model.merge_and_unload()) == merged


def test_modules_to_save_are_part_of_the_adapter(base: Any) -> None:
    def made(value: float) -> Any:
        model = get_peft_model(small_model().model, lora(modules_to_save=["lm_head"]))
        torch.manual_seed(3)
        for name, parameter in model.named_parameters():
            if "modules_to_save" in name:
                parameter.data.fill_(value)
            elif "lora_" in name:
                parameter.data.normal_()
        return model

    one, other = made(1), made(2)
    assert fingerprint_of(one).weights == base.weights
    assert fingerprint_of(one) == fingerprint_of(made(1))
    assert differing(fingerprint_of(one), fingerprint_of(other)) == ("adapters",)
    with one.disable_adapter():
        assert fingerprint_of(one) == base


def test_an_adapter_on_the_embeddings(base: Any) -> None:
    model = model_with(target_modules=["embed_tokens", "lm_head"])
    assert differing(fingerprint_of(model), base) == ("adapters",)
    model.disable_adapters()
    assert fingerprint_of(model) == base


def test_trained_on_in_place() -> None:
    model = model_with()
    before = fingerprint_of(model)
    layer = model.model.language_model.layers[1].self_attn.v_proj
    layer.lora_B["default"].weight.data.mul_(1.5)
    assert differing(fingerprint_of(model), before) == ("adapters",)
    layer.scaling["default"] *= 2
    assert fingerprint_of(model).adapters not in (before.adapters, None)


def test_a_stamp_keeps_what_was_active(base: Any) -> None:
    """A save digests in the background, and the adapter may be switched before it comes to that."""
    model = model_with()
    on, stamp_on = fingerprint_of(model), weights_stamp(model)
    model.disable_adapters()
    stamp_off = weights_stamp(model)
    assert fingerprint_of(model, stamp=stamp_on) == on
    model.enable_adapters()
    assert fingerprint_of(model, stamp=stamp_off) == base
    model.model.language_model.layers[0].self_attn.q_proj.lora_A["default"].weight.data.add_(1)
    torch.nn.init.zeros_(model.model.language_model.layers[0].self_attn.q_proj.lora_A["default"].weight)
    assert fingerprint_of(model, stamp=stamp_on).adapters is None
    assert fingerprint_of(model, stamp=stamp_on).weights == base.weights


def test_prompt_learning_is_unknown() -> None:
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, num_layers=4, token_dim=128, num_attention_heads=2
    )
    from transformers import LlamaConfig, LlamaForCausalLM

    small = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    model = get_peft_model(LlamaForCausalLM(small), config)
    found = describe_model(model)
    assert found.fingerprint.adapters is None
    assert "outside" in found.notes["adapters"]
    assert found.fingerprint.weights == fingerprint_of(model.get_base_model()).weights


# Folders of adapters.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_folder(small_model(), tmp_path_factory.mktemp("models") / "m")


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"r": 8, "use_rslora": True}], ids=str)
def test_an_adapter_folder_is_what_loading_it_gives(folder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    model_with(**options).save_pretrained(tmp_path / "a")
    loaded = small_model()
    expected = describe(loaded).fingerprint
    found = describe_folder(folder, adapter=tmp_path / "a")
    assert found.notes == {}
    loaded.model = PeftModel.from_pretrained(loaded.model, tmp_path / "a", autocast_adapter_dtype=False)
    assert found.fingerprint == describe(loaded).fingerprint
    assert differing(found.fingerprint, expected) == ("adapters",)


def test_an_adapter_beside_the_model_is_loaded_with_it(folder: Path, saved: Path, tmp_path: Path) -> None:
    both = copied(folder, tmp_path / "m")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (both / name).write_bytes((saved / name).read_bytes())
    assert describe_folder(both).fingerprint == describe_folder(folder, adapter=saved).fingerprint


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


@pytest.mark.parametrize(
    "damage",
    [
        _cut,
        lambda path: rewrite(path, lambda tensors: tensors.popitem()),
        lambda path: rewrite(path, lambda tensors: tensors.update(more=torch.zeros(2))),
        Path.unlink,
        lambda path: path.with_name("adapter_config.json").write_text("{"),
    ],
)
def test_a_damaged_adapter_is_unknown(folder: Path, saved: Path, tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    other = copied(saved, tmp_path / "a")
    damage(other / "adapter_model.safetensors")
    found = describe_folder(folder, adapter=other)
    assert found.fingerprint.adapters is None
    assert found.notes["adapters"]
    assert found.fingerprint.weights == describe_folder(folder).fingerprint.weights


def test_a_flipped_bit_of_an_adapter(folder: Path, saved: Path, tmp_path: Path) -> None:
    other = copied(saved, tmp_path / "a")
    flip(other / "adapter_model.safetensors")
    found = describe_folder(folder, adapter=other).fingerprint
    assert found.adapters not in (None, "none", describe_folder(folder, adapter=saved).fingerprint.adapters)


def test_the_kind_of_an_adapter_s_layers_counts() -> None:
    """Two kinds may keep their tensors under the same names."""
    model, other = model_with(), model_with()
    for _, layer in other.named_modules():
        if hasattr(layer, "lora_A"):
            layer.__class__ = type("Linear2", (type(layer),), {"__module__": "peft.tuners.other"})
    assert differing(fingerprint_of(model), fingerprint_of(other)) == ("adapters",)
