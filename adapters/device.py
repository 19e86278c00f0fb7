"""The device that a model is on: what it is called, what is free on it, and how long work on it took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..state.rates import Observation

_RESERVE_BYTES = 256 << 20  # for activations of the next steps


def device_name(device: torch.device) -> str:
    """Return what rates belong to: the kind of device, and of a GPU its model."""
    return f"cuda:{torch.cuda.get_device_name(device)}" if device.type == "cuda" else device.type


def spare_device_bytes(device: torch.device) -> int | None:
    """Return the memory of a GPU that a restore may take, what torch keeps for itself included; None on the host."""
    if device.type != "cuda":
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free: int = torch.cuda.mem_get_info(device)[0] + kept
    return max(free - _RESERVE_BYTES, 0)


def settled(device: torch.device) -> float:
    """Return the time once everything that was given to a device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def timed_prefill(model: Any, past: int, seen: list[Observation]) -> Iterator[None]:
    """Time the first call of a model if it feeds more than one token behind `past` of them, and note it in `seen`."""
    started: list[float] = []

    def before(*_: Any) -> None:
        if not started:
            started.append(settled(model.device))

    def after(_: Any, __: Any, kwargs: dict[str, Any], output: Any) -> None:
        fed = kwargs.get("input_ids")
        if not done and fed is not None:
            done.append(True)
            if fed.shape[0] == 1 and fed.shape[-1] > 1:
                took, device = settled(model.device) - started[0], device_name(model.device)
                seen.append(Observation("prefill", int(fed.shape[-1]), took, past, device))

    done: list[bool] = []
    hooks = (model.register_forward_pre_hook(before), model.register_forward_hook(after, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
