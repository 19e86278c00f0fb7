"""Rotary frequencies: buffers that files do not carry, because they follow from the config. Or should.

`model.to(torch.bfloat16)` and `model.half()` round them too, `from_pretrained(dtype=…)` does not; a config that was
changed after loading says other ones than the model has. Keys of one and the other do not fit together, though all
weights are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from blake3 import blake3
from torch import nn

from ..codec.torch_bridge import tensor_leaf

_TOLERANCE = 1e-5  # relative; a GPU may compute the same frequencies with another last bit


def is_rotary(module: nn.Module) -> bool:
    """Tell whether a module holds rotary frequencies."""
    return any(name.endswith("inv_freq") for name in module._non_persistent_buffers_set)


def odd_frequencies(modules: Iterable[tuple[str, Any]], configs: Iterable[Any]) -> list[tuple[str, str]]:
    """Return names and digests of the frequencies that do not follow from the configs that a model has now."""
    by_type = {type(config): config for config in configs if config is not None}
    return [(f"{name}.{key}", told) for name, module in modules for key, told in _odd(module, by_type)]


def _odd(module: Any, configs: dict[type, Any]) -> Iterator[tuple[str, str]]:
    config = getattr(module, "config", None)
    if config is None:
        return
    try:
        expected = type(module)(configs.get(type(config), config))
    except Exception:  # a config that nothing can be made of any more: all of them are told
        expected = None
    for key in sorted(module._non_persistent_buffers_set):
        here, there = module._buffers[key], getattr(expected, key, None)
        moving = _changes_in_use(module) and not key.endswith("original_inv_freq")
        if here is not None and not moving and not _alike(here, there):
            yield key, blake3(tensor_leaf(here.detach().reshape(-1), copy=False).data).hexdigest()
    scaling = getattr(module, "attention_scaling", None)
    if not _changes_in_use(module) and scaling != getattr(expected, "attention_scaling", None):
        yield "attention_scaling", repr(scaling)


def _changes_in_use(module: Any) -> bool:
    kinds = getattr(module, "rope_type", "")
    return any(
        "dynamic" in kind or kind == "longrope" for kind in (kinds.values() if isinstance(kinds, dict) else [kinds])
    )


def _alike(here: torch.Tensor, there: Any) -> bool:
    if not isinstance(there, torch.Tensor) or (here.dtype, here.shape) != (there.dtype, there.shape):
        return False
    return bool(here.is_meta or torch.allclose(here.to("cpu"), there.to("cpu"), rtol=_TOLERANCE, atol=0.0))
