"""Plain states with everything in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torpor.adapters.plain import PlainTarget
from torpor.client import Keeper


def rich_state(seed: int = 1) -> dict[str, Any]:
    """The four layers with what JSON cannot say in each of them."""
    g = torch.Generator().manual_seed(seed)
    return {
        "metadata": {"model_name": "qwen3-vl-8b", "timestamp": 1750000000.25, "weird": {(1, None): b"\x00\xff" * 40}},
        "vision_cache": {
            "image_embeddings": [torch.randn(1, 576, 80, generator=g).to(torch.bfloat16), torch.zeros(0, 3)],
            "deepstack": {5: torch.randn(30, 40, generator=g).half(), "5": torch.arange(7)},
            "video_frame_index": {0: {"t": 0.0}, 15: {"t": 0.5}},
            "scalar": np.float32(2.5),
            "array": np.arange(40_000, dtype=np.int32).reshape(200, 200),
            "f8": torch.randn(64, generator=g).to(torch.float8_e4m3fn),
            "a.b": torch.ones(2),
            "a": {"b": torch.zeros(2, dtype=torch.complex128)},
        },
        "text_context": {
            "conversation": [
                {"role": "user", "content": [{"type": "image", "image": 0}, {"type": "text", "text": "\ufeffNUL \x00 CRLF\r\n🙂"}]},
                {"role": "assistant", "content": "总额为 42.00 欧元 " * 4000},
                {"role": "tool", "content": "short \\ \"quoted\" / \u2028 text" * 60},
            ],
            "looks_like_a_tensor": {"shape": [1], "dtype": "object", "data": "x", "compressed": True},
            "$dollar": {"$tensor": "no"},
            "picture": bytes(range(256)) * 300,
            "tuple": (1, (2.5, None), []),
        },
        "config_snapshot": {"temperature": float("nan"), "limit": float("-inf"), "seed": 10**30, "tool_call_enabled": True},
    }  # fmt: skip


def restored_state(keeper: Keeper, ref: str) -> Any:
    """What a backup of a plain state gives back."""
    return keeper.restore(ref, PlainTarget()).session.state


def same(a: Any, b: Any) -> bool:
    """Whether two values are the same in type, structure and every bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and bits(a) == bits(b)
    if isinstance(a, (np.ndarray, np.generic)):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b or (a != a and b != b))


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
