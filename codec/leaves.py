"""Leaves of a tree from bytes that come in pieces, and back: no leaf lies in memory as a whole."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Protocol

from blake3 import blake3

from ..state.errors import InvalidManifest
from ..state.manifest import BlobRef, leaf_refs
from ..state.tensors import TensorSpec
from .tree import INLINE_BYTES, chunk_bytes, fill, leaf_node, leaf_size, leaf_spec

# Small leaves lie in the manifest, which is there four times while it is sent; what is beyond goes into blobs.
INLINE_BUDGET_BYTES = 4 << 20

Put = Callable[[memoryview], BlobRef]
ReadBlob = Callable[[BlobRef], memoryview]


class Leaves(Protocol):
    """What a reader hands the bytes of its leaves to, and what it puts in their place."""

    def tensor(self, spec: TensorSpec, kind: str, pieces: Iterable[bytes]) -> Any:
        """Return the node of a tensor; the pieces hold `spec.size_bytes` bytes."""
        ...

    def data(self, pieces: Iterable[bytes]) -> Any:
        """Return the node of plain bytes."""
        ...

    def text(self, pieces: Iterable[bytes]) -> Any:
        """Return the node of a text that comes as sound UTF-8."""
        ...


class LeafBuilder:
    """Makes leaves for one manifest. `put` stores a chunk, whose memory is used again afterwards."""

    def __init__(self, put: Put) -> None:
        self._put, self._inline_left = put, INLINE_BUDGET_BYTES

    def tensor(self, spec: TensorSpec, kind: str, pieces: Iterable[bytes]) -> Any:
        """Return the node of a tensor; the pieces hold `spec.size_bytes` bytes."""
        return self._build(spec, kind, pieces)

    def data(self, pieces: Iterable[bytes]) -> Any:
        """Return the node of plain bytes."""
        return self._build(None, "bytes", pieces)

    def text(self, pieces: Iterable[bytes]) -> Any:
        """Return the node of a text that comes as sound UTF-8: itself when it is short."""
        return self._build(None, "text", pieces)

    def _build(self, spec: TensorSpec | None, kind: str, pieces: Iterable[bytes]) -> Any:
        step, buffer, refs = chunk_bytes(spec), bytearray(), []
        size_bytes, most_inline = 0, min(INLINE_BYTES, self._inline_left)
        for piece in pieces:
            buffer += piece
            size_bytes += len(piece)
            if size_bytes > most_inline:
                refs += self._cut(buffer, step)
        if size_bytes <= most_inline:
            self._inline_left -= size_bytes
            return _inline(spec, kind, bytes(buffer))
        if buffer:
            refs.append(self._put(memoryview(buffer)))
        tag, body = leaf_node(spec, kind, size_bytes)
        fill(body, refs)
        return {tag: body}

    def _cut(self, buffer: bytearray, step: int) -> list[BlobRef]:
        """Store the whole chunks of a buffer and take them off it."""
        whole = len(buffer) - len(buffer) % step
        with memoryview(buffer) as view:
            refs = [self._put(view[at : at + step]) for at in range(0, whole, step)]
        del buffer[:whole]
        return refs


def _inline(spec: TensorSpec | None, kind: str, raw: bytes) -> Any:
    if kind == "text" and spec is None:
        return raw.decode()
    tag, body = leaf_node(spec, kind, len(raw))
    body["data"] = base64.b64encode(raw).decode()
    return {tag: body}


def leaf_pieces(body: dict[str, Any], size_bytes: int, read: ReadBlob) -> Iterator[memoryview]:
    """Yield a leaf's bytes, a blob at a time. Raises: InvalidManifest, and what `read` raises."""
    if "data" in body:
        try:
            raw = memoryview(base64.b64decode(body["data"], validate=True))
        except (binascii.Error, TypeError, ValueError):
            raise InvalidManifest("`data` is not base64") from None
        sizes, pieces = [raw.nbytes], iter([raw])
    else:
        refs = list(leaf_refs(body.get("blocks")))
        sizes, pieces = [ref.size_bytes for ref in refs], (read(ref) for ref in refs)
    if sum(sizes) != size_bytes:
        raise InvalidManifest(f"a value declares {size_bytes} bytes and holds {sum(sizes)}")
    return pieces


class LeafDigests:
    """Takes the place of a `LeafBuilder` and stores nothing: each leaf becomes the digest of its bytes."""

    def tensor(self, spec: TensorSpec, kind: str, pieces: Iterable[bytes | memoryview]) -> Any:
        """Return a node that names a tensor by its digest."""
        tag, body = leaf_node(spec, kind, spec.size_bytes)
        return {tag: {**body, "digest": _digest(pieces)}}

    def data(self, pieces: Iterable[bytes | memoryview]) -> Any:
        """Return a node that names bytes by their digest."""
        return {"$bytes": {"digest": _digest(pieces)}}

    def text(self, pieces: Iterable[bytes | memoryview]) -> Any:
        """Return a short text as it is, else a node that names it by its digest."""
        head = bytearray()
        source = iter(pieces)
        for piece in source:
            head += piece
            if len(head) > INLINE_BYTES:
                return {"$text": {"digest": _digest(chain((head,), source))}}
        return head.decode()

    def tree(self, node: Any, read: ReadBlob) -> Any:
        """Return a layer's tree with each leaf as its digest, however it was cut. Raises: what `read` raises."""
        if isinstance(node, list):
            return [self.tree(item, read) for item in node]
        if not isinstance(node, dict):
            return node
        for tag, body in node.items():
            if tag == "$tensor":
                spec = leaf_spec(body)
                return self.tensor(spec, str(body.get("kind")), leaf_pieces(body, spec.size_bytes, read))
            if tag in ("$bytes", "$text"):
                pieces = leaf_pieces(body, leaf_size(body), read)
                return self.data(pieces) if tag == "$bytes" else self.text(pieces)
        return {key: self.tree(item, read) for key, item in node.items()}


def _digest(pieces: Iterable[bytes | bytearray | memoryview]) -> str:
    hasher = blake3()
    for piece in pieces:
        hasher.update(piece)
    return hasher.hexdigest()
