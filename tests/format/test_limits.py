"""Memory and time of files that are as large, or as mean, as their readers take."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.frame
import orjson
import pytest
from support.limits import read_limited, write_limited
from support.manifests import manifest
from torpor.codec import manifest_file, state_file
from torpor.codec.bundle import MANIFEST_NAME, header
from torpor.codec.json_scan import MAX_SKELETON_BYTES, MAX_WEIGHT
from torpor.codec.safetensors_file import DIGEST, OURS

MIB = 1 << 20
MEMORY_BYTES, CPU_S = 256 * MIB, 20  # time is for a loaded machine: each of these takes about a second
BESIDE_BYTES = 64 * MIB  # beside four times the largest tensor, and the interpreter


def v1(layer: str) -> bytes:
    return lz4.frame.compress(f'{{"metadata":{{"format":"qwen-state/v1"}},"text_context":{layer}}}'.encode())


def repeated(item: str, times: int) -> str:
    return "[" + ",".join([item] * times) + "]"


def manifest_json(layer: str) -> bytes:
    raw = manifest_file.dump(manifest(layers={"text_context": "HERE"}, kv_cache=None))
    return raw.replace(b'"HERE"', layer.encode())


def bundle(raw: bytes) -> bytes:
    packed = manifest_file.pack(raw)
    return header(MANIFEST_NAME, len(packed)) + packed + bytes(-len(packed) % 512) + bytes(1024)


def safetensors(raw: bytes) -> bytes:
    text = orjson.dumps({"__metadata__": {OURS: raw.decode(), DIGEST: manifest_file.digest_of(raw)}})
    return len(text).to_bytes(8, "little") + text


@pytest.fixture(scope="module")
def idle_bytes(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The memory of an interpreter that has read a small file."""
    path = tmp_path_factory.mktemp("idle") / "small.qwnbak"
    path.write_bytes(v1("{}"))
    return read_limited(path, MEMORY_BYTES, CPU_S).peak_bytes


ASTRAL = '"' + "a" * 1000 + '\U0001f642"'  # four bytes of memory for each of its characters
FULL: dict[str, Callable[[], bytes]] = {
    "keys": lambda: v1("{" + ",".join(f'"{n}":0' for n in range(MAX_WEIGHT // 2 - 20)) + "}"),
    "deep lists": lambda: v1(repeated("[" * 150 + "]" * 150, MAX_WEIGHT // 301 - 1)),
    "short texts": lambda: v1(repeated(ASTRAL, MAX_SKELETON_BYTES // 1010)),
    "long texts": lambda: v1(repeated('"' + "a" * 1025 + '"', MAX_WEIGHT // 25 - 9)),
    "small tensors": lambda: v1(
        repeated('{"shape":[700],"dtype":"int8","data":"' + "A" * 934 + '==","compressed":false}', 8000)
    ),
    "deep long keys": lambda: v1(('{"' + "k" * 900 + '":') * 190 + repeated("0", 300_000) + "}" * 190),
}


@pytest.mark.parametrize("name", FULL)
def test_the_fullest_v1_files_take_what_any_import_may(name: str, tmp_path: Path, idle_bytes: int) -> None:
    path = tmp_path / "full.qwnbak"
    path.write_bytes(FULL[name]())
    outcome = read_limited(path, MEMORY_BYTES, CPU_S)
    assert outcome.code is None
    assert outcome.peak_bytes < idle_bytes + BESIDE_BYTES + 8 * MIB  # 4 times 2 MiB, should there be no tensor


def keys() -> str:
    return "{" + ",".join(f'"{n}":0' for n in range(state_file.MAX_MANIFEST_WEIGHT // 2 - 200)) + "}"


def texts() -> str:
    return repeated(ASTRAL, state_file.MAX_MANIFEST_BYTES // 1012)


@pytest.mark.parametrize(
    ("form", "layer"), [(bundle, keys), (safetensors, texts)], ids=["keys in a bundle", "texts in safetensors"]
)
def test_the_fullest_manifests_stay_within_the_limit(
    form: Callable[[bytes], bytes], layer: Callable[[], str], tmp_path: Path
) -> None:
    path = tmp_path / ("full.qwnbak" if form is bundle else "full.safetensors")
    path.write_bytes(form(manifest_json(layer())))
    outcome = read_limited(path, 4 * MEMORY_BYTES, CPU_S)  # the parser reserves more than it touches
    assert outcome.code is None
    assert outcome.peak_bytes < MEMORY_BYTES


@pytest.mark.parametrize(
    ("form", "layer", "code"),
    [
        (bundle, lambda: repeated("{}", state_file.MAX_MANIFEST_WEIGHT // 5), "too-large"),
        (bundle, lambda: json.dumps("x" * state_file.MAX_MANIFEST_BYTES), "file-damaged"),
        (safetensors, lambda: json.dumps("x" * state_file.MAX_MANIFEST_BYTES), "too-large"),
    ],
    ids=["a bundle of many values", "a bundle of much text", "safetensors of much text"],
)
def test_manifests_beyond_the_limit_are_refused(
    form: Callable[[bytes], bytes], layer: Callable[[], str], code: str, tmp_path: Path
) -> None:
    path = tmp_path / ("mean.qwnbak" if form is bundle else "mean.safetensors")
    path.write_bytes(form(manifest_json(layer())))
    outcome = read_limited(path, MEMORY_BYTES, CPU_S)
    assert outcome.code == code
    assert outcome.peak_bytes < MEMORY_BYTES


def test_a_large_file_takes_no_more_memory_than_a_small_one(tmp_path: Path, idle_bytes: int) -> None:
    size = 80 * MIB
    data = base64.b64encode(lz4.frame.compress(random.Random(1).randbytes(size))).decode()
    tensor: dict[str, Any] = {"shape": [size], "dtype": "float8_e5m2", "data": data, "compressed": True}
    path = tmp_path / "large.qwnbak"
    path.write_bytes(v1(json.dumps(tensor)))
    assert path.stat().st_size > size
    outcome = read_limited(path, MEMORY_BYTES, CPU_S)
    assert outcome.code is None
    assert outcome.peak_bytes < idle_bytes + BESIDE_BYTES


def test_writing_a_large_backup_takes_no_more_memory(idle_bytes: int) -> None:
    outcome = write_limited(80 * MIB, MEMORY_BYTES, CPU_S)
    assert outcome.peak_bytes < idle_bytes + BESIDE_BYTES
