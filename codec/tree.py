"""Nested Python values as JSON trees with tags, so that nothing is silently changed.

JSON values stand for themselves. Everything else is an object with one key that starts with `$`:

    {"$float": "nan" | "inf" | "-inf"}            {"$int": "<decimal>"}           beyond 64 bits
    {"$tuple": [...]}                             {"$map": [[key, value], ...]}   keys that are not plain strings
    {"$tensor": {"shape", "dtype", "kind", DATA}} {"$bytes": {"size_bytes", DATA}}
    {"$text": {"size_bytes", "blocks"}}           UTF-8 of a string that is too long to lie in the manifest

DATA is `"data": base64` for small values, else `"blocks": [{"digest", "size_bytes"}, ...]`, cut every `CHUNK_BYTES`.
`kind` is the library the tensor came from (`torch`, `numpy`, or `numpy-scalar`).
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..state.errors import InvalidManifest, UnsupportedState
from ..state.manifest import BlobRef
from ..state.tensors import DTYPE_SIZES, TensorSpec

INLINE_BYTES = 32 << 10  # below this a durable file of its own costs more than the bytes (8,192 token ids)
CHUNK_BYTES = 4 << 20  # of large values: bounds memory, lets unchanged chunks be shared
ARRAY_CHUNK_BYTES = 16 << 10  # of one-dimensional integer tensors, which grow at the end (token ids, masks)
MAX_PATH = 200  # characters of a path in a message: deep keys of any length would take quadratic time
_MAX_EQUAL_HASHES = 16  # hashes of numbers are no secret, and a dict of keys that share one takes quadratic time
MAX_DEPTH = 200  # levels of JSON; orjson stops at 254, and real conversations nest about ten deep

# Python neither reads nor writes longer ones unasked (4,300 digits), because it takes quadratic time.
_MAX_INTEGER_BITS = 13_287  # 4,000 digits
_INTEGER = re.compile(r"-?[0-9]{1,4000}")
_INT64 = range(-(1 << 63), 1 << 64)


@dataclass(frozen=True, slots=True)
class Leaf:
    """Raw bytes that a tree refers to: a tensor (`spec`) or plain bytes (`spec` is None).

    `data` is a C-contiguous buffer; the caller must not change it until the save is done.
    `memo` is a key under which the digests may be remembered, or None.
    """

    data: memoryview
    spec: TensorSpec | None = None
    kind: str = "bytes"
    memo: object | None = None


@dataclass(frozen=True, slots=True)
class Encoded:
    """A value that is a node of a JSON tree already."""

    node: Any


# Turns a foreign value (a tensor) into a leaf, or returns None when it is not one of its own.
ToLeaf = Callable[[Any], Leaf | Encoded | None]
FromLeaf = Callable[[Leaf], Any]


@dataclass(slots=True)
class EncodedTree:
    """A JSON tree whose large leaves wait for their blobs: `pending` pairs each leaf with the body to fill in."""

    value: Any
    pending: list[tuple[Leaf, dict[str, Any]]] = field(default_factory=list)


def encode(value: Any, to_leaf: ToLeaf) -> EncodedTree:
    """Copy a value into its JSON tree; later changes to the value do not reach the tree.

    Raises: UnsupportedState, with the path of the value that has no lossless form.
    """
    tree = EncodedTree(None)
    tree.value = _Encoder(to_leaf, tree.pending).encode(value, "$", 0)
    return tree


class _Encoder:
    def __init__(self, to_leaf: ToLeaf, pending: list[tuple[Leaf, dict[str, Any]]]) -> None:
        self._to_leaf, self._pending = to_leaf, pending

    def encode(self, value: Any, path: str, depth: int) -> Any:
        if value is None or value is True or value is False:
            return value
        kind = type(value)
        if kind is str:
            return self._string(value, path)
        if kind is int:
            return value if value in _INT64 else {"$int": _digits(value, path)}
        if kind is float:
            return value if math.isfinite(value) else {"$float": str(value)}
        if depth >= MAX_DEPTH:
            raise UnsupportedState(f"{path[:80]}… is nested more than {MAX_DEPTH} deep")
        if kind is list:
            return [self.encode(item, below(path, f"[{i}]"), depth + 1) for i, item in enumerate(value)]
        if kind is tuple:
            return {"$tuple": [self.encode(item, below(path, f"[{i}]"), depth + 2) for i, item in enumerate(value)]}
        if kind is dict:
            return self._mapping(value, path, depth)
        if kind in (bytes, bytearray):
            return self._leaf(Leaf(memoryview(bytes(value))))
        leaf = self._to_leaf(value)
        if leaf is None:
            raise UnsupportedState(f"{path}: a {kind.__module__}.{kind.__qualname__} has no lossless form here")
        return leaf.node if isinstance(leaf, Encoded) else self._leaf(leaf)

    def _string(self, value: str, path: str) -> Any:
        raw = _utf8(value, path)
        return value if len(raw) <= INLINE_BYTES else self._leaf(Leaf(memoryview(raw), kind="text"))

    def _mapping(self, value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
        if all(type(key) is str and not key.startswith("$") for key in value):
            for key in value:
                _utf8(key, path)
            return {k: self.encode(v, below(path, f".{k}"), depth + 1) for k, v in value.items()}
        pairs = []
        for key, item in value.items():
            if key is not None and type(key) not in (str, int, float, bool, tuple):
                raise UnsupportedState(f"{path}: a {type(key).__name__} cannot be a key")
            if not _is_key(key):
                raise UnsupportedState(f"{path}: {key!r:.40} cannot be a key")
            there = below(path, f".{key}")
            pairs.append([self.encode(key, below(path, ".<key>"), depth + 3), self.encode(item, there, depth + 3)])
        return {"$map": pairs}

    def _leaf(self, leaf: Leaf) -> dict[str, Any]:
        tag, body = leaf_node(leaf.spec, leaf.kind, leaf.data.nbytes)
        if leaf.data.nbytes <= INLINE_BYTES:
            body["data"] = base64.b64encode(leaf.data).decode()
        else:
            self._pending.append((leaf, body))
        return {tag: body}


def below(path: str, piece: str) -> str:
    """Return the path of a part, as long as it can be read."""
    return path if len(path) > MAX_PATH else path + piece[:MAX_PATH]


def leaf_node(spec: TensorSpec | None, kind: str, size_bytes: int) -> tuple[str, dict[str, Any]]:
    """Return the tag of a leaf, and its body without data."""
    if spec is None:
        return "$" + kind, {"size_bytes": size_bytes}
    return "$tensor", {"shape": list(spec.shape), "dtype": spec.dtype, "kind": kind}


def _digits(value: int, path: str) -> str:
    if value.bit_length() > _MAX_INTEGER_BITS:
        raise UnsupportedState(f"{path}: an integer of {value.bit_length()} bits (at most {_MAX_INTEGER_BITS})")
    return str(value)


def _utf8(value: str, path: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise UnsupportedState(f"{path}: the text holds a lone surrogate, which no UTF-8 file can carry") from None


def chunk_bytes(spec: TensorSpec | None) -> int:
    """Return the size of the chunks that a leaf is cut into, the last one excepted."""
    grows = spec is not None and len(spec.shape) - spec.shape.count(1) <= 1 and "float" not in spec.dtype
    return ARRAY_CHUNK_BYTES if grows else CHUNK_BYTES


def chunks(leaf: Leaf) -> list[memoryview]:
    """Cut a leaf's bytes into the chunks that become its blobs."""
    flat = leaf.data.cast("B") if leaf.data.format != "B" or leaf.data.ndim != 1 else leaf.data
    step = chunk_bytes(leaf.spec)
    return [flat[at : at + step] for at in range(0, flat.nbytes, step)]


