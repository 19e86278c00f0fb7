"""Backups as safetensors files, for other tools; and safetensors files of other programs as plain states.

Ours carry the whole backup: the manifest and its digest lie in `__metadata__`, every tensor is an entry under its path
in the state, and each block of the KV cache is an entry `kv_cache.block.<n>` of the shape `[layer, 2, batch, head,
token, dim]`.
Format: https://huggingface.co/docs/safetensors (8 bytes of length, a JSON header, the data without holes).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from blake3 import blake3

from ..state.errors import FileDamaged, InvalidFile, InvalidManifest, TooLarge
from ..state.manifest import BlobRef, KVCache, Manifest, block_ranges, leaf_refs, manifest_blobs
from ..state.tensors import DTYPE_SIZES, TensorSpec
from . import manifest_file, tree
from .json_scan import scan, unescape
from .leaves import Leaves, ReadBlob
from .lz4_stream import PIECE_BYTES
from .state_file import load_checked
from .tree import leaf_size, leaf_spec

OURS, DIGEST = "torpor.manifest", "torpor.manifest.blake3"  # keys of `__metadata__`; nothing else covers the header
MAX_ENTRIES = 1 << 15  # what codec/json_scan.py reads of them; 256K tokens of a uniform cache are 4,096
MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library
_MAX_NAME_BYTES = 512  # of a tensor's name in the header, where the reader lifts strings of 1 KiB out
_NAME_KEPT = 60  # characters, each of at most six bytes
_NAMES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "uint16": "U16", "int16": "I16", "uint32": "U32", "int32": "I32",
    "uint64": "U64", "int64": "I64", "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2", "float8_e8m0fnu": "F8_E8M0", "complex64": "C64",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file, by the names of the format."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    size_bytes: int

    @property
    def spec(self) -> TensorSpec:
        """Return shape and dtype by our names."""
        return TensorSpec(self.shape, _DTYPES[self.dtype])


@dataclass(frozen=True, slots=True)
class _Group:
    """Entries whose bytes follow one another, and where those come from: blobs, or a text of base64."""

    entries: list[Entry]
    refs: list[BlobRef] = field(default_factory=list)
    inline: str | None = None

    @property
    def width(self) -> int:
        """Return the bytes of an element: wider ones go first, so that every entry is aligned."""
        return DTYPE_SIZES[_DTYPES[self.entries[0].dtype]]


def _groups(manifest: Manifest) -> list[_Group]:
    taken: dict[str, int] = {}
    found = [group for name, layer in manifest.layers.items() for group in _leaves(layer, name, taken)]
    if manifest.kv_cache is not None:
        found += _kv_groups(manifest.kv_cache)
    return sorted(found, key=lambda group: -group.width)


def _leaves(node: Any, path: str, taken: dict[str, int]) -> Iterator[_Group]:
    if isinstance(node, list):
        for i, item in enumerate(node):
            yield from _leaves(item, tree.below(path, f".{i}"), taken)
    elif isinstance(node, dict):
        tag = next(iter(node), "")
        if tag in ("$tensor", "$bytes", "$text") and isinstance(node[tag], dict):
            yield from _leaf(tag, node[tag], path, taken)
        elif tag == "$map":
            for i, (key, value) in enumerate(node[tag]):
                yield from _leaves(key, tree.below(path, f".key {i}"), taken)  # a long text lies in blobs too
                named = key if isinstance(key, (str, int)) else i
                yield from _leaves(value, tree.below(path, f".{named}"), taken)
        else:
            for key, value in node.items():
                yield from _leaves(value, path if tag == "$tuple" else tree.below(path, f".{key}"), taken)


def _leaf(tag: str, body: dict[str, Any], path: str, taken: dict[str, int]) -> Iterator[_Group]:
    if tag != "$tensor" and "blocks" not in body:
        return  # short bytes lie in the manifest alone
    spec = leaf_spec(body) if tag == "$tensor" else TensorSpec((leaf_size(body),), "uint8")
    if spec.dtype not in _NAMES:
        spec = TensorSpec((spec.size_bytes,), "uint8")  # the manifest knows what it is
    entry = Entry(_free_name(path, taken), _NAMES[spec.dtype], spec.shape, spec.size_bytes)
    if "data" in body:
        yield _Group([entry], inline=str(body["data"]))
    else:
        yield _Group([entry], list(leaf_refs(body["blocks"])))


def _free_name(path: str, taken: dict[str, int]) -> str:
    """Return the path, or the path with a number where two values have the same (`a.b`, and `b` in `a`).

    One that is too long for a header becomes its beginning and its digest.
    """
    if len(json.dumps(path, ensure_ascii=False).encode()) > _MAX_NAME_BYTES:
        path = f"{path[:_NAME_KEPT]}…{blake3(path.encode()).hexdigest()[:32]}"
    name = path
    while name in taken:
        taken[path] += 1
        name = f"{path}#{taken[path]}"
    taken[name] = 1
    return name


def _kv_groups(kv: KVCache) -> Iterator[_Group]:
    layout = kv.layout
    first, size = layout.layers[0], DTYPE_SIZES[layout.dtype]
    uniform = first.key_dim == first.value_dim and all(layer == first for layer in layout.layers)
    count = len(kv.blocks) * (1 if uniform else 2 * len(layout.layers))
    if count > MAX_ENTRIES:  # before they are made: both factors come from a file
        raise TooLarge(f"{count} tensors (at most {MAX_ENTRIES})", hint="Export a bundle.")
    dtype = _NAMES.get(layout.dtype, "U8")
    for i, (start, stop) in enumerate(block_ranges(kv.tokens, layout.block_tokens)):
        name, tokens = f"kv_cache.block.{i:06}", stop - start
        shapes: dict[str, tuple[int, ...]] = {
            name: (len(layout.layers), 2, layout.batch, first.heads, tokens, first.key_dim)
        }
        if not uniform:
            shapes = {
                f"{name}.{part}.{n}": (layout.batch, layer.heads, tokens, dim)
                for n, layer in enumerate(layout.layers)
                for part, dim in (("key", layer.key_dim), ("value", layer.value_dim))
            }
        entries = [Entry(n, dtype, s, _count(s) * size) for n, s in shapes.items()]
        if dtype == "U8" and layout.dtype != "uint8":
            entries = [Entry(e.name, dtype, (e.size_bytes,), e.size_bytes) for e in entries]
        yield _Group(entries, [kv.blocks[i]])


def _count(shape: Iterable[int]) -> int:
    count = 1
    for n in shape:
        count *= n
    return count


def _header(entries: list[Entry], metadata: dict[str, str]) -> bytes:
    table: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for entry in entries:
        offsets = [at, at + entry.size_bytes]
        table[entry.name] = {"dtype": entry.dtype, "shape": entry.shape, "data_offsets": offsets}
        at += entry.size_bytes
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER_BYTES:
        raise TooLarge(f"a header of {len(text)} bytes, safetensors takes {MAX_HEADER_BYTES}", hint="Export a bundle.")
    return len(text).to_bytes(8, "little") + text


def write_safetensors(raw: bytes, read: ReadBlob) -> Iterator[bytes | memoryview]:
    """Yield a backup as a safetensors file; `raw` is the manifest's JSON.

    Raises: TooLarge, InvalidManifest, and what `read` raises.
    """
    groups = _groups(load_checked(raw))
    metadata = {"format": "pt", DIGEST: manifest_file.digest_of(raw), OURS: raw.decode()}
    yield _header([entry for group in groups for entry in group.entries], metadata)
    for group in groups:
        if group.inline is not None:
            yield base64.b64decode(group.inline)
        for ref in group.refs:
            yield read(ref)


class SafetensorsFile:
    """A safetensors file whose header has been read and checked. Raises: FileDamaged, InvalidFile, TooLarge.

    The data of `entries` lies from `data_at` on, one after the other without holes.
    """

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file = file
        file.seek(0)
        length = int.from_bytes(file.read(8), "little")
        if length > min(MAX_HEADER_BYTES, size_bytes - 8):
            raise FileDamaged(f"the header should have {length} bytes, the file has {size_bytes}")
        self._skeleton = scan(_slices(file, length))
        self.data_at = 8 + length
        table = self._skeleton.value
        metadata = (table.pop("__metadata__", None) or {}) if isinstance(table, dict) else None
        if not isinstance(metadata, dict):
            raise InvalidFile("the header is not a table of tensors")
        self._metadata: dict[str, Any] = metadata
        if any(self._skeleton.lifted(name) is not None for name in (*table, *self._metadata)):
            raise TooLarge("a name of more than a thousand bytes", hint="")
        self.entries = _entries(table, size_bytes - self.data_at)
        self.manifest = self._own_manifest()

    def _long_text(self, span: int) -> Iterator[bytes]:
        where = self._skeleton.spans[span]
        self._file.seek(8 + where.start)
        return unescape(_slices(self._file, where.stop - where.start))

    def _own_manifest(self) -> Manifest | None:
        text = self._metadata.get(OURS)
        if not isinstance(text, str):
            if DIGEST in self._metadata:
                raise FileDamaged("the digest of a manifest stands there, and no manifest")
            return None
        span = self._skeleton.lifted(text)
        raw = text.encode() if span is None else b"".join(self._long_text(span))
        if manifest_file.digest_of(raw) != self._metadata.get(DIGEST):
            raise FileDamaged("the manifest does not match its digest")
        try:
            manifest = load_checked(raw)
            self._groups = _groups(manifest)
        except InvalidManifest as error:
            raise InvalidFile(error.detail) from error
        if [entry for group in self._groups for entry in group.entries] != self.entries:
            raise InvalidFile("the tensors are not those that the manifest names")
        held = {ref.digest for group in self._groups for ref in group.refs}
        if held != manifest_blobs(manifest).keys():  # it must not lay hands on what the store holds of others
            raise InvalidFile("the manifest names a blob that no tensor of the file holds")
        return manifest

    def blobs(self) -> Iterator[tuple[BlobRef, memoryview]]:
        """Yield the blobs of a backup of ours, verified. Raises: FileDamaged."""
        self._file.seek(self.data_at)
        for group in self._groups:
            if group.inline is not None and self._read(group.entries[0].size_bytes) != _unbase64(group.inline):
                raise FileDamaged(f"{group.entries[0].name} is not what the manifest holds")
            for ref in group.refs:
                data = self._read(ref.size_bytes)
                if blake3(data).hexdigest() != ref.digest:
                    raise FileDamaged(f"{group.entries[0].name} does not match its digest")
                yield ref, memoryview(data)

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) != count:
            raise FileDamaged("the file ends early")
        return data

    def layers(self, leaves: Leaves) -> dict[str, Any]:
        """Return another program's file as a plain state: what its header says of itself, and its tensors by name.

        Raises: FileDamaged, InvalidFile, UnsupportedState, and what storing raises.
        """
        header = self._with_texts(self._metadata, leaves)
        self._file.seek(self.data_at)
        tensors = {entry.name: tree.Encoded(self._tensor(entry, leaves)) for entry in self.entries}
        named = {"metadata": {"format": "safetensors", "header": header}, "vision_cache": tensors}
        return {name: tree.encode(layer, _encoded).value for name, layer in named.items()}

    def _tensor(self, entry: Entry, leaves: Leaves) -> Any:
        return leaves.tensor(entry.spec, "torch", _slices(self._file, entry.size_bytes))

    def _with_texts(self, value: Any, leaves: Leaves) -> Any:
        """Return a part of the header with its long texts stored."""
        if isinstance(value, dict):
            return {key: self._with_texts(item, leaves) for key, item in value.items()}
        if isinstance(value, list):
            return [self._with_texts(item, leaves) for item in value]
        span = self._skeleton.lifted(value)
        return value if span is None else tree.Encoded(leaves.text(self._long_text(span)))


def _encoded(value: Any) -> tree.Encoded | None:
    return value if isinstance(value, tree.Encoded) else None


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise InvalidFile("the manifest holds a value that is not base64") from None


def _slices(file: BinaryIO, count: int) -> Iterator[bytes]:
    while count:
        data = file.read(min(count, PIECE_BYTES))
        if not data:
            raise FileDamaged("the file ends early")
        count -= len(data)
        yield data


def _entries(table: dict[str, Any], data_bytes: int) -> list[Entry]:
    """Return the entries in the order of their data, which must be whole: no hole, no overlap, nothing behind."""
    found = sorted((_entry(name, value) for name, value in table.items()), key=lambda pair: pair[0])
    at = 0
    for (start, stop), entry in found:
        if start != at or stop - start != entry.size_bytes:
            raise InvalidFile(f"{entry.name[:80]} does not lie where the one before it ends")
        at = stop
    if at != data_bytes:
        raise FileDamaged(f"the tensors have {at} bytes, the file holds {data_bytes}")
    return [entry for _, entry in found]


def _entry(name: str, value: Any) -> tuple[tuple[int, int], Entry]:
    try:
        dtype, shape, (start, stop) = value["dtype"], value["shape"], value["data_offsets"]
        spec = TensorSpec(tuple(shape), _DTYPES[dtype])
    except InvalidManifest as error:
        raise InvalidFile(f"{name[:80]}: {error.detail}") from error
    except (TypeError, KeyError, ValueError) as error:
        raise InvalidFile(f"{name[:80]} is not a tensor of a known dtype") from error
    if type(start) is not int or type(stop) is not int:
        raise InvalidFile(f"{name[:80]} has offsets that are no numbers")
    return (start, stop), Entry(name, dtype, spec.shape, spec.size_bytes)
