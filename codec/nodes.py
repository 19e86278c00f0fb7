"""Encoded trees without their bytes: what a node is, what lies under it, and how it reads in one line.

Nothing here reads a blob or decodes a value, so it is safe on any tree that a manifest can hold. A malformed tag is
described as such. Walks recurse freely once `check_depth` has passed a tree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from ..state.errors import BadInput, InvalidManifest
from ..state.manifest import BlobRef
from ..state.tensors import TensorSpec
from .tree import MAX_DEPTH

Kind = Literal["tensor", "bytes", "text", "malformed"]

TEXT_CHARS = 100  # of a value, or of a message's first line
KEY_CHARS = 60  # of one key in a path
SCALAR_TAGS = ("$float", "$int")
_LEAF_KINDS: dict[str, Kind] = {"$tensor": "tensor", "$bytes": "bytes", "$text": "text"}
_LEAF_LEVELS = 8  # of JSON, in the body of the deepest tag
_PLAIN_KEY = re.compile(r"[^\W\d][\w-]*")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor, a byte string or a long text. `blobs` are digests in order; none: its bytes lie in the manifest."""

    path: str
    kind: Kind
    size_bytes: int = 0
    dtype: str | None = None
    shape: tuple[int, ...] = ()
    library: str | None = None  # that a tensor came from
    blobs: tuple[str, ...] = ()

    def brief(self) -> str:
        """Say in a few words what it is."""
        if self.kind == "tensor":
            return f"{self.dtype}{list(self.shape)}"
        if self.kind == "malformed":
            return "malformed"
        return f"bytes[{self.size_bytes}]" if self.kind == "bytes" else f"text of {self.size_bytes} bytes"


def check_depth(tree: Any) -> None:
    """Refuse a tree that is nested deeper than any that can be restored. Raises: InvalidManifest."""
    level = [tree] if isinstance(tree, (list, dict)) else []
    for _ in range(MAX_DEPTH + _LEAF_LEVELS):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (list, dict))
        ]
        if not level:
            return
    raise InvalidManifest("a layer is nested too deep")


def tag_of(node: Any) -> str | None:
    """Return the tag of a node (`$tensor`, `$map`, …), known or not, or None for plain JSON."""
    first = next(iter(node), None) if isinstance(node, dict) else None
    return first if isinstance(first, str) and first.startswith("$") else None


def stored(node: Any, path: str = "") -> Stored | None:
    """Describe a tensor, a byte string, a long text or a malformed tag; None for everything else."""
    tag = tag_of(node)
    if tag is None:
        return None
    body = node[tag] if len(node) == 1 else None
    if tag in _LEAF_KINDS:
        found = _leaf(_LEAF_KINDS[tag], body, path) if isinstance(body, dict) else None
        return found or Stored(path, "malformed")
    sound = isinstance(body, str) if tag in SCALAR_TAGS else items(node) is not None or entries(node) is not None
    return None if sound else Stored(path, "malformed")


def _leaf(kind: Kind, body: dict[str, Any], path: str) -> Stored | None:
    refs: tuple[BlobRef, ...] | None = () if isinstance(body.get("data"), str) else _refs(body.get("blocks"))
    spec = _spec(body) if kind == "tensor" else None
    size = body.get("size_bytes") if spec is None else spec.size_bytes
    if refs is None or (spec is None and kind == "tensor") or type(size) is not int or size < 0:
        return None
    if refs and sum(ref.size_bytes for ref in refs) != size:
        return None
    blobs = tuple(ref.digest for ref in refs)
    if spec is None:
        return Stored(path, kind, size, blobs=blobs)
    library = body.get("kind")
    return Stored(path, kind, size, spec.dtype, spec.shape, library if isinstance(library, str) else None, blobs)


def _refs(blocks: Any) -> tuple[BlobRef, ...] | None:
    if not isinstance(blocks, list):
        return None
    found = []
    for block in blocks:
        size = block.get("size_bytes") if isinstance(block, dict) else None
        if type(size) is not int:
            return None
        try:
            found.append(BlobRef(str(block.get("digest")), size))
        except BadInput:
            return None
    return tuple(found)


def _spec(body: dict[str, Any]) -> TensorSpec | None:
    shape, dtype = body.get("shape"), body.get("dtype")
    if not isinstance(shape, list) or not isinstance(dtype, str):
        return None
    try:
        return TensorSpec(tuple(shape), dtype)
    except InvalidManifest:
        return None


def items(node: Any) -> list[Any] | None:
    """Return what a list or a tuple holds, None for everything else."""
    if isinstance(node, list):
        return node
    body = node["$tuple"] if tag_of(node) == "$tuple" and len(node) == 1 else None
    return body if isinstance(body, list) else None


def entries(node: Any) -> list[tuple[Any, Any]] | None:
    """Return the encoded keys and the values of a mapping, None for everything else."""
    if isinstance(node, dict) and tag_of(node) is None:
        return list(node.items())
    body = node["$map"] if tag_of(node) == "$map" and len(node) == 1 else None
    if not isinstance(body, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in body):
        return None
    return [(key, value) for key, value in body]


def fields(node: Any) -> dict[str, Any]:
    """Return the values of a mapping that have strings as keys; of everything else nothing."""
    return {key: value for key, value in entries(node) or () if isinstance(key, str)}


def children(node: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a container holds, each with its step of the path; nothing for leaves and scalars."""
    held = items(node)
    if held is not None:
        yield from ((f"[{i}]", item) for i, item in enumerate(held))
    else:
        yield from ((step(key), value) for key, value in entries(node) or ())


def step(key: Any) -> str:
    """Write a key as a step of a path: `.name`, `["any text"]`, `[7]` for other keys."""
    if isinstance(key, str) and len(key) <= KEY_CHARS and _PLAIN_KEY.fullmatch(key):
        return f".{key}"
    return f"[{brief(key, KEY_CHARS)}]"


def brief(node: Any, chars: int = TEXT_CHARS) -> str:
    """Write any node in one short line. Strings are quoted; control characters in them are the caller's to escape."""
    if isinstance(node, str):
        return json.dumps(shorten(node, chars), ensure_ascii=False)
    if isinstance(node, (list, dict)):
        return _brief_container(node, chars)
    return shorten(json.dumps(node), chars)


def _brief_container(node: list[Any] | dict[str, Any], chars: int) -> str:
    leaf, held, pairs = stored(node), items(node), entries(node)
    if leaf is not None:
        return leaf.brief()
    if held is not None:
        return f"{'list' if isinstance(node, list) else 'tuple'} of {len(held)}"
    if pairs is not None:
        names = [shorten(key, 20) for key, _ in pairs[:4] if isinstance(key, str)] + ["…"] * (len(pairs) > 4)
        return shorten(f"mapping of {len(pairs)}" + (f" ({', '.join(names)})" if names else ""), chars)
    assert isinstance(node, dict)
    return shorten(str(next(iter(node.values()))), chars)  # $float, $int


def shorten(text: str, chars: int = TEXT_CHARS) -> str:
    """Cut a text to a length."""
    return text if len(text) <= chars else text[: chars - 1] + "…"


def first_line(text: str, chars: int = TEXT_CHARS) -> str:
    """Return the first line of a text that is not blank, shortened; `…` says that there is more."""
    whole = text.strip()
    line = whole[: chars + 1].splitlines()[0].rstrip() if whole else ""
    return shorten(line + ("…" if len(line) < len(whole) and len(line) <= chars else ""), chars)