def fill(body: dict[str, Any], refs: list[BlobRef]) -> None:
    """Write the blobs of a pending leaf into its body."""
    body["blocks"] = [{"digest": ref.digest, "size_bytes": ref.size_bytes} for ref in refs]


def decode(tree: Any, read: Callable[[list[BlobRef]], memoryview], from_leaf: FromLeaf) -> Any:
    """Rebuild the value of a tree. `read` returns the joined, verified bytes of some blobs.

    Raises: InvalidManifest on an unknown tag, a size that disagrees with its shape, or data that is not base64.
    """
    return _decode(tree, read, from_leaf, 0)


def _decode(node: Any, read: Callable[[list[BlobRef]], memoryview], from_leaf: FromLeaf, depth: int) -> Any:
    if depth > MAX_DEPTH + 2:
        raise InvalidManifest("a layer is nested too deep")
    if isinstance(node, list):
        return [_decode(item, read, from_leaf, depth + 1) for item in node]
    if not isinstance(node, dict):
        return node
    tag = next(iter(node), "")
    if not tag.startswith("$"):
        return {key: _decode(item, read, from_leaf, depth + 1) for key, item in node.items()}
    if len(node) != 1:
        raise InvalidManifest(f"a {tag[:20]!r} tag with more than one key")
    body = node[tag]
    if tag == "$float" and body in ("nan", "inf", "-inf"):
        return float(body)
    if tag == "$int" and isinstance(body, str) and _INTEGER.fullmatch(body):
        return int(body)
    if tag == "$tuple" and isinstance(body, list):
        return tuple(_decode(item, read, from_leaf, depth + 2) for item in body)
    if tag == "$map" and isinstance(body, list):
        keys = [_pair(p, 0, read, from_leaf, depth) for p in body]
        return _mapping(keys, [_pair(p, 1, read, from_leaf, depth) for p in body])
    if tag == "$bytes" and isinstance(body, dict):
        return bytes(_body_bytes(body, leaf_size(body), read))
    if tag == "$text" and isinstance(body, dict):
        try:
            return str(_body_bytes(body, leaf_size(body), read), "utf-8")
        except UnicodeDecodeError:
            raise InvalidManifest("a `$text` is not UTF-8") from None
    if tag == "$tensor" and isinstance(body, dict):
        spec, kind = leaf_spec(body), body.get("kind")
        leaf = Leaf(_body_bytes(body, spec.size_bytes, read), spec, str(kind))
        try:
            return from_leaf(leaf)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InvalidManifest(f"a {kind} of {spec.dtype}{list(spec.shape)} cannot be built: {error}") from error
    raise InvalidManifest(f"unknown or malformed tag {tag[:20]!r}")


