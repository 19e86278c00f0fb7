"""Tensor shapes and dtypes as data, checked before any memory is taken."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InvalidManifest

# Bytes per element, little endian. Names are torch's; numpy's agree where both have the type.
DTYPE_SIZES: dict[str, int] = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "uint16": 2,
    "int16": 2,
    "uint32": 4,
    "int32": 4,
    "uint64": 8,
    "int64": 8,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "complex64": 8,
    "complex128": 16,
}

# Those that numpy does not have.
TORCH_ONLY_DTYPES = frozenset(name for name in DTYPE_SIZES if name.startswith(("float8_", "bfloat16")))

MAX_DIMS = 32  # more than numpy before 2.0 and torch in practice ever build
MAX_TENSOR_BYTES = 1 << 44  # 16 TiB: beyond any host, and far below where 64-bit arithmetic wraps


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's shape and dtype. Raises: InvalidManifest on anything that cannot be a tensor."""

    shape: tuple[int, ...]
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_SIZES:
            raise InvalidManifest(f"{self.dtype[:40]!r} is not a tensor dtype")
        if len(self.shape) > MAX_DIMS:
            raise InvalidManifest(f"a tensor of {len(self.shape)} dimensions (at most {MAX_DIMS})")
        if any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in self.shape):
            raise InvalidManifest(f"a shape holds something that is not a size: {self.shape!r:.80}")
        extent = DTYPE_SIZES[self.dtype]
        for n in self.shape:  # an empty tensor's other dimensions are bounded too: libraries multiply them
            extent *= max(n, 1)
            if extent > MAX_TENSOR_BYTES:
                raise InvalidManifest(f"a tensor of {extent} bytes or more (at most {MAX_TENSOR_BYTES})")

    @property
    def size_bytes(self) -> int:
        """Return the size of the raw, contiguous bytes."""
        count = DTYPE_SIZES[self.dtype]
        for n in self.shape:
            count *= n
        return count
