"""Whatever a model computes with as plain tensors and bytes, and the digests and samples of those."""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from blake3 import blake3

from ..client.transfer import Progress, no_progress
from ..codec.torch_bridge import tensor_leaf
from ..codec.weights import WeightLine
from ..state.errors import UnsupportedState

_PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
_SCALARS = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device, torch.layout, torch.qscheme)
_PER_CHANNEL = (torch.per_channel_affine, torch.per_channel_symmetric, torch.per_channel_affine_float_qparams)
_PIECE_BYTES = 64 << 20
_SAMPLES = 64  # elements of each tensor in a sample

Piece = tuple[str, "torch.Tensor | bytes"]
Named = Sequence[tuple[str, torch.Tensor]]


def pieces(name: str, value: Any) -> Iterator[Piece]:
    """Take a value apart to plain tensors and bytes: tensor subclasses by what they wrap, quantised ones by integers.

    Raises: UnsupportedState on anything whose content cannot be told.
    """
    if isinstance(value, torch.Tensor):
        yield from _tensor_pieces(name, value)
    elif isinstance(value, (tuple, list)):
        yield name, f"{type(value).__name__} of {len(value)}".encode()
        for i, item in enumerate(value):
            yield from pieces(f"{name}.{i}", item)
    elif isinstance(value, dict):
        yield name, repr(sorted(map(repr, value))).encode()
        for key, item in value.items():
            yield from pieces(f"{name}.{key!r}", item)
    elif isinstance(value, (set, frozenset)) and all(isinstance(item, _SCALARS) for item in value):
        yield name, repr(sorted(map(repr, value))).encode()
    elif isinstance(value, (*_SCALARS, enum.Enum)):
        yield name, repr(value).encode()
    else:
        raise UnsupportedState(f"{name} is a {_named(type(value))}, whose content cannot be told")


def is_plain(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is just its elements."""
    return type(tensor) in _PLAIN and not tensor.is_quantized


def _tensor_pieces(name: str, tensor: torch.Tensor) -> Iterator[Piece]:
    if tensor.layout != torch.strided:
        raise UnsupportedState(f"{name} is a tensor of layout {tensor.layout}")
    if is_plain(tensor):
        yield name, tensor.detach()
        return
    yield f"{name}!class", _named(type(tensor)).encode()
    if hasattr(tensor, "__tensor_flatten__"):
        inner, context = tensor.__tensor_flatten__()
        yield f"{name}!context", _described(name, context)
        for attribute in inner:
            yield from pieces(f"{name}.{attribute}", getattr(tensor, attribute))
    elif tensor.is_quantized:
        yield from _quantized_pieces(name, tensor.detach())
    else:
        yield name, tensor.detach().as_subclass(torch.Tensor)
        yield from _attributes(name, tensor)


def _quantized_pieces(name: str, tensor: Any) -> Iterator[Piece]:
    yield f"{name}!scheme", f"{tensor.qscheme()} {tensor.dtype}".encode()
    if tensor.qscheme() in _PER_CHANNEL:
        yield f"{name}!axis", str(tensor.q_per_channel_axis()).encode()
        yield f"{name}.scales", tensor.q_per_channel_scales()
        yield f"{name}.zero_points", tensor.q_per_channel_zero_points()
    else:
        yield f"{name}!scale", f"{tensor.q_scale()!r} {tensor.q_zero_point()}".encode()
    yield name, tensor.int_repr()


def _attributes(name: str, tensor: torch.Tensor) -> Iterator[Piece]:
    """Yield what a parameter class of a quantiser keeps beside its elements."""
    for key, value in vars(tensor).items():
        state = value.as_dict() if hasattr(value, "as_dict") else value  # bitsandbytes' QuantState
        if isinstance(state, torch.nn.Module) or callable(state) or key.startswith("_"):
            continue
        yield from pieces(f"{name}.{key}", state)


def _described(name: str, context: Any) -> bytes:
    text = repr(context)
    if " at 0x" in text:
        raise UnsupportedState(f"{name}: what it is made of cannot be told")
    return text.encode()


def _named(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def digest_lines(found: Sequence[Piece], progress: Progress = no_progress) -> list[WeightLine]:
    """Digest pieces side by side."""
    total, done, lock = sum(_size(value) for _, value in found), 0, threading.Lock()

    def told(count: int) -> None:
        nonlocal done
        with lock:
            done += count
            progress(done, total)

    progress(0, total)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return list(threads.map(lambda piece: _line(piece[0], piece[1], told), found))


def _size(value: torch.Tensor | bytes) -> int:
    return value.numel() * value.element_size() if isinstance(value, torch.Tensor) else len(value)


def _line(name: str, value: torch.Tensor | bytes, told: Callable[[int], None]) -> WeightLine:
    hasher = blake3()
    if isinstance(value, bytes):
        return WeightLine(name, "value", (len(value),), hasher.update(value).hexdigest())
    flat = value.reshape(-1)
    step = max(_PIECE_BYTES // max(flat.element_size(), 1), 1)
    for at in range(0, flat.numel(), step):
        data = tensor_leaf(flat[at : at + step], copy=False).data
        hasher.update(data)
        told(data.nbytes)
    return WeightLine(name, str(value.dtype).removeprefix("torch."), tuple(value.shape), hasher.hexdigest())


def whole_or_pieces(name: str, value: Any) -> Iterable[Piece]:
    """Take a value apart for a sample: a plain tensor stays as it is, for speed. Raises: as `pieces`."""
    if isinstance(value, torch.Tensor) and is_plain(value) and value.layout == torch.strided:
        return ((name, value),)
    return pieces(name, value)


def sample(found: Iterable[Piece], *, every_row: bool = False) -> bytes:
    """Digest some elements of every piece: 64, evenly spread; with `every_row` one of each row and column at least."""
    with torch.no_grad():
        return _sampled(found, every_row)


def _sampled(found: Iterable[Piece], every_row: bool) -> bytes:
    groups: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    total = blake3()
    for _, value in found:
        if isinstance(value, bytes):
            total.update(value)
            continue
        taken = _diagonal(value, value.reshape(-1)) if every_row else _spread(value)
        groups.setdefault((value.dtype, value.device), []).append(taken)
    for samples in groups.values():
        total.update(tensor_leaf(torch.cat(samples), copy=False).data)
    return total.digest()


def _spread(value: torch.Tensor) -> torch.Tensor:
    """Return some elements of a tensor, evenly spread; of one without gaps by a single step of torch."""
    count = value.numel()
    step = max(1, count // _SAMPLES)
    if value.is_contiguous():
        return value.as_strided((-(-count // step),), (step,))
    return value.reshape(-1)[::step]


def _diagonal(value: torch.Tensor, flat: torch.Tensor) -> torch.Tensor:
    """Walk down a matrix `[rows, columns]` from corner to corner, round and round, until both are covered."""
    columns = value.shape[-1] if value.dim() > 1 else 1
    if flat.numel() == 0 or columns <= 1:
        return flat
    rows = flat.numel() // columns
    steps = torch.arange(max(rows, columns), device=flat.device)
    return flat[(steps % rows) * columns + steps % columns]
