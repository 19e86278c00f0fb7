"""Any state through every format and back: nothing is changed, or the writer says what."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_save
from support.shelf import Shelf
from support.states import KV_LAYOUTS, LAYERS, VALUES, kv_cache, saved
from torpor.codec import manifest_file, torch_bridge, tree
from torpor.codec.bundle import Bundle, write_bundle
from torpor.codec.leaves import LeafBuilder
from torpor.codec.safetensors_file import SafetensorsFile, write_safetensors
from torpor.codec.v1_read import V1File
from torpor.codec.v1_write import Losses, write_v1
from torpor.state.errors import UnsupportedState
from torpor.state.manifest import KVLayout, Manifest, manifest_blobs


def v1(manifest: Manifest, shelf: Shelf, losses: Losses, *, strict: bool = False) -> dict[str, Any]:
    """Write a v1 file and read it; its blobs have to be those of the manifest."""
    file = b"".join(write_v1(manifest, shelf.read, "0", losses, strict=strict))
    found, there = V1File(io.BytesIO(file)), Shelf()
    layers: dict[str, Any] = dict(found.layers(LeafBuilder(there.put)))
    assert strict or (found.session_id == manifest.session_id and there.items() <= shelf.items())
    return layers


@given(LAYERS)
def test_any_plain_state_survives_v1_to_the_order_of_its_keys(layers: dict[str, Any]) -> None:
    shelf, losses = Shelf(), Losses()
    manifest = saved(layers, shelf)
    assert orjson.dumps(v1(manifest, shelf, losses)) == orjson.dumps(dict(sorted_layers(manifest)))
    assert (losses.changed, set(losses.left_out) - {"fingerprint"}) == ({}, set())


def sorted_layers(manifest: Manifest) -> list[tuple[str, Any]]:
    return [(name, manifest.layers[name]) for name in ("metadata", "vision_cache", "text_context", "config_snapshot") if name in manifest.layers]  # fmt: skip


@given(VALUES)
def test_strict_v1_carries_a_state_unchanged_or_says_what_it_changed(value: Any) -> None:
    shelf, losses = Shelf(), Losses()
    manifest = saved({"text_context": value, "vision_cache": {}}, shelf)
    try:
        layers = v1(manifest, shelf, losses, strict=True)
    except UnsupportedState:
        return
    same = orjson.dumps(layers["text_context"]) == orjson.dumps(manifest.layers["text_context"])
    assert same == (losses.changed == {})


def test_v1_says_which_layers_it_has_no_place_for() -> None:
    shelf, losses = Shelf(), Losses()
    manifest = saved({"tokens": [1], "media": [b"x"], "text_context": "t"}, shelf)
    assert v1(manifest, shelf, losses) == {"text_context": "t"}
    assert set(losses.left_out) == {"tokens", "media", "fingerprint"}


EVERY_LAYER = st.fixed_dictionaries({}, optional=dict.fromkeys(["tokens", "media"], VALUES))


@st.composite
def backups(draw: st.DrawFn) -> tuple[Manifest, Shelf]:
    """A backup with any layers, and perhaps a KV cache."""
    shelf = Shelf()
    layout: KVLayout | None = draw(st.none() | KV_LAYOUTS)
    kv = None if layout is None else kv_cache(layout, draw(st.integers(1, 12)), shelf)
    return saved({**draw(LAYERS), **draw(EVERY_LAYER)}, shelf, kv), shelf


@given(backups())
def test_any_backup_survives_a_bundle(backup: tuple[Manifest, Shelf]) -> None:
    manifest, shelf = backup
    raw = manifest_file.dump(manifest)
    file = b"".join(write_bundle(raw, shelf.read))
    bundle = Bundle(io.BytesIO(file), len(file))
    assert (bundle.raw, bundle.manifest) == (raw, manifest)
    assert {ref.digest: bytes(data) for ref, data in bundle.blobs()} == shelf


@given(backups())
def test_any_backup_survives_safetensors_and_its_library(backup: tuple[Manifest, Shelf]) -> None:
    manifest, shelf = backup
    file = b"".join(write_safetensors(manifest_file.dump(manifest), shelf.read))
    found = SafetensorsFile(io.BytesIO(file), len(file))
    assert found.manifest == manifest
    assert {ref.digest: bytes(data) for ref, data in found.blobs()} == shelf
    assert set(manifest_blobs(manifest)) == set(shelf)
    if not any(entry.dtype in ("C64", "F8_E8M0") for entry in found.entries):  # the library's own gaps
        assert set(safetensors_load(file)) == {entry.name for entry in found.entries}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.bool, torch.uint8])
def test_what_the_safetensors_library_writes_is_read(dtype: torch.dtype) -> None:
    tensors = {
        "a.weight": torch.ones(3, 4, dtype=dtype),
        "$b": torch.zeros(0, 2, dtype=dtype),
        "c": torch.ones((), dtype=dtype),
    }
    tensors["large"] = torch.ones(50_000, dtype=dtype)
    file, shelf = safetensors_save(tensors, {"format": "pt", "long": "é" * 40_000}), Shelf()
    layers = SafetensorsFile(io.BytesIO(file), len(file)).layers(LeafBuilder(shelf.put))
    value = {name: tree.decode(layer, shelf.read_all, torch_bridge.from_leaf) for name, layer in layers.items()}
    assert value["metadata"]["header"] == {"format": "pt", "long": "é" * 40_000}
    assert set(value["vision_cache"]) == set(tensors)
    assert all(torch.equal(value["vision_cache"][name], tensor) for name, tensor in tensors.items())
