"""v1 files as they are in the wild: the sound ones to the last bit, the hostile ones refused quickly and cheaply."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from support.limits import read_limited
from support.shelf import Shelf
from torpor.codec.leaves import LeafBuilder, leaf_pieces
from torpor.codec.tree import leaf_spec
from torpor.codec.v1_read import V1File
from torpor.codec.v1_write import Losses, write_v1
from torpor.state.errors import FileDamaged, InvalidFile, NewerFormat, TooLarge, TorporError, UnknownFormat
from torpor.state.manifest import Manifest

FILES = Path(__file__).parents[1] / "fixtures" / "v1"
EXPECTED = json.loads((FILES / "expected.json").read_text())
MEMORY_BYTES, CPU_S = 256 << 20, 2  # of the whole process, the interpreter and all imports included

BAD: dict[str, type[TorporError]] = {
    "truncated": FileDamaged,
    "empty": FileDamaged,
    "not-lz4": UnknownFormat,
    "not-json": InvalidFile,
    "not-object": InvalidFile,
    "other-format": UnknownFormat,
    "future-major": NewerFormat,
    "shape-lies": InvalidFile,
    "shape-huge": InvalidFile,
    "shape-negative": InvalidFile,
    "dtype-object": InvalidFile,
    "base64": InvalidFile,
    "tensor-bomb": TooLarge,
    "bomb": TooLarge,
    "deep": TooLarge,
}


def test_every_file_has_a_test() -> None:
    names = {path.stem for path in FILES.glob("*.qwnbak")}
    assert names == {f"bad-{name}" for name in BAD} | set(EXPECTED["valid"])
    assert set(BAD) == set(EXPECTED["invalid"])


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused_within_its_limits(name: str) -> None:
    outcome = read_limited(FILES / f"bad-{name}.qwnbak", MEMORY_BYTES, CPU_S)
    assert outcome.code == BAD[name].code
    assert outcome.peak_bytes < MEMORY_BYTES


def read(file: bytes, shelf: Shelf) -> tuple[V1File, dict[str, Any]]:
    found = V1File(io.BytesIO(file))
    return found, dict(found.layers(LeafBuilder(shelf.put)))


def tensors(node: Any, path: str, shelf: Shelf) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict) and "$tensor" in node:
        body = node["$tensor"]
        spec = leaf_spec(body)
        raw = b"".join(leaf_pieces(body, spec.size_bytes, shelf.read))
        assert body["kind"] == "torch"
        yield {
            "path": path,
            "shape": list(spec.shape),
            "dtype": spec.dtype,
            "sha256": hashlib.sha256(raw).hexdigest(),
        }
    elif isinstance(node, (dict, list)):
        for key, item in node.items() if isinstance(node, dict) else enumerate(node):
            yield from tensors(item, f"{path}/{key}", shelf)


def in_order(value: Any) -> bytes:
    """Equal only where the order of keys is."""
    return orjson.dumps(value)


@pytest.mark.parametrize("name", EXPECTED["valid"])
def test_a_sound_file_reads_to_exactly_what_was_saved(name: str) -> None:
    wanted, shelf = EXPECTED["valid"][name], Shelf()
    found, layers = read((FILES / f"{name}.qwnbak").read_bytes(), shelf)
    assert list(tensors(layers, "", shelf)) == wanted["tensors"]
    assert in_order(layers["text_context"]) == in_order(wanted["text_context"])
    assert len(layers["text_context"]["conversation_history"]) == wanted["messages"]
    assert in_order(layers["config_snapshot"]) == in_order(wanted["config_snapshot"])
    assert (layers["metadata"]["model_name"], found.created_at) == (wanted["model_name"], wanted["timestamp"])


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", EXPECTED["valid"])
def test_a_sound_file_survives_being_written_again(name: str, strict: bool) -> None:
    shelf, losses = Shelf(), Losses()
    _, layers = read((FILES / f"{name}.qwnbak").read_bytes(), shelf)
    saved = Manifest("01M81P35719XNDZ4R57NMV6DYZ", "s", 1.0, "plain", layers)
    again = b"".join(write_v1(saved, shelf.read, "0", losses, strict=strict))
    assert in_order(read(again, Shelf())[1]) == in_order(layers)
    assert (losses.changed, losses.left_out) == ({}, {})