def _mapping(keys: list[Any], values: list[Any]) -> dict[Any, Any]:
    if max(Counter(map(hash, keys)).values(), default=0) > _MAX_EQUAL_HASHES:
        raise InvalidManifest("a `$map` whose keys were made to collide")
    made = dict(zip(keys, values, strict=True))
    if len(made) != len(keys):
        raise InvalidManifest("a `$map` names a key twice")
    return made


def _pair(pair: Any, at: int, read: Callable[[list[BlobRef]], memoryview], from_leaf: FromLeaf, depth: int) -> Any:
    if not isinstance(pair, list) or len(pair) != 2:
        raise InvalidManifest("a `$map` entry is not a pair")
    value = _decode(pair[at], read, from_leaf, depth + 3)
    if at == 0 and not _is_key(value):
        raise InvalidManifest("a `$map` key is not a scalar")
    return value


def _is_key(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_key(part) for part in value)
    return value is None or isinstance(value, (str, int, float, bool))


def leaf_size(body: dict[str, Any]) -> int:
    """Return the size that bytes or a text declare. Raises: InvalidManifest."""
    size = body.get("size_bytes")
    if type(size) is not int or size < 0:
        raise InvalidManifest("`$bytes` or `$text` without a size")
    return size


def leaf_spec(body: dict[str, Any]) -> TensorSpec:
    """Return a tensor's shape and dtype. Raises: InvalidManifest."""
    shape, dtype = body.get("shape"), body.get("dtype")
    if not isinstance(shape, list) or not isinstance(dtype, str) or dtype not in DTYPE_SIZES:
        raise InvalidManifest("`$tensor` without a shape or a known dtype")
    return TensorSpec(tuple(shape), dtype)


def _body_bytes(body: dict[str, Any], size_bytes: int, read: Callable[[list[BlobRef]], memoryview]) -> memoryview:
    if "data" in body:
        try:
            raw = memoryview(base64.b64decode(body["data"], validate=True))
        except (binascii.Error, TypeError, ValueError):
            raise InvalidManifest("`data` is not base64") from None
    else:
        blocks = body.get("blocks")
        if not isinstance(blocks, list) or not all(isinstance(b, dict) for b in blocks):
            raise InvalidManifest("a value without data")
        if any(type(b.get("size_bytes")) is not int for b in blocks):
            raise InvalidManifest("a block without a size")
        refs = [BlobRef(str(b.get("digest")), b["size_bytes"]) for b in blocks]
        if sum(ref.size_bytes for ref in refs) != size_bytes:
            raise InvalidManifest("a value's blocks do not add up to its size")
        return read(refs)
    if raw.nbytes != size_bytes:
        raise InvalidManifest(f"a value declares {size_bytes} bytes and holds {raw.nbytes}")
    return raw
