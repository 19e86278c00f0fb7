"""Manifests as bytes: canonical JSON in UTF-8, and on disk an LZ4 frame of it with a content checksum."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from typing import Any

import lz4.frame
import orjson
from blake3 import blake3
from pydantic_core import SchemaValidator, ValidationError

from ..state.errors import InvalidManifest, ManifestDamaged
from ..state.ids import Digest
from ..state.manifest import KVCache, Manifest
from .dataclass_check import validator_of

MAX_MANIFEST_BYTES = 256 << 20  # a million blobs at about 100 bytes each, and a long conversation beside them
_LZ4_MAGIC = b"\x04\x22\x4d\x18"


@cache
def _validator() -> SchemaValidator:
    return validator_of(Manifest)


def dump(manifest: Manifest) -> bytes:
    """Return the canonical JSON of a manifest: its own fields in the order of the schema, no white space.

    Keys inside layers keep the user's order, which is part of the state: a chat template that renders a tool call's
    arguments gives other tokens for another order. Fields that came later are left out where they say nothing, so a
    manifest from before is still the same bytes.
    """
    return orjson.dumps(_fields(manifest))


_LATER = {Manifest: ("media_spans", "group", "imported"), KVCache: ("keys",)}


def _fields(value: Manifest | KVCache) -> dict[str, Any]:
    found = {f.name: getattr(value, f.name) for f in fields(value)}
    for name in _LATER[type(value)]:
        if not found[name]:
            del found[name]
    if isinstance(value, Manifest) and value.kv_cache is not None:
        found["kv_cache"] = _fields(value.kv_cache)
    return found


def load(raw: bytes | memoryview) -> Manifest:
    """Read a manifest from its JSON, every field checked. Raises: InvalidManifest."""
    if len(raw) > MAX_MANIFEST_BYTES:
        raise InvalidManifest(f"the manifest has {len(raw)} bytes (at most {MAX_MANIFEST_BYTES})")
    try:
        return from_value(orjson.loads(raw))
    except orjson.JSONDecodeError as error:
        raise InvalidManifest(f"the manifest is not JSON: {error}") from error


def from_value(value: Any) -> Manifest:
    """Read a manifest from parsed JSON, every field checked. Raises: InvalidManifest."""
    try:
        manifest: Manifest = _validator().validate_python(value)
    except ValidationError as error:
        first: Any = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InvalidManifest(f"the manifest is not valid at {where or 'its root'}: {first['msg']}") from error
    return manifest


def digest_of(raw: bytes | memoryview) -> Digest:
    """Return the BLAKE3 digest of a manifest's JSON."""
    return Digest(blake3(raw).hexdigest())


def pack(raw: bytes | memoryview) -> bytes:
    """Return the file form of a manifest's JSON."""
    packed: bytes = lz4.frame.compress(raw, content_checksum=True, store_size=True)
    return packed


def unpack(packed: bytes, most_bytes: int = MAX_MANIFEST_BYTES) -> bytes:
    """Return the JSON of a manifest file. Raises: ManifestDamaged when the frame is torn, altered or too large."""
    if packed[:4] != _LZ4_MAGIC:
        raise ManifestDamaged("the manifest file is not an LZ4 frame")
    try:
        declared = lz4.frame.get_frame_info(packed)["content_size"]
        if not 0 < declared <= most_bytes:
            raise ManifestDamaged(f"the manifest file declares {declared} bytes")
        reader = lz4.frame.LZ4FrameDecompressor()
        raw = reader.decompress(packed, max_length=declared + 1)
    except RuntimeError as error:
        raise ManifestDamaged(f"the manifest file is damaged: {error}") from error
    if not reader.eof or reader.unused_data or len(raw) != declared:
        raise ManifestDamaged("the manifest file is cut short or has bytes after its end")
    return bytes(raw)
