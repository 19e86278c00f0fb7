"""The logits of a session's last one-token step, taken along while it generates; they cost the loop nothing.

A prefill gives logits with other last bits than the step that a woken session will take, so only steps that fed one
token count. A reference is kept, never a copy, and the device is not waited for.
"""

from __future__ import annotations

import platform
import weakref
from collections import deque
from dataclasses import dataclass
from functools import cache as remembered
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import transformers

from .cache_watch import plain_class


@dataclass(slots=True)
class Step:
    """A step that fed one token: the cache it went into, the ids that this cache holds since, and what came out.

    `logits` are `[batch, vocabulary]`. `positions` `[batch, 1]` are where the token stood in its text, without rope
    deltas; None is where the mask says. (`generate` counts on from a prompt's last column, padding or not, so a prompt
    padded on the right stands elsewhere.) A woken session has the saved reference instead, as a tree.
    """

    cache: weakref.ref[Any]
    ids: torch.Tensor
    environment: dict[str, str]
    logits: torch.Tensor | None = None
    positions: torch.Tensor | None = None
    tree: dict[str, Any] | None = None

    def belongs_to(self, cache: Any, token_ids: torch.Tensor) -> bool:
        """Tell whether this is the last step of a state: all ids but the last, sampled one are in its cache."""
        length: int = self.ids.shape[-1]
        same: bool = cache is not None and self.cache() is cache
        return bool(
            same
            and token_ids.shape[-1] == length + 1
            and int(cache.get_seq_length()) == length
            and torch.equal(token_ids[:, :length], self.ids)
        )


def step_of(model: Any, cache: Any, token_ids: torch.Tensor, logits: torch.Tensor) -> Step | None:
    """Return the step that gave some logits `[batch, vocabulary]`; None where rows or ids do not fit them."""
    length = int(cache.get_seq_length())
    if logits.shape[0] != token_ids.shape[0] or token_ids.shape[-1] < length:
        return None
    return Step(weakref.ref(cache), token_ids[:, :length], environment(model, cache), logits=logits.detach())


class StepWatch:
    """Looks on while a model runs. Two steps are kept: a device may learn late that the last one was too much."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._steps: deque[tuple[Any, Any, torch.Tensor, torch.Tensor | None]] = deque(maxlen=2)

    def __enter__(self) -> StepWatch:
        self._hook = self._model.register_forward_hook(self._look, with_kwargs=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hook.remove()

    def _look(self, module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        if torch.compiler.is_compiling():  # a compiled step overwrites its output, and has other last bits
            return
        ids, logits = kwargs.get("input_ids"), getattr(output, "logits", None)
        cache = getattr(output, "past_key_values", None)
        if ids is None or logits is None or cache is None or ids.shape[-1] != 1 or module.training:
            self._steps.clear()
            return
        try:
            length = cache.get_seq_length()
        except ValueError:  # layers that do not count their tokens
            return
        # A static cache counts in place; a copy on its device waits for nothing.
        length = length.clone() if isinstance(length, torch.Tensor) else length
        self._steps.append((cache, length, logits[:, -1], kwargs.get("position_ids")))

    def last(self, cache: Any, token_ids: torch.Tensor, rope_deltas: torch.Tensor | None) -> Step | None:
        """Return the step that a cache ends with, or None."""
        for seen, length, logits, positions in self._steps:
            if seen is cache and int(length) == int(cache.get_seq_length()):
                step = step_of(self._model, cache, token_ids, logits)
                if step is not None and positions is not None:
                    # `[batch, 1]`, or with a row each for time, height and width, which are alike in a text
                    last = positions[-1] if positions.ndim == 3 else positions
                    step.positions = last if rope_deltas is None else last - rope_deltas
                return step
        return None


def environment(model: Any, cache: Any) -> dict[str, str]:
    """Return what decides the last bits of a step, beside model and state."""
    device = model.device
    longest = getattr(cache.layers[0], "max_cache_len", None) if getattr(cache, "layers", None) else None
    found = {
        "attention": getattr(model.config.get_text_config(), "_attn_implementation", None),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": device.type,
        "device name": _device_name(device.type, device.index),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cache": plain_class(cache).__name__ if longest is None else f"{plain_class(cache).__name__}({longest})",
        "float32 precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "autocast": torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type),
    }
    if device.type == "cuda":
        backends = torch.backends.cuda
        flags = (
            backends.matmul.allow_tf32, backends.matmul.allow_fp16_reduced_precision_reduction,
            backends.matmul.allow_bf16_reduced_precision_reduction, backends.flash_sdp_enabled(),
            backends.mem_efficient_sdp_enabled(), backends.math_sdp_enabled(), backends.cudnn_sdp_enabled(),
        )  # fmt: skip
        found["kernels"] = "".join("01"[bool(flag)] for flag in flags)
    elif device.type == "cpu":  # float32 differs in its last bit between 4 and 8 threads
        found["threads"], found["mkldnn"] = torch.get_num_threads(), torch.backends.mkldnn.enabled
    return {name: str(value) for name, value in found.items()}


@remembered
def _device_name(kind: str, index: int | None) -> str:
    if kind == "cuda":
        return f"{torch.cuda.get_device_name(index)}, CUDA {torch.version.cuda}"
    if kind != "cpu":
        return platform.machine()
    return f"{_processor_name()}, {torch.backends.cpu.get_cpu_capability()}"


def _processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
