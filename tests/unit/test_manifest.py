"""Manifests: what is valid, what is refused, and the arithmetic of blocks."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.manifests import manifest
from torpor.codec import kv_blocks, manifest_file
from torpor.state.errors import InvalidManifest, ManifestDamaged, TorporError
from torpor.state.manifest import block_ranges, manifest_blobs


def as_json(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = orjson.loads(manifest_file.dump(manifest()))
    return value | changes


def test_a_manifest_survives_its_file() -> None:
    original = manifest(omitted={"media": "none"}, parent_id="01M81P35719XNDZ4R57NMV6DYA")
    raw = manifest_file.dump(original)
    assert manifest_file.load(manifest_file.unpack(manifest_file.pack(raw))) == original
    assert manifest_file.dump(manifest_file.load(raw)) == raw


KV: dict[str, Any] = as_json()["kv_cache"]
LAYOUT: dict[str, Any] = KV["layout"]
HOSTILE: dict[str, dict[str, Any]] = {
    "other format": {"format": "qwen-state/v3"},
    "path as id": {"id": "../../etc/passwd"},
    "path as session": {"session_id": "../x"},
    "path as parent": {"parent_id": "../x"},
    "negative tokens": {"tokens": -1},
    "tokens as text": {"tokens": "many"},
    "huge time": {"created_at": 1e300},
    "unknown layer": {"layers": {"surprise": 1}},
    "kv as a plain layer": {"layers": {"kv_cache": {}}},
    "layers as a list": {"layers": []},
    "too few blocks": {"kv_cache": KV | {"blocks": KV["blocks"][:1]}},
    "too many tokens": {"kv_cache": KV | {"tokens": 10**9}},
    "negative kv tokens": {"kv_cache": KV | {"tokens": -1}},
    "wrong block size": {"kv_cache": KV | {"blocks": [KV["blocks"][0] | {"size_bytes": 1}, KV["blocks"][1]]}},
    "negative block size": {"kv_cache": KV | {"blocks": [KV["blocks"][0] | {"size_bytes": -1}, KV["blocks"][1]]}},
    "digest is a path": {"kv_cache": KV | {"blocks": [KV["blocks"][0] | {"digest": "../x"}, KV["blocks"][1]]}},
    "no layers": {"kv_cache": KV | {"layout": LAYOUT | {"layers": []}}},
    "zero heads": {"kv_cache": KV | {"layout": LAYOUT | {"layers": [{"heads": 0, "key_dim": 1, "value_dim": 1}]}}},
    "huge head": {"kv_cache": KV | {"layout": LAYOUT | {"layers": [{"heads": 1, "key_dim": 2**40, "value_dim": 1}]}}},
    "object dtype": {"kv_cache": KV | {"layout": LAYOUT | {"dtype": "object"}}},
    "block of no tokens": {"kv_cache": KV | {"layout": LAYOUT | {"block_tokens": 0}}},
    "null": {"id": None},
    "more than SQLite can count": {"tokens": 2**63},
    "no KV tokens": {"kv_cache": KV | {"tokens": 0, "blocks": []}},
    "blocks of a million": {"kv_cache": KV | {"tokens": 10**12, "layout": LAYOUT | {"block_tokens": 1}, "blocks": []}},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_manifests_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(TorporError) as caught:
        manifest_file.load(orjson.dumps(as_json(**change)))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff", b"[" * 100_000, b"{}"])
def test_what_is_not_a_manifest_is_refused(raw: bytes) -> None:
    with pytest.raises(InvalidManifest):
        manifest_file.load(raw)


def test_a_blob_named_with_two_sizes_is_refused() -> None:
    body = {"$bytes": {"size_bytes": 64, "blocks": [{"digest": "a" * 64, "size_bytes": 64}]}}
    with pytest.raises(InvalidManifest, match="two sizes"):
        manifest_blobs(manifest(layers={"metadata": body}))


PACKED = manifest_file.pack(manifest_file.dump(manifest()))


@pytest.mark.parametrize("cut", range(0, len(PACKED), 7))
def test_a_torn_manifest_file_is_noticed(cut: int) -> None:
    with pytest.raises(ManifestDamaged):
        manifest_file.unpack(PACKED[:cut])


@pytest.mark.parametrize("bit", range(0, len(PACKED) * 8, 53))
def test_a_flipped_bit_in_a_manifest_file_is_noticed(bit: int) -> None:
    damaged = bytearray(PACKED)
    damaged[bit // 8] ^= 1 << bit % 8
    try:
        assert manifest_file.unpack(bytes(damaged)) == manifest_file.dump(manifest())  # a bit that carries nothing
    except ManifestDamaged:
        return


def test_bytes_after_the_end_and_bombs_are_noticed() -> None:
    with pytest.raises(ManifestDamaged):
        manifest_file.unpack(PACKED + b"x")
    bomb = manifest_file.pack(bytes(manifest_file.MAX_MANIFEST_BYTES + 1))
    with pytest.raises(ManifestDamaged):
        manifest_file.unpack(bomb)


@given(st.integers(0, 1000), st.integers(1, 100))
def test_block_ranges_cover_every_token_once(tokens: int, block: int) -> None:
    covered = [t for start, stop in block_ranges(tokens, block) for t in range(start, stop)]
    assert covered == list(range(tokens))


@given(st.lists(st.binary(max_size=50), max_size=30), st.integers(1, 40))
def test_pieces_are_all_bytes_in_order_and_within_one_call(parts: list[bytes], size: int) -> None:
    runs = list(kv_blocks.pieces([memoryview(part) for part in parts], size))
    assert b"".join(bytes(b) for run in runs for b in run) == b"".join(parts)
    assert all(len(run) <= kv_blocks.MAX_BUFFERS and sum(b.nbytes for b in run) < 2 * size for run in runs)
