"""One function per reader: it takes any bytes, and nothing but a `TorporError` may come out.

The `*_file` targets take a file as it is. Almost all of their mutants die at the first checksum, so each has a sibling
that takes what lies inside (JSON) and frames it soundly. What a reader accepts is held to its word: it has to survive
being stored, written and read again.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lz4.frame
import orjson
from blake3 import blake3
from support.shelf import Shelf
from torpor.codec import cold, manifest_file, torch_bridge, tree
from torpor.codec.bundle import MANIFEST_NAME, Bundle, header, write_bundle
from torpor.codec.leaves import LeafBuilder
from torpor.codec.safetensors_file import SafetensorsFile, write_safetensors
from torpor.codec.state_file import load_checked
from torpor.codec.v1_read import V1File
from torpor.codec.v1_write import Losses, write_v1
from torpor.state.errors import BlobNotFound, TooLarge, TorporError, UnsupportedState
from torpor.state.manifest import BlobRef, Manifest, manifest_blobs
from torpor.state.problems import from_problem, to_problem

Target = Callable[[bytes], object]

BACKUP_ID = "01M81P35719XNDZ4R57NMV6DYZ"
SMALL_BYTES = 64 << 10  # blobs that a document names are made up to this size


def only_known_errors(target: Target, data: bytes) -> str:
    """Run a target and return the code of its error. That has to be one that can be sent, logged and shown."""
    try:
        target(data)
    except TorporError as caught:
        error = caught
    else:
        return "none"
    sent = orjson.loads(orjson.dumps(to_problem(error)))
    assert type(from_problem(sent)) is type(error) is not TorporError
    assert error.detail.isprintable()
    return error.code


@contextmanager
def accepted(*but: type[TorporError]) -> Iterator[None]:
    """Hold a reader to what it took: from here on any error is a defect, `but` these."""
    try:
        yield
    except but:
        return
    except TorporError as error:
        raise AssertionError("what was read cannot be used") from error


def v1_file(data: bytes) -> None:
    """Any bytes as a v1 file."""
    _v1(data)


def v1_document(data: bytes) -> None:
    """Any bytes as the JSON of a v1 file; the text of a tensor that starts with `raw:` is framed as well."""
    try:
        document = orjson.loads(data)
        data = orjson.dumps(_with_frames(document))
    except (orjson.JSONDecodeError, TypeError, RecursionError):  # nothing to frame: as it is
        pass
    _v1(lz4.frame.compress(data))


def _with_frames(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_frames(item) for item in node]
    if isinstance(node, dict):
        return {key: _with_frames(item) for key, item in node.items()}
    if isinstance(node, str) and node.startswith("raw:"):
        return base64.b64encode(lz4.frame.compress(node[4:].encode())).decode()
    return node


def _v1(data: bytes) -> None:
    shelf = Shelf()
    found = V1File(io.BytesIO(data))
    layers: dict[str, Any] = dict(found.layers(LeafBuilder(shelf.put)))
    with accepted():
        saved = Manifest(BACKUP_ID, found.session_id or "s", found.created_at or 0.0, "plain", layers)
        assert set(manifest_blobs(saved)) == set(shelf)
        _kept(saved)
        _restore(saved, shelf.read_all)
    for strict in (False, True):
        with accepted(UnsupportedState, TooLarge):  # strict has no form for it; tags lie a little deeper
            file = b"".join(write_v1(saved, shelf.read, "0", Losses(), strict=strict))
            again = V1File(io.BytesIO(file)).layers(LeafBuilder(shelf.put))
            assert strict or orjson.dumps(again) == orjson.dumps(layers)


def _kept(manifest: Manifest) -> None:
    """Check that a manifest is the same after it was stored, the order of its keys included."""
    raw = manifest_file.dump(manifest)
    assert manifest_file.dump(load_checked(raw)) == raw
    assert load_checked(raw) == manifest


def _restore(manifest: Manifest, read: Callable[[list[BlobRef]], memoryview]) -> None:
    for layer in manifest.layers.values():
        tree.decode(layer, read, torch_bridge.from_leaf)


def v2_file(data: bytes) -> None:
    """Any bytes as a manifest file."""
    _manifest(manifest_file.unpack(data))


def v2_document(data: bytes) -> None:
    """Any bytes as the JSON of a manifest."""
    _manifest(manifest_file.unpack(manifest_file.pack(data)))


def _manifest(raw: bytes) -> None:
    manifest = load_checked(raw)
    manifest_blobs(manifest)
    with accepted(BlobNotFound, UnsupportedState):  # a blob that is too large to make up; a dtype of another torch
        _kept(manifest)
        _restore(manifest, lambda refs: memoryview(b"".join(_zeros(ref) for ref in refs)))


def _zeros(ref: BlobRef) -> bytes:
    if ref.size_bytes > SMALL_BYTES:
        raise BlobNotFound("not a blob that a test makes up")
    return bytes(ref.size_bytes)


def sealed(raw: bytes) -> bytes:
    """Put the digest of zeros wherever a manifest's JSON names a small blob, else no mutant had a blob that is right."""
    try:
        return orjson.dumps(_sealed(orjson.loads(raw)))
    except (orjson.JSONDecodeError, TypeError, RecursionError):
        return raw


