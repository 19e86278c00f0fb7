"""An adapter folder, as `peft` writes it, put on a model without memory: what loading it in the model's dtype gives.

`model.load_adapter` does that. `PeftModel.from_pretrained` widens half-precision adapters to float32 unless it is told
`autocast_adapter_dtype=False`, and then computes other values: the digest of such a model is another one.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from ..state.errors import InvalidFile, MissingExtra, NotFound, UnsupportedState
from .lora import Adapters, adapters_of
from .model_contents import contents_of

_NAME = "adapter"
_HINT = "Name a folder with adapter_config.json and adapter_model.safetensors."


def adapters_in(folder: str | None, skeleton: Any) -> Adapters:
    """Return what the adapter in a folder adds to a model on the `meta` device, which gets it; nothing for None.

    Raises: NotFound, InvalidFile, UnsupportedState, MissingExtra.
    """
    if folder is None:
        return Adapters()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not os.path.isfile(os.path.join(folder, name)):
            raise NotFound(f"{folder} holds no {name}", hint=_HINT)
    try:
        import peft
        from safetensors.torch import load_file
    except ImportError as error:
        raise MissingExtra(f"the adapter cannot be read: {error.name} is not installed (pip install peft)") from error
    try:
        config = peft.PeftConfig.from_pretrained(folder)
        if config.is_prompt_learning:
            raise UnsupportedState("a prompt-learning adapter adds tokens, not weights")
        peft.inject_adapter_in_model(config, skeleton, _NAME, low_cpu_mem_usage=True)
        stored = load_file(os.path.join(folder, "adapter_model.safetensors"))
    except UnsupportedState:
        raise
    except Exception as error:  # whatever the library makes of a file that it cannot use
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InvalidFile(f"the adapter in {folder}: {first}", hint=_HINT) from error
    found = adapters_of(skeleton, contents_of(skeleton))
    left = {key.removeprefix("base_model.model."): tensor for key, tensor in stored.items()}
    parts = [(name, _filled(name, value, left, skeleton.dtype)) for name, value in found.parts]
    if left:
        raise InvalidFile(
            f"{len(left)} tensors of the adapter fit no layer, {next(iter(left))[:80]} for one", hint=_HINT
        )
    return Adapters(found.configs, parts, found.problem)


def _filled(name: str, value: Any, left: dict[str, torch.Tensor], dtype: torch.dtype) -> Any:
    """Return a part of an adapter with the stored tensor in place of the one without memory; it is used up."""
    if not isinstance(value, torch.Tensor):
        return value
    layer, _, key = name.partition(":")[2].rpartition(":")
    # As stored: with the name in it, a vector without `.weight`, or a whole module in place of the layer's own.
    for stored in (f"{layer}.{key}", f"{layer}.{key.removesuffix('.weight')}", f"{layer}.{key.partition('.')[2]}"):
        if stored in left and left[stored].shape == value.shape:
            tensor = left.pop(stored)
            return tensor.to(dtype) if tensor.is_floating_point() else tensor
    raise InvalidFile(f"the adapter lacks {layer}.{key}, or has it in another shape", hint=_HINT)
