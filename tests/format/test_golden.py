"""Golden bytes: what was written once must be written so for ever, or the format gets another version."""

from __future__ import annotations

import torch
from support.caches import CacheSession
from support.manifests import manifest
from torpor.adapters.dynamic_cache import LiveCache
from torpor.codec import manifest_file

GOLDEN = (
    b'{"id":"01M81P35719XNDZ4R57NMV6DYZ","session_id":"s","created_at":1.0,"adapter":"transformers","layers":'
    b'{"metadata":{},"text_context":{},"tokens":{},"media":[],"vision_cache":{"v":{"$tensor":{"shape":[32],"dtype":'
    b'"uint8","blocks":[{"digest":"' + b"c" * 64 + b'","size_bytes":32}]}}}},"tokens":66,"parent_id":null,'
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