def _sealed(node: Any) -> Any:
    if isinstance(node, list):
        return [_sealed(item) for item in node]
    if not isinstance(node, dict):
        return node
    size = node.get("size_bytes")
    if "digest" in node and type(size) is int and 0 <= size <= SMALL_BYTES:
        return {**node, "digest": blake3(bytes(size)).hexdigest()}
    return {key: _sealed(item) for key, item in node.items()}


def bundle_file(data: bytes) -> None:
    """Any bytes as a bundle."""
    bundle = Bundle(io.BytesIO(data), len(data))
    shelf = {ref.digest: bytes(blob) for ref, blob in bundle.blobs()}
    with accepted():
        _kept(bundle.manifest)
        _restore(bundle.manifest, lambda refs: memoryview(b"".join(shelf[ref.digest] for ref in refs)))
        again = b"".join(write_bundle(bundle.raw, lambda ref: memoryview(shelf[ref.digest])))
        assert Bundle(io.BytesIO(again), len(again)).manifest == bundle.manifest


def bundle_document(data: bytes) -> None:
    """Any bytes as the JSON of a bundle's manifest; its blobs are zeros."""
    raw = sealed(data)
    try:
        file = b"".join(write_bundle(raw, lambda ref: memoryview(_zeros(ref))))
    except TorporError:  # the writer would not; the reader has to say so too
        packed = manifest_file.pack(raw)
        file = header(MANIFEST_NAME, len(packed)) + packed + bytes(-len(packed) % 512) + bytes(1024)
    bundle_file(file)


def safetensors_file(data: bytes) -> None:
    """Any bytes as a safetensors file."""
    found, shelf = SafetensorsFile(io.BytesIO(data), len(data)), Shelf()
    if found.manifest is None:
        layers = found.layers(LeafBuilder(shelf.put))
        with accepted():
            saved = Manifest(BACKUP_ID, "s", 0.0, "plain", layers)
            _kept(saved)
            assert set(manifest_blobs(saved)) == set(shelf)
            _restore(saved, shelf.read_all)
        return
    for ref, blob in found.blobs():
        assert shelf.put(blob) == ref
    with accepted():
        _kept(found.manifest)
        _restore(found.manifest, shelf.read_all)


def safetensors_header(data: bytes) -> None:
    """Any bytes as the header of a safetensors file, with as much data behind it as it asks for."""
    try:
        table = orjson.loads(data)
    except orjson.JSONDecodeError:
        table = {}
    ends = [stop for stop in _stops(table) if 0 < stop <= 4 * SMALL_BYTES]
    safetensors_file(len(data).to_bytes(8, "little") + data + bytes(max(ends, default=0)))


def _stops(table: Any) -> Iterator[int]:
    for entry in table.values() if isinstance(table, dict) else ():
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if isinstance(offsets, list):
            yield from (n for n in offsets if type(n) is int)


def safetensors_backup(data: bytes) -> None:
    """Any bytes as the manifest of a backup that is exported as safetensors; its blobs are zeros."""
    raw = sealed(data)
    file = b"".join(write_safetensors(raw, lambda ref: memoryview(_zeros(ref))))
    with accepted():
        assert SafetensorsFile(io.BytesIO(file), len(file)).manifest == manifest_file.load(raw)
        safetensors_file(file)


def cold_file(data: bytes) -> None:
    """Any bytes as the cold form of a blob."""
    reader, found = cold.Unpacker(), list[bytes]()
    for piece in reader.feed(data):
        assert 0 < len(piece) <= cold.CHUNK_BYTES
        found.append(piece)
    reader.finish()
    raw = b"".join(found)
    with accepted():
        again = cold.Unpacker()
        assert b"".join(again.feed(b"".join(cold.pack(io.BytesIO(raw))))) == raw
        again.finish()


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        v1_document, v1_file, v2_document, v2_file, bundle_document, bundle_file,
        safetensors_header, safetensors_backup, safetensors_file, cold_file,
    )
}  # fmt: skip
# Those whose input is JSON are mutated as JSON.
DOCUMENTS = {name for name in TARGETS if not name.endswith("_file")}
