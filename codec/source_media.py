"""The source images and videos of a backup: which there are, their bytes, and what these really are.

What a manifest calls them proves nothing: a page is handed a picture as a picture only when its first bytes say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..state.errors import NotFound
from ..state.glimpse import Medium
from ..state.manifest import Manifest
from .leaves import ReadBlob, leaf_pieces
from .nodes import entries, items, stored
from .tree import leaf_size

MAX_TYPE_CHARS = 60
HEAD_BYTES = 16
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_GIF = (b"GIF87a", b"GIF89a")


@dataclass(frozen=True, slots=True)
class Source:
    """A source image or video, and the node in which its bytes lie."""

    medium: Medium
    node: dict[str, Any]


def sources(manifest: Manifest) -> Iterator[Source]:
    """Yield the media of a backup in their order; what is not one is left out, and counted all the same."""
    for index, each in enumerate(items(manifest.layers.get("media")) or ()):
        known = {key: value for key, value in entries(each) or () if isinstance(key, str)}
        leaf = stored(known.get("data"))
        if leaf is None or leaf.kind != "bytes":
            continue
        declared = known.get("media_type")
        name = declared[:MAX_TYPE_CHARS] if isinstance(declared, str) else "application/octet-stream"
        yield Source(Medium(index, name, leaf.size_bytes), known["data"])


def source(manifest: Manifest, index: int) -> Source:
    """Return the medium at an index. Raises: NotFound."""
    for each in sources(manifest):
        if each.medium.index == index:
            return each
    raise NotFound(f"backup {manifest.id} has no source image or video {index}")


def pieces(found: Source, read: ReadBlob) -> Iterator[memoryview]:
    """Yield the bytes of a medium, a blob at a time. Raises: InvalidManifest, and what `read` raises."""
    body = found.node["$bytes"]
    return leaf_pieces(body, leaf_size(body), read)


def picture_type(head: bytes | memoryview) -> str | None:
    """Return the type of a picture by its first bytes; None for anything but PNG, JPEG, WebP and GIF."""
    first = bytes(head[:HEAD_BYTES])
    if first.startswith(_PNG):
        return "image/png"
    if first.startswith(_JPEG):
        return "image/jpeg"
    if first.startswith(_GIF):
        return "image/gif"
    if first[:4] == b"RIFF" and first[8:12] == b"WEBP":
        return "image/webp"
    return None
