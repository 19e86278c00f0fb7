"""What the readers of state files have in common: the plain layers, and checks of what a file claims."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..state.errors import BadInput, InvalidFile, InvalidId, InvalidManifest, TooLarge
from ..state.ids import parse_session_id
from ..state.manifest import LayerName, Manifest
from ..state.tensors import TORCH_ONLY_DTYPES, TensorSpec
from . import manifest_file, tree
from .json_scan import weight_of

# Of the manifest in a file of unknown origin, which is there four times while it is read. 36 GiB of KV cache are 4,096
# blobs of about 100 bytes each; beside them stands what is too small for a blob of its own.
MAX_MANIFEST_BYTES = 24 << 20
MAX_MANIFEST_WEIGHT = 1 << 20  # as codec/json_scan.py weighs: 64 MiB once it is parsed; a blob weighs 8
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)

PLAIN_LAYERS: tuple[LayerName, ...] = ("metadata", "vision_cache", "text_context", "config_snapshot")
OTHER_LAYERS = "other_layers"  # key of `metadata` under which layers with names of their own are kept


def plain_layers(named: Mapping[str, Any]) -> dict[LayerName, Any]:
    """Sort values by the four plain layers; others become part of `metadata`, so that nothing is lost."""
    layers: dict[LayerName, Any] = {name: named[name] for name in PLAIN_LAYERS if name in named}
    others = {name: value for name, value in named.items() if name not in PLAIN_LAYERS}
    if others:
        metadata = layers.get("metadata", {})
        if not isinstance(metadata, dict) or OTHER_LAYERS in metadata:
            raise InvalidFile(f"there is no place for the layers {sorted(map(str, others))!r:.80}")
        layers["metadata"] = {**metadata, OTHER_LAYERS: others}
    return layers


def time_in(value: Any) -> float | None:
    """Return a time that a file claims, when it can be one."""
    sane = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 1e11
    return float(value) if sane else None


def session_in(value: Any) -> str | None:
    """Return a session id that a file claims, when it is one."""
    try:
        return parse_session_id(value) if isinstance(value, str) else None
    except InvalidId:
        return None


def load_checked(raw: bytes) -> Manifest:
    """Read a manifest from a file of unknown origin, its layers included.

    Raises: InvalidManifest, InvalidFile, TooLarge.
    """
    if len(raw) > MAX_MANIFEST_BYTES or weight_of(_STRING.sub(b"", raw)) > MAX_MANIFEST_WEIGHT:
        raise TooLarge(f"a manifest of {len(raw)} bytes takes too much memory")
    manifest = manifest_file.load(raw)
    for layer in manifest.layers.values():
        check_tree(layer)
    return manifest


def load_own(raw: bytes) -> Manifest:
    """Read a manifest of this home as strictly as one of a file. Raises: InvalidManifest, TooLarge."""
    try:
        return load_checked(raw)
    except InvalidFile as error:
        raise InvalidManifest(error.detail) from error


def leaf_fits(spec: TensorSpec, kind: str) -> bool:
    """Tell whether the library that a tensor says it came from could have made it."""
    if kind == "torch":
        return True
    return spec.dtype not in TORCH_ONLY_DTYPES and (kind != "numpy-scalar" or spec.shape == ())


def _check_leaf(leaf: tree.Leaf) -> object:
    assert leaf.spec is not None
    if not leaf_fits(leaf.spec, leaf.kind):
        raise InvalidFile(f"{leaf.kind[:20]} has no {leaf.spec.dtype} of shape {list(leaf.spec.shape)!r:.60}")
    return []  # like a tensor, it cannot be the key of a `$map`


def check_tree(value: Any) -> None:
    """Make sure that a tree from a file could be restored; its blobs are not read. Raises: InvalidFile."""
    try:
        tree.decode(value, lambda refs: memoryview(b""), _check_leaf)
    except BadInput as error:
        raise InvalidFile(error.detail) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidFile(f"a value cannot be rebuilt: {error!s:.120}") from error
