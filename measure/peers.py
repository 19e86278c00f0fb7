"""The baselines: what somebody without torpor would write, and the raw speed of the disk.

A writer leaves its bytes on the disk (fsync); a reader leaves them in memory of its own.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import numpy
import orjson
import torch
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
PIECE_BYTES = 4 << 20


def joined(tensors: Tensors) -> memoryview:
    """Return all bytes of some tensors in one buffer."""
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors.values()])
    return memoryview(flat.view(torch.uint8).numpy())


def write_raw(path: Path, data: memoryview) -> None:
    """Write a buffer to a new file and sync it: the floor of every save."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        for at in range(0, data.nbytes, PIECE_BYTES):
            os.write(fd, data[at : at + PIECE_BYTES])
        os.fsync(fd)
    finally:
        os.close(fd)


def read_raw(path: Path, buffer: memoryview) -> int:
    """Read a file from its start to its end into one small buffer that is used again and again."""
    fd, total = os.open(path, os.O_RDONLY), 0
    try:
        while count := os.readv(fd, [buffer]):
            total += count
    finally:
        os.close(fd)
    return total


def write_torch(path: Path, tensors: Tensors) -> None:
    """Run `torch.save` and sync."""
    with path.open("xb") as file:
        torch.save(tensors, file)
        _sync(file)


def read_torch(path: Path) -> Tensors:
    """Run `torch.load`, weights only."""
    loaded: Tensors = torch.load(path, weights_only=True)
    return loaded


def write_safetensors(path: Path, tensors: Tensors) -> None:
    """Run safetensors' `save_file` and sync."""
    save_file(tensors, path)
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_safetensors(path: Path) -> Tensors:
    """Run safetensors' `load_file` and take the tensors, which are views of the mapped file, into own memory."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def write_v1(path: Path, tensors: Tensors) -> None:
    """Write `qwen-state/v1` as its users do, one file of compressed JSON, and sync it."""
    state = {
        "metadata": {
            "model_name": "qwen3-vl-8b-instruct",
            "version": "qwen3-vl-web-v2",
            "timestamp": time.time(),
            "format": "qwen-state/v1",
        },
        "vision_cache": {name: _encode_v1(tensor) for name, tensor in tensors.items()},
        "text_context": {"conversation_history": [], "kv_cache_pruned": False, "active_thinking_trace": {}},
        "config_snapshot": {"temperature": 0.7, "max_new_tokens": 1024, "tool_call_enabled": True},
    }
    with path.open("xb") as file:
        file.write(lz4.frame.compress(orjson.dumps(state)))
        _sync(file)


def _encode_v1(tensor: torch.Tensor) -> dict[str, Any]:
    array = tensor.to(torch.float16).numpy()  # numpy has no bf16; this is where v1 loses bits
    packed = base64.b64encode(lz4.frame.compress(array.tobytes())).decode()
    return {"shape": list(array.shape), "dtype": "float16", "data": packed, "compressed": True}


def read_v1(path: Path) -> Tensors:
    """Read a v1 file back to bf16 tensors."""
    state = orjson.loads(lz4.frame.decompress(path.read_bytes()))
    return {name: _decode_v1(value) for name, value in state["vision_cache"].items()}


def _decode_v1(value: dict[str, Any]) -> torch.Tensor:
    raw = lz4.frame.decompress(base64.b64decode(value["data"]))
    array = numpy.frombuffer(bytearray(raw), dtype=value["dtype"]).reshape(value["shape"])
    return torch.from_numpy(array).to(torch.bfloat16)


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


WRITERS: dict[str, Callable[[Path, Tensors], None]] = {
    "torch.save + fsync": write_torch,
    "safetensors + fsync": write_safetensors,
    "v1 file + fsync": write_v1,
}
READERS: dict[str, Callable[[Path], Tensors]] = {
    "torch.load": read_torch,
    "safetensors, cloned": read_safetensors,
    "v1 file": read_v1,
}
