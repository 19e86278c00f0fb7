"""Files that nobody expected and that are sound all the same, and those that only look so."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import lz4.frame
import pytest
from support.manifests import manifest
from support.shelf import Shelf
from torpor.codec import manifest_file, torch_bridge, tree
from torpor.codec.leaves import LeafBuilder
from torpor.codec.safetensors_file import SafetensorsFile, write_safetensors
from torpor.codec.v1_read import V1File
from torpor.state.errors import FileDamaged, InvalidFile, TooLarge, TorporError, UnsupportedState
from torpor.state.manifest import BlobRef, KVCache, KVLayer, KVLayout

METADATA = {"model_name": "m", "version": "1", "timestamp": 1.5, "format": "qwen-state/v1"}


def packed(data: bytes, **options: Any) -> str:
    return base64.b64encode(lz4.frame.compress(data, **options)).decode()


def tensor(data: Any, size: int = 6, **changes: Any) -> dict[str, Any]:
    return {"shape": [size], "dtype": "uint8", "data": data, "compressed": True, **changes}


def read_text(text: bytes) -> dict[str, Any]:
    """Read the JSON of a v1 file; return its layers as values."""
    shelf = Shelf()
    layers = V1File(io.BytesIO(lz4.frame.compress(text))).layers(LeafBuilder(shelf.put))
    return {name: tree.decode(layer, shelf.read_all, torch_bridge.from_leaf) for name, layer in layers.items()}


def read(layers: dict[str, Any]) -> dict[str, Any]:
    return read_text(json.dumps({"metadata": METADATA, **layers}).encode())


def raw(value: Any) -> bytes:
    return bytes(value.numpy())


LARGE = bytes(range(256)) * 600
FRAMES = b"".join(lz4.frame.compress(part) for part in (b"abc", b"", b"def"))
TENSORS = {
    "not compressed": tensor(base64.b64encode(b"abcdef").decode(), compressed=False),
    "not compressed, in parts": tensor([base64.b64encode(b"abc").decode()] * 2, compressed=False),
    "several frames": tensor(base64.b64encode(FRAMES).decode()),
    "a frame a part": tensor([packed(b"abc"), packed(b"def")]),
    "a frame over two parts": tensor([base64.b64encode(FRAMES[:9]).decode(), base64.b64encode(FRAMES[9:]).decode()]),
    "block checksums": tensor(packed(b"abcdef", block_checksum=True, content_checksum=True)),
    "independent blocks": tensor(packed(b"abcdef", block_linked=False, store_size=False)),
    "data first": {"data": packed(b"abcdef"), "compressed": True, "dtype": "torch.uint8", "shape": [2, 3]},
    "two dimensions of one": tensor(packed(b"abcdef"), shape=[1, 6, 1]),
    "kind": tensor(packed(b"abcdef"), kind="torch"),
}  # fmt: skip


@pytest.mark.parametrize("node", TENSORS.values(), ids=TENSORS.keys())
@pytest.mark.parametrize("layer", ["vision_cache", "text_context", "config_snapshot", "notes"])
def test_tensors_of_any_form_in_any_layer(node: dict[str, Any], layer: str) -> None:
    found = read({layer: {"a": [node]}})
    value = found["metadata"]["other_layers"][layer] if layer == "notes" else found[layer]
    assert raw(value["a"][0].reshape(-1)) in (b"abcdef", b"abcabc")


@pytest.mark.parametrize("data", ["", [], [""], packed(b""), [packed(b"")]], ids=str)
@pytest.mark.parametrize("compressed", [True, False])
def test_empty_tensors(data: Any, compressed: bool) -> None:
    if data in ("", [], [""]) or compressed:
        (found,) = read({"vision_cache": [tensor(data, shape=[3, 0], compressed=compressed)]})["vision_cache"]
        assert found.shape == (3, 0)


@pytest.mark.parametrize("escape", ["/", "\\/"])
@pytest.mark.parametrize("indent", [None, 2])
def test_slashes_may_be_escaped_and_lines_broken(escape: str, indent: int | None) -> None:
    data = base64.b64encode(b"\xff" * 60_000).decode()
    document = {"vision_cache": tensor(data, 60_000, compressed=False), "metadata": METADATA}
    text = json.dumps(document, indent=indent).replace("/", escape)
    assert raw(read_text(text.encode())["vision_cache"]) == b"\xff" * 60_000
    assert raw(read_text(b"\xef\xbb\xbf \r\n\t" + text.encode() + b"\n\n")["vision_cache"]) == b"\xff" * 60_000


def test_keys_in_any_order_and_layers_that_nobody_knows() -> None:
    first = {"data": packed(LARGE), "shape": [len(LARGE)], "compressed": True, "dtype": "uint8"}
    found = read_text(
        json.dumps({"zz": "x" * 5000, "text_context": [first], "metadata": METADATA, "vision_cache": first}).encode()
    )
    assert raw(found["vision_cache"]) == raw(found["text_context"][0]) == LARGE
    assert found["metadata"]["other_layers"] == {"zz": "x" * 5000}


@pytest.mark.parametrize(
    "text", ["\ufeffBOM", "NUL \0", "CRLF\r\n", "\u2028\x7f\x85", '🙂é\\"/', "e\u0301", "\ud7ff\ue000\U0010ffff"]
)
@pytest.mark.parametrize("times", [1, 400, 12_000])
def test_texts_are_kept_exactly(text: str, times: int) -> None:
    for ascii_only in (True, False):
        document = {"metadata": METADATA, "text_context": {"t": text * times, "k": {text: 1}}}
        assert read_text(json.dumps(document, ensure_ascii=ascii_only).encode())["text_context"] == {
            "t": text * times,
            "k": {text: 1},
        }


def test_ten_thousand_tiny_tensors() -> None:
    nodes = [tensor(base64.b64encode(bytes([n % 256])).decode(), 1, compressed=False) for n in range(10_000)]
    assert [int(value[0]) for value in read({"vision_cache": nodes})["vision_cache"]] == [
        n % 256 for n in range(10_000)
    ]


WRONG: dict[str, tuple[dict[str, Any], type[TorporError]]] = {
    "too much": (tensor(packed(b"abcdefg")), TooLarge),
    "too much, not compressed": (tensor("YWJjZGVmZw==", compressed=False), TooLarge),
    "too little": (tensor(packed(b"abcde")), InvalidFile),
    "a frame cut short": (tensor(packed(b"abcdef")[:16]), InvalidFile),
    "bytes behind the frame": (tensor(base64.b64encode(FRAMES + b"xyz").decode()), InvalidFile),
    "white space": (tensor(packed(b"abcdef")[:8] + "\n" + packed(b"abcdef")[8:]), InvalidFile),
    "padding inside": (tensor("YQ==YmNkZWY=", compressed=False), InvalidFile),
    "URL alphabet": (tensor("__--__--", compressed=False), InvalidFile),
    "no padding": (tensor("YWJjZGVmZw", 7, compressed=False), InvalidFile),
    "not ASCII": (tensor("é" * 8, compressed=False), InvalidFile),
    "data is a number": (tensor(5), InvalidFile),
    "data is nothing": (tensor(None), InvalidFile),
    "a part is a number": (tensor(["YWJj", 5], compressed=False), InvalidFile),
    "compressed is a word": (tensor("", 0, compressed="lz4"), InvalidFile),
    "a key too many": (tensor("", 0, strides=[1]), InvalidFile),
    "an unknown kind": (tensor("", 0, kind="pickle"), InvalidFile),
    "a shape of floats": (tensor("", shape=[1.0]), InvalidFile),
    "a shape of truth": (tensor("AA==", shape=[True], compressed=False), InvalidFile),
    "no shape": (tensor("", shape=None), InvalidFile),
    "40 dimensions": (tensor("AA==", shape=[1] * 40, compressed=False), InvalidFile),
    "empty and huge": (tensor("", shape=[0, 1 << 62]), InvalidFile),
    "numpy has no such type": (tensor("AAA=", shape=[1], dtype="bfloat16", compressed=False, kind="numpy"), InvalidFile),
    "a scalar with a shape": (tensor("AA==", shape=[1], compressed=False, kind="numpy-scalar"), InvalidFile),
    "text far longer than the tensor": (tensor("AAAA" * 30_000), TooLarge),
    "a hundred thousand empty frames": (tensor(base64.b64encode(lz4.frame.compress(b"") * 100_000).decode(), 2_000_000), TooLarge),
}  # fmt: skip


@pytest.mark.parametrize(("node", "error"), WRONG.values(), ids=WRONG.keys())
def test_tensors_that_are_none_are_refused(node: dict[str, Any], error: type[TorporError]) -> None:
    with pytest.raises(TorporError) as caught:
        read({"vision_cache": {"a": node}})
    assert caught.type is error


def test_long_keys_are_refused_and_never_replaced() -> None:
    for layers in ({"k" * 2000: 1}, {"text_context": {"k" * 2000: 1}}, {"text_context": [{"k" * 2000: 1}]}):
        with pytest.raises(TooLarge):
            read(layers)


def test_integers_survive_as_long_as_python_reads_them() -> None:
    assert read({"config_snapshot": [10**3999, -(1 << 64), 1 << 63]})["config_snapshot"] == [
        10**3999,
        -(1 << 64),
        1 << 63,
    ]
    with pytest.raises(UnsupportedState):
        read_text(b'{"metadata":{"format":"qwen-state/v1"},"config_snapshot":1' + b"0" * 4100 + b"}")


def safetensors(header: Any, data: bytes = b"") -> SafetensorsFile:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file = len(text).to_bytes(8, "little") + text + data
    return SafetensorsFile(io.BytesIO(file), len(file))


ENTRY = {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}
EMPTY = {"dtype": "F32", "shape": [0, 5], "data_offsets": [2, 2]}


@pytest.mark.parametrize(
    "about", [None, {}, {"format": "pt"}, {"epoch": 3, "x": [None, 1.5, True]}, {"a": "é" * 3000}], ids=str
)
def test_safetensors_of_other_programs(about: Any) -> None:
    header = {"z": EMPTY, "a": ENTRY} if about is None else {"__metadata__": about, "z": EMPTY, "a": ENTRY}
    shelf = Shelf()
    layers = safetensors(json.dumps(header).encode() + b"   ", b"xy").layers(LeafBuilder(shelf.put))
    value = {name: tree.decode(layer, shelf.read_all, torch_bridge.from_leaf) for name, layer in layers.items()}
    assert value["metadata"] == {"format": "safetensors", "header": about or {}}
    assert raw(value["vision_cache"]["a"]) == b"xy"
    assert value["vision_cache"]["z"].shape == (0, 5)


SAFETENSORS_WRONG: dict[str, tuple[Any, bytes]] = {
    "a hole": ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [3, 5]}}, b"xxxxx"), "an overlap": ({"a": ENTRY, "b": {**ENTRY, "data_offsets": [1, 3]}}, b"xxx"),
    "the same twice": ({"a": ENTRY, "b": ENTRY}, b"xx"), "bytes behind": ({"a": ENTRY}, b"xxx"), "cut short": ({"a": ENTRY}, b"x"),
    "backwards": ({"a": {**ENTRY, "data_offsets": [2, 0]}}, b"xx"), "negative": ({"a": {**ENTRY, "data_offsets": [-2, 0]}}, b"xx"),
    "offsets of floats": ({"a": {**ENTRY, "data_offsets": [0.0, 2.0]}}, b"xx"), "three offsets": ({"a": {**ENTRY, "data_offsets": [0, 1, 2]}}, b"xx"),
    "shape lies": ({"a": {**ENTRY, "shape": [3]}}, b"xx"), "unknown dtype": ({"a": {**ENTRY, "dtype": "F4"}}, b"xx"),
    "huge shape": ({"a": {**ENTRY, "shape": [1 << 60, 1 << 60]}}, b"xx"), "shape is text": ({"a": {**ENTRY, "shape": "2"}}, b"xx"),
    "entry is a list": ({"a": [ENTRY]}, b"xx"), "metadata is a list": ({"__metadata__": [1]}, b""), "a list": ([], b""), "not JSON": (b"{", b""),
    "key twice": (b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', b""),
    "a digest alone": ({"__metadata__": {"torpor.manifest.blake3": "a" * 64}}, b""), "no digest": ({"__metadata__": {"torpor.manifest": "{}"}}, b""),
    "long name": ({"n" * 2000: ENTRY}, b"xx"), "long name of metadata": ({"__metadata__": {"n" * 2000: "x"}}, b""),
}  # fmt: skip


@pytest.mark.parametrize(("header", "data"), SAFETENSORS_WRONG.values(), ids=SAFETENSORS_WRONG.keys())
def test_unsound_safetensors_are_refused(header: Any, data: bytes) -> None:
    with pytest.raises((FileDamaged, InvalidFile, TooLarge)):
        safetensors(header, data).layers(LeafBuilder(Shelf().put))


@pytest.mark.parametrize("length", [0, 9, 1 << 20, 100_000_001, (1 << 64) - 1])
def test_a_header_longer_than_the_file_takes_no_memory(length: int) -> None:
    file = length.to_bytes(8, "little") + b"{}"
    with pytest.raises((FileDamaged, InvalidFile)):
        SafetensorsFile(io.BytesIO(file), len(file))


def test_entries_are_counted_before_they_are_made() -> None:
    """Two lists of a manifest multiply: layers that differ, and blocks."""
    layers = (KVLayer(1, 1, 1), *[KVLayer(1, 1, 2)] * 2000)
    layout = KVLayout("int8", 1, layers, block_tokens=1)
    blocks = tuple(BlobRef(f"{n:064x}", layout.token_bytes()) for n in range(2000))
    raw = manifest_file.dump(manifest(layers={}, kv_cache=KVCache(layout, len(blocks), "DynamicCache", blocks)))
    with pytest.raises(TooLarge, match="8004000 tensors"):
        next(iter(write_safetensors(raw, lambda ref: memoryview(b""))))
