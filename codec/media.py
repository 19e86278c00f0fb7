"""The source images of a backup, one by one: what they are is in the manifest, their bytes are read when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..state.errors import InvalidManifest, NotFound
from ..state.manifest import BlobRef, Manifest
from . import tree

# What a browser may show as an image; anything else is handed out as a file.
SHOWN = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif"})
_MAX_TYPE_CHARS = 80


@dataclass(frozen=True, slots=True)
class MediaItem:
    """An entry of the media layer: its place there, its declared type, and its size in bytes."""

    index: int
    media_type: str
    size_bytes: int

    @property
    def is_image(self) -> bool:
        """Whether image parts of the conversation count it."""
        return not self.media_type.startswith("video/")


def media_items(manifest: Manifest) -> list[MediaItem]:
    """Return what the media layer holds. Raises: InvalidManifest."""
    return [_item(index, node) for index, node in enumerate(_nodes(manifest))]


def media_bytes(
    manifest: Manifest, index: int, read: Callable[[list[BlobRef]], memoryview]
) -> tuple[MediaItem, memoryview]:
    """Return an entry and its bytes. Raises: NotFound, InvalidManifest, and what `read` raises."""
    nodes = _nodes(manifest)
    if not 0 <= index < len(nodes):
        raise NotFound(f"backup {manifest.id} has no medium {index}")
    item = _item(index, nodes[index])
    return item, memoryview(tree.decode(nodes[index]["data"], read, lambda leaf: leaf))


def _nodes(manifest: Manifest) -> list[Any]:
    found = manifest.layers.get("media")
    return found if isinstance(found, list) else []


def _item(index: int, node: Any) -> MediaItem:
    kind = node.get("media_type") if isinstance(node, dict) else None
    data = node.get("data") if isinstance(node, dict) else None
    body = data.get("$bytes") if isinstance(data, dict) else None
    if not isinstance(kind, str) or not isinstance(body, dict):
        raise InvalidManifest(f"medium {index} is not {{data, media_type}}")
    return MediaItem(index, kind[:_MAX_TYPE_CHARS], tree.leaf_size(body))
