"""Weights that are not plain parameters: packed, wrapped, offloaded, in extra state. They count, or are unknown."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torpor.adapters.demo_model import Loaded, small_model
from torpor.adapters.model_identity import describe_model, fingerprint_of
from torpor.adapters.weight_bytes import pieces
from torpor.state.errors import UnsupportedState


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return small_model()


def weights(model: Any) -> str | None:
    return fingerprint_of(model).weights


def quantized(seed: int = 0) -> Any:
    with pytest.warns(DeprecationWarning, match="torch.ao.quantization"):
        return torch.ao.quantization.quantize_dynamic(
            small_model(seed, torch.float32).model, {nn.Linear}, dtype=torch.qint8
        )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_packed_weights_are_read() -> None:
    """They are neither parameters nor buffers: what is left of both models are norms and embeddings."""
    plain = small_model(0, torch.float32).model
    one, same, other = quantized(), quantized(), quantized()
    packed = other.model.language_model.layers[2].mlp.down_proj
    weight, bias = packed._weight_bias()
    packed.set_weight_bias(
        torch.quantize_per_tensor(weight.dequantize() * 1.01, weight.q_scale(), 0, torch.qint8), bias
    )
    found = [describe_model(model).fingerprint for model in (plain, one, same, other)]
    assert found[1] == found[2]
    assert len({f.weights for f in found}) == 3
    assert None not in {f.weights for f in found}
    assert found[0].quantization == "none" != found[1].quantization
    assert found[0].text_config == found[1].text_config


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_packed_weights_that_are_replaced_are_noticed() -> None:
    model = quantized()
    before = weights(model)
    packed = model.model.language_model.layers[0].mlp.up_proj
    weight, bias = packed._weight_bias()
    changed = torch.quantize_per_tensor(weight.dequantize(), weight.q_scale() * 2, 0, torch.qint8)
    packed.set_weight_bias(changed, bias)
    assert weights(model) != before
    packed.set_weight_bias(weight, bias)
    assert weights(model) == before


class Extra(nn.Linear):
    """A layer with state that is no tensor."""

    told: Any = 1

    def get_extra_state(self) -> Any:
        return {"told": self.told}


def with_layer(layer: nn.Module) -> Any:
    model = small_model(num_hidden_layers=1).model
    model.model.language_model.layers[0].more = layer
    return model


def zeroed(layer: nn.Module) -> Any:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def test_extra_state_counts() -> None:
    model = with_layer(zeroed(Extra(3, 3)))
    before = weights(model)
    assert before == weights(with_layer(zeroed(Extra(3, 3))))
    model.model.language_model.layers[0].more.told = 2
    assert weights(model) not in (before, None)
    model.model.language_model.layers[0].more.told = object()
    found = describe_model(model)
    assert found.fingerprint.weights is None
    assert "cannot be told" in found.notes["weights"]


class Bare(nn.Module):
    """A layer that keeps its tensor as a plain attribute."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.kept = torch.full((4, 4), value)


def test_a_tensor_that_is_a_plain_attribute_counts() -> None:
    one, other = with_layer(Bare(1)), with_layer(Bare(2))
    assert len({weights(one), weights(other), weights(small_model(num_hidden_layers=1).model)}) == 3
    before = weights(one)
    one.model.language_model.layers[0].more.kept.mul_(3)
    assert weights(one) != before


class Wrapped(torch.Tensor):
    """A tensor subclass that is two others, as quantisers make them."""

    inner: torch.Tensor
    scale: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor, scale: torch.Tensor, block: int) -> Wrapped:
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=torch.bfloat16)  # type: ignore[attr-defined,no-any-return]

    def __init__(self, inner: torch.Tensor, scale: torch.Tensor, block: int) -> None:
        self.inner, self.scale, self.block = inner, scale, block

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["inner", "scale"], {"block": self.block}

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.detach.default:
            return cls(args[0].inner, args[0].scale, args[0].block)
        raise NotImplementedError(func)


def wrapped(value: int = 1, scale: float = 1.0, block: int = 32) -> Any:
    model = small_model(num_hidden_layers=1).model
    tensor = Wrapped(torch.full((4, 4), value, dtype=torch.int8), torch.full((4,), scale), block)
    model.model.language_model.layers[0].register_parameter("odd", nn.Parameter(tensor, requires_grad=False))
    return model


def test_tensor_subclasses_are_told_by_what_they_hold() -> None:
    found = [weights(wrapped()), weights(wrapped(2)), weights(wrapped(scale=2.0)), weights(wrapped(block=64))]
    assert None not in found
    assert len(set(found)) == 4
    assert found[0] == weights(wrapped())
    assert fingerprint_of(wrapped()).quantization != "none"
    model = wrapped()
    before = weights(model)
    model.model.language_model.layers[0].odd.scale.data.mul_(2)
    assert weights(model) not in (before, None)


@pytest.mark.parametrize(
    "value",
    [
        torch.eye(3).to_sparse(),
        {"x": object()},
        [torch.zeros(2), Path],
    ],
    ids=["sparse", "object", "class"],
)
def test_what_cannot_be_told(value: Any) -> None:
    with pytest.raises(UnsupportedState):
        list(pieces("w", value))


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch warns once a process, in whichever test comes first
def test_quantised_tensors_are_told_by_scale_and_integers() -> None:
    def told(value: torch.Tensor) -> list[str]:
        return [f"{name}={item!r}" for name, item in pieces("w", value)]

    base = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    tensors = [
        torch.quantize_per_tensor(base, 0.5, 0, torch.qint8),
        torch.quantize_per_tensor(base * 2, 1.0, 0, torch.qint8),  # the same integers
        torch.quantize_per_tensor(base, 0.5, 1, torch.qint8),
        torch.quantize_per_channel(base, torch.tensor([0.5, 0.5]), torch.tensor([0, 0]), 0, torch.qint8),
        torch.quantize_per_channel(base, torch.tensor([0.5, 0.5]), torch.tensor([0, 0]), 1, torch.qint8),
    ]
    assert len({tuple(told(t)) for t in tensors}) == len(tensors)


def test_offloaded_weights_are_unknown() -> None:
    model = small_model().model
    model.lm_head.to("meta")
    found = describe_model(model)
    assert found.fingerprint.weights is None
    assert "offloaded" in found.notes["weights"]


def test_a_quantization_config_counts_as_dict_or_object() -> None:
    from transformers import BitNetQuantConfig

    found = set()
    for config in (BitNetQuantConfig(), BitNetQuantConfig().to_dict(), None, BitNetQuantConfig(use_rms_norm=True)):
        model = small_model().model
        if config is not None:
            model.config.quantization_config = copy.deepcopy(config)
        found.add(describe_model(model).fingerprint.quantization)
    assert len(found) == 3


def test_a_compiled_model_is_the_model(loaded: Loaded) -> None:
    compiled: Any = torch.compile(loaded.model, backend="eager")
    assert fingerprint_of(compiled) == fingerprint_of(loaded.model)
