"""Golden bytes: what was written once must be written so for ever, or the format gets another version."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from dataclasses import replace

import lz4.frame
import orjson
import torch
from blake3 import blake3
from support.caches import CacheSession
from support.manifests import manifest
from torpor.adapters.dynamic_cache import LiveCache
from torpor.codec import manifest_file
from torpor.codec.bundle import write_bundle
from torpor.codec.safetensors_file import write_safetensors
from torpor.codec.v1_write import Losses, write_v1
from torpor.state.manifest import BlobRef, Manifest

GOLDEN = (
    b'{"id":"01M81P35719XNDZ4R57NMV6DYZ","session_id":"s","created_at":1.0,"adapter":"transformers","layers":'
    b'{"metadata":{},"text_context":{},"tokens":{},"media":[],"vision_cache":{"v":{"$tensor":{"shape":[32],"dtype":'
    b'"uint8","kind":"torch","blocks":[{"digest":"'
    + b"c"
    * 64
    + b'","size_bytes":32}]}}}},"tokens":66,"parent_id":null,'
    b'"fingerprint":{"weights":"digest of part 0","quantization":"digest of part 1","adapters":"digest of part 2",'
    b'"text_config":"digest of part 3","rope_config":"digest of part 4","kv_dtype":"digest of part 5",'
    b'"kv_layout":"digest of part 6","cache_class":"digest of part 7","vision_weights":"digest of part 8",'
    b'"processor":"digest of part 9","tokenizer":"digest of part 10","chat_template":"digest of part 11"},'
    b'"kv_cache":{"layout":{"dtype":"bfloat16","batch":1,"layers":[{"heads":2,"key_dim":8,"value_dim":8}],'
    b'"block_tokens":64},"tokens":65,"cache_class":"DynamicCache","blocks":[{"digest":"' + b"a" * 64 + b'",'
    b'"size_bytes":4096},{"digest":"' + b"b" * 64 + b'","size_bytes":64}]},"omitted":{},"bytes_written":0,'
    b'"format":"qwen-state/v2"}'
)


def test_a_manifest_is_these_bytes() -> None:
    assert manifest_file.dump(manifest()) == GOLDEN
    assert manifest_file.load(GOLDEN) == manifest()


def test_a_block_is_these_bytes() -> None:
    """`[layer][K, V][batch][head][token][dim]`, little endian, nothing between."""
    session = CacheSession(layers=2, heads=2, dim=4, dtype=torch.int16)
    for layer in range(2):
        at = torch.arange(2 * 3 * 4, dtype=torch.int16).reshape(1, 2, 3, 4)
        session.cache.update(at + 1000 * layer, at + 1000 * layer + 500, layer)
    block = b"".join(LiveCache(session.cache).hold().block(1, 3))
    expected = [
        1000 * layer + 500 * kv + 12 * head + 4 * token + dim
        for layer in range(2)
        for kv in range(2)
        for head in range(2)
        for token in (1, 2)
        for dim in range(4)
    ]
    assert block == b"".join(n.to_bytes(2, "little") for n in expected)
    image = bytearray(len(block))
    LiveCache(session.cache).copy(1, 3, memoryview(image))
    assert bytes(image) == block


STATE = Manifest(
    id="01M81P35719XNDZ4R57NMV6DYZ",
    session_id="s",
    created_at=1.5,
    adapter="plain",
    layers={
        "metadata": {"model_name": "m"},
        "vision_cache": {
            "e": {"$tensor": {"shape": [1, 2], "dtype": "bfloat16", "kind": "torch", "data": "gD8AQA=="}},
            "n": {"$float": "nan"},
        },
    },
)


def test_a_v1_document_is_these_bytes() -> None:
    """What an LZ4 library makes of a text may change with its version; the texts may not."""
    raw = lz4.frame.decompress(b"".join(write_v1(STATE, no_blob, "0.1.0", Losses(), strict=False)))
    frame = orjson.loads(raw)["vision_cache"]["e"]["data"].encode()
    assert lz4.frame.decompress(base64.b64decode(frame)) == bytes.fromhex("803f0040")
    assert raw == (
        b'{"metadata":{"model_name":"m","version":"0.1.0","timestamp":1.5,"format":"qwen-state/v1","torpor.v1":'
        b'{"session_id":"s","backup_id":"01M81P35719XNDZ4R57NMV6DYZ","created_at":1.5,"layers":["metadata","vision_cache"],'
        b'"added":["version","timestamp","format"],"replaced":{}}},"vision_cache":{"e":{"shape":[1,2],'
        b'"dtype":"torch.bfloat16","data":"' + frame + b'","compressed":true},"n":{"$float":"nan"}},'
        b'"text_context":{},"config_snapshot":{}}'
    )


def test_a_bundle_is_these_bytes() -> None:
    blob = b"0123456789"
    digest = blake3(blob).hexdigest()
    tree = {"$bytes": {"size_bytes": 10, "blocks": [{"digest": digest, "size_bytes": 10}]}}
    raw = manifest_file.dump(replace(STATE, layers={"media": tree}))
    made = b"".join(write_bundle(raw, lambda ref: memoryview(blob)))
    packed = manifest_file.pack(raw)

    def member(name: str, data: bytes) -> bytes:
        head = name.encode().ljust(100, b"\0") + b"0000600\0" + b"0000000\0" * 2
        head += f"{len(data):011o}".encode() + b"\0" + b"0" * 11 + b"\0" + b" " * 8 + b"0" + bytes(100)
        head += b"ustar\x0000"
        head = head.ljust(512, b"\0")
        head = head[:148] + f"{sum(head):06o}".encode() + b"\0 " + head[156:]
        return head + data + bytes(-len(data) % 512)

    folder = "qwen-state-v2/"
    assert made == member(folder + "manifest.qwnbak", packed) + member(folder + f"blobs/{digest}", blob) + bytes(1024)
    with tarfile.open(fileobj=io.BytesIO(made)) as archive:
        assert archive.getnames() == [folder + "manifest.qwnbak", folder + f"blobs/{digest}"]


def test_a_safetensors_file_is_these_bytes() -> None:
    raw = manifest_file.dump(STATE)
    made = b"".join(write_safetensors(raw, no_blob))
    head = (
        b'{"__metadata__":{"format":"pt","torpor.manifest.blake3":"' + blake3(raw).hexdigest().encode() + b'",'
        b'"torpor.manifest":' + json.dumps(raw.decode()).encode() + b"},"
        b'"vision_cache.e":{"dtype":"BF16","shape":[1,2],"data_offsets":[0,4]}}'
    )
    head += b" " * (-len(head) % 8)
    assert made == len(head).to_bytes(8, "little") + head + bytes.fromhex("803f0040")


def no_blob(ref: BlobRef) -> memoryview:
    raise AssertionError(ref)
