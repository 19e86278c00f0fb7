"""Adapters over a model (LoRA and its kin): which are active, and the digest of what they add.

Read off the modules themselves, by what `peft` gives all of its layers, so that it does not matter whether adapters
came by `model.add_adapter`, `model.load_adapter` or a `PeftModel`. A merged adapter lies in the base weights and adds
nothing; neither does a disabled one.
"""

from __future__ import annotations

from dataclasses import dataclass, field, is_dataclass
from typing import Any

import torch
from torch import nn

from ..codec.weights import lines_digest
from ..state.errors import UnsupportedState
from ..state.fingerprint import NONE
from .model_configs import digest_json
from .model_contents import Contents, contents_of, is_special, places_of
from .weight_bytes import Piece, digest_lines, pieces, sample

# What an adapter's config says of where it came from, of training, or what its layers and their tensors say better.
_SILENT = {
    "auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version",
    "runtime_config", "init_lora_weights", "lora_dropout", "target_modules", "exclude_modules", "modules_to_save",
    "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "r", "lora_alpha", "use_rslora",
    "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config", "lora_ga_config",
    "ensure_weight_tying",
}  # fmt: skip
_SILENT_FIELDS = {"lora_dropout", "r", "lora_alpha", "use_rslora"}


@dataclass(frozen=True, slots=True)
class Adapters:
    """What adapters add to a model at one time. `configs` are those of the active ones, in their order."""

    configs: tuple[str, ...] = ()
    parts: list[tuple[str, Any]] = field(default_factory=list)
    problem: str | None = None

    def places(self) -> tuple[object, ...]:
        """Return where the tensors lie and how often they were changed."""
        return tuple(place for name, value in self.parts for place in (name, *places_of(name, value)))

    def pieces(self) -> list[Piece]:
        """Take everything apart. Raises: UnsupportedState."""
        return [piece for name, value in self.parts for piece in pieces(name, value)]


def adapters_of(model: Any, contents: Contents) -> Adapters:
    """Return what the adapters of a model add now."""
    if contents.adapter_problem is not None:
        return Adapters(problem=contents.adapter_problem)
    order: list[str] = []
    parts: list[tuple[str, Any]] = []
    for name, layer in contents.tuners:
        if getattr(layer, "merged_adapters", None):
            if layer.disable_adapters:
                return Adapters(problem="a merged adapter is disabled: the next call takes it out of the weights")
            continue
        for adapter in () if layer.disable_adapters else layer.active_adapters:
            found = _parts(layer, adapter)
            if found and adapter not in order:
                order.append(adapter)
            parts += [(f"{order.index(adapter)}:{name}:{key}", value) for key, value in found]
    known = getattr(model, "peft_config", None) or {}
    return Adapters(tuple(_config(known.get(adapter)) for adapter in order), parts)


def _parts(layer: nn.Module, adapter: str) -> list[tuple[str, Any]]:
    """Return what a layer keeps under an adapter's name, whatever kind of adapter it is."""
    found: list[tuple[str, Any]] = []
    stores = [*layer._modules.items(), *layer._parameters.items()]
    stores += [(key, value) for key, value in vars(layer).items() if isinstance(value, dict)]
    for key, store in stores:
        if key[0] != "_" and key not in _SILENT_FIELDS and hasattr(store, "keys") and adapter in store:
            found += _state(key, store[adapter])
    return [("class", type(layer).__qualname__), *found] if found else []


def _state(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, nn.Module):
        if not value._modules and not value._buffers and not is_special(value):
            return [(f"{key}.{name}", item) for name, item in value._parameters.items() if item is not None]
        inside = contents_of(value)
        return [(f"{key}.{name}", item) for name, item in (*inside.tensors, *inside.values)]
    if isinstance(value, torch.Tensor | bool | int | float | str):
        return [(key, value)]
    return [] if value is None else [(key, type(value).__qualname__)]


def _config(config: Any) -> str:
    value = config.to_dict() if hasattr(config, "to_dict") else config
    if is_dataclass(config) and not isinstance(value, dict):
        value = vars(config)
    return digest_json({k: v for k, v in (value or {}).items() if k not in _SILENT and v is not None})


def adapters_digest(found: Adapters) -> str:
    """Digest what adapters add: `none` where that is nothing. Raises: UnsupportedState."""
    if found.problem is not None:
        raise UnsupportedState(found.problem)
    if not found.parts:
        return NONE
    return digest_json([found.configs, lines_digest(digest_lines(found.pieces()))])


def adapters_sample(found: Adapters) -> bytes:
    """Digest a sample of the adapters' tensors."""
    return sample(found.pieces())
