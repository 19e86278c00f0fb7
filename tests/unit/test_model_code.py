"""What a model computes beside its weights: rotary frequencies, hooks, layers of somebody's own."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.model_folders import load_folder, save_folder
from torch import nn
from torpor.adapters.demo_model import Loaded, small_model
from torpor.adapters.model_folder import describe_folder
from torpor.adapters.model_identity import describe_model
from torpor.state.fingerprint import Fingerprint


class Doubled(nn.Linear):
    """A layer with the weights of another one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


def halved(module: Any, args: Any, output: Any) -> Any:
    return output * 0.5


def text(loaded: Loaded) -> Any:
    return loaded.model.model.language_model


def other_theta(loaded: Loaded) -> None:
    """Change the config of a model whose frequencies were made of the old one."""
    loaded.model.config.text_config.rope_parameters["rope_theta"] = 5e5


def edited(loaded: Loaded) -> None:
    text(loaded).rotary_emb.inv_freq.mul_(0.5)


def scaled(loaded: Loaded) -> None:
    text(loaded).rotary_emb.attention_scaling = 0.5


def hooked(loaded: Loaded) -> None:
    text(loaded).layers[1].register_forward_hook(halved)


def hooked_before(loaded: Loaded) -> None:
    text(loaded).layers[1].register_forward_pre_hook(lambda module, args: args)


def patched(loaded: Loaded) -> None:
    layer = text(loaded).layers[1]
    old = layer.forward
    layer.forward = types.MethodType(lambda self, *a, **k: 2 * old(*a, **k), layer)


def own_class(loaded: Loaded) -> None:
    text(loaded).layers[0].mlp.up_proj.__class__ = Doubled


def rounded_vision(loaded: Loaded) -> None:
    loaded.model.model.visual.rotary_pos_emb.to(torch.bfloat16)


def seeing_hook(loaded: Loaded) -> None:
    loaded.model.model.visual.blocks[0].register_forward_hook(halved)


CHANGES: dict[str, tuple[Callable[[Loaded], None], set[str]]] = {
    "rounded frequencies": (lambda x: text(x).rotary_emb.to(torch.bfloat16), {"rope_config"}),
    "edited frequencies": (edited, {"rope_config"}),
    "another scaling": (scaled, {"rope_config"}),
    "rounded frequencies of the tower": (rounded_vision, {"vision_weights"}),
    "a hook": (hooked, {"adapters"}),
    "a hook before": (hooked_before, {"adapters"}),
    "a forward of one's own": (patched, {"adapters"}),
    "a class of one's own": (own_class, {"weights"}),
    "a hook in the tower": (seeing_hook, {"weights", "vision_weights"}),
}


def differing(one: Loaded, other: Loaded) -> set[str]:
    first, second = (describe_model(x.model).fingerprint for x in (one, other))
    return set(first.differing(second, tuple(Fingerprint().to_dict()))) - {"processor", "tokenizer", "chat_template"}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_the_computation_changes_the_fingerprint(name: str) -> None:
    change, parts = CHANGES[name]
    changed = small_model()
    change(changed)
    assert differing(small_model(), changed) == parts


def test_a_config_that_was_changed_after_loading_is_not_that_of_a_model_made_of_it() -> None:
    changed = small_model()
    other_theta(changed)
    made = small_model(rope_parameters=dict(changed.model.config.text_config.rope_parameters))
    assert "rope_config" in differing(made, changed)
    assert differing(made, small_model(rope_parameters=dict(made.model.config.text_config.rope_parameters))) == set()


def test_a_model_that_was_cast_is_not_one_that_was_loaded_in_that_dtype(tmp_path: Path) -> None:
    """`model.to(dtype)` rounds the frequencies; `from_pretrained(dtype=…)` and a folder do not."""
    made, kept = small_model(), small_model()
    loaded = load_folder(save_folder(made, tmp_path / "model", "1GB"))
    kept.model.to(torch.bfloat16)
    assert differing(made, loaded) == set()
    folder = describe_folder(tmp_path / "model").fingerprint
    assert folder.rope_config == describe_model(made.model).fingerprint.rope_config
    assert differing(kept, loaded) == {"rope_config", "vision_weights"}
    assert differing(kept, Loaded(small_model().model.to(torch.bfloat16), None, None)) == set()


def test_the_reason_names_the_code() -> None:
    loaded = small_model()
    hook = text(loaded).layers[1].register_forward_hook(halved)
    assert f"code of {__name__} runs in model.language_model.layers.1" in describe_model(loaded.model).notes["adapters"]
    hook.remove()
    assert differing(loaded, small_model()) == set()


def test_code_that_only_looks_on_says_so() -> None:
    loaded, looked = small_model(), []

    def look(*_: Any) -> None:
        looked.append(1)

    text(loaded).layers[1].register_forward_hook(look)
    assert differing(loaded, small_model()) != set()
    look.torpor_observes = True  # type: ignore[attr-defined]
    assert differing(loaded, small_model()) == set()


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_frequencies_that_move_in_use_are_the_same_model(kind: str) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 1e6, "factor": 4.0, "mrope_section": [12, 10, 10]}
    if kind == "longrope":
        half = [1.0] * 32
        rope |= {"short_factor": half, "long_factor": [2.0] * 32, "original_max_position_embeddings": 64}
    used, fresh = (small_model(rope_parameters=dict(rope), max_position_embeddings=64) for _ in range(2))
    before = text(used).rotary_emb.inv_freq.clone()
    with torch.no_grad():
        used.model(input_ids=torch.arange(100)[None])
    assert not torch.equal(before, text(used).rotary_emb.inv_freq)
    assert differing(used, fresh) == set()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, that quantised tensors will go
def test_an_object_that_cannot_be_read_beside_weights_that_can() -> None:
    loaded = small_model()
    layer = text(loaded).layers[0].mlp.up_proj
    packed = torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)
    layer.__class__, layer.packed = Doubled, torch.ops.quantized.linear_prepack(packed, None)
    found = describe_model(loaded.model)
    assert found.fingerprint.weights is None
    assert "up_proj.packed is a ScriptObject, which cannot be read" in found.notes["weights"]
