"""Torch and numpy values as leaves and back. The only module that knows torch; it imports it when first needed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ..state.errors import MissingExtra, UnsupportedState
from ..state.tensors import DTYPE_SIZES, TensorSpec
from .tree import Leaf

if TYPE_CHECKING:
    import numpy
    import torch


def to_leaf(value: Any) -> Leaf | None:
    """Take a torch tensor, numpy array or numpy scalar as a leaf that owns a copy of its bytes, else return None.

    Raises: UnsupportedState on a dtype or layout that has no lossless form.
    """
    torch_module = sys.modules.get("torch")  # a value can only be a tensor where torch is already loaded
    if torch_module is not None and isinstance(value, torch_module.Tensor):
        return tensor_leaf(value)
    numpy_module = sys.modules.get("numpy")
    if numpy_module is not None and isinstance(value, (numpy_module.ndarray, numpy_module.generic)):
        return _array_leaf(value, numpy_module)
    return None


def tensor_leaf(tensor: torch.Tensor, *, copy: bool = True, memo: object | None = None) -> Leaf:
    """Take a torch tensor as a leaf. Without `copy`, contiguous CPU memory is shared."""
    import torch

    name = str(tensor.dtype).removeprefix("torch.")
    if name not in DTYPE_SIZES or tensor.layout != torch.strided:
        raise UnsupportedState(f"a tensor of dtype {tensor.dtype} and layout {tensor.layout} has no lossless form here")
    plain = tensor.detach().resolve_conj().resolve_neg().to("cpu").contiguous()
    if copy and plain.data_ptr() == tensor.data_ptr():
        plain = plain.clone()
    flat = plain.reshape(-1).view(torch.uint8) if plain.numel() else torch.empty(0, dtype=torch.uint8)
    return Leaf(memoryview(flat.numpy()), TensorSpec(tuple(tensor.shape), name), "torch", memo)


def shared_leaf(value: Any) -> Leaf | None:
    """Take a torch tensor as a leaf that shares its memory where it is contiguous, else return None."""
    torch_module = sys.modules.get("torch")
    return tensor_leaf(value, copy=False) if torch_module and isinstance(value, torch_module.Tensor) else None


def _array_leaf(value: Any, numpy: Any) -> Leaf:
    kind = "numpy-scalar" if isinstance(value, numpy.generic) else "numpy"
    array = numpy.asarray(value)
    name = array.dtype.name
    plain = kind == "numpy-scalar" or type(value) in (numpy.ndarray, numpy.memmap)
    if not plain or name not in DTYPE_SIZES or not array.dtype.isnative:
        raise UnsupportedState(f"a numpy {type(value).__name__} of dtype {array.dtype} has no lossless form here")
    flat = numpy.array(array, order="C", copy=True).reshape(-1).view(numpy.uint8)
    return Leaf(memoryview(flat), TensorSpec(tuple(array.shape), name), kind)


def from_leaf(leaf: Leaf) -> Any:
    """Give a leaf back as what it was: torch tensor, numpy array or numpy scalar, over memory of its own."""
    if leaf.kind == "torch":
        return to_tensor(leaf)
    array = _to_array(leaf)
    return array[()] if leaf.kind == "numpy-scalar" else array


def to_tensor(leaf: Leaf) -> torch.Tensor:
    """Give a leaf back as a CPU tensor. Raises: MissingExtra without torch."""
    try:
        import torch
    except ImportError as error:
        raise MissingExtra("this layer holds torch tensors: install torch, or 'torpor[transformers]'") from error
    assert leaf.spec is not None
    dtype = getattr(torch, leaf.spec.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise UnsupportedState(f"this torch has no dtype {leaf.spec.dtype}")
    if leaf.data.nbytes == 0:
        return torch.empty(leaf.spec.shape, dtype=dtype)
    raw = leaf.data if not leaf.data.readonly else memoryview(bytearray(leaf.data))
    return torch.frombuffer(raw, dtype=torch.uint8).view(dtype).reshape(leaf.spec.shape)


def _to_array(leaf: Leaf) -> numpy.ndarray[Any, Any]:
    try:
        import numpy
    except ImportError as error:
        raise MissingExtra("this layer holds numpy arrays: install numpy") from error
    assert leaf.spec is not None
    raw = leaf.data if not leaf.data.readonly else memoryview(bytearray(leaf.data))
    return numpy.frombuffer(raw, dtype=numpy.dtype(leaf.spec.dtype)).reshape(leaf.spec.shape)


def byte_view(tensor: torch.Tensor) -> numpy.ndarray[Any, Any]:
    """View a CPU tensor `[batch, head, token, dim]` as bytes `[batch, head, token, dim * itemsize]`, sharing memory.

    A row (all tokens of one head) must be contiguous; otherwise the tensor is copied first.
    """
    import torch

    if tensor.stride(-1) != 1 or tensor.stride(-2) != tensor.shape[-1]:
        tensor = tensor.contiguous()
    view: numpy.ndarray[Any, Any] = tensor.detach().view(torch.uint8).numpy()
    return view


def to_half(raw: memoryview, dtype: str, path: str) -> tuple[memoryview, int, int]:
    """Convert raw values to float16; return them, how many changed, and how many of those became infinite.

    Raises: UnsupportedState on a dtype that is not a float of at least 16 bits, MissingExtra without numpy.
    """
    if dtype == "float16":
        return raw, 0, 0
    if dtype not in ("bfloat16", "float32", "float64"):
        raise UnsupportedState(f"{path}: a {dtype} cannot become float16", hint="Export without --v1-strict.")
    try:
        import numpy
    except ImportError as error:
        raise MissingExtra("converting to float16 needs numpy: pip install numpy") from error
    values: Any
    if dtype == "bfloat16":
        values = (numpy.frombuffer(raw, numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32)
    else:
        values = numpy.frombuffer(raw, dtype)
    with numpy.errstate(over="ignore", under="ignore", invalid="ignore"):
        half = values.astype(numpy.float16)
        same = (half.astype(values.dtype) == values) | (numpy.isnan(half) & numpy.isnan(values))
    infinite = numpy.isinf(half) & ~numpy.isinf(values)
    return memoryview(half.view(numpy.uint8)), int((~same).sum()), int(infinite.sum())
