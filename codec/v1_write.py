"""Write `qwen-state/v1`: the four plain layers of a manifest as one LZ4 frame of JSON, a piece at a time.

What v1 has no words for is carried by the tags of codec/tree.py, announced in `metadata`; tensors keep their dtype, and
those of more than one chunk are written as a list of base64 texts, an LZ4 frame each. `strict` writes what the first
reader of the format understood: no tags, one text a tensor, float16 only; whatever that changes is reported.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import lz4.frame
import orjson

from ..state.errors import UnsupportedState
from ..state.manifest import Manifest
from ..state.tensors import TensorSpec
from .json_scan import LIFT_BYTES
from .leaves import ReadBlob, leaf_pieces
from .lz4_stream import PIECE_BYTES
from .state_file import PLAIN_LAYERS
from .torch_bridge import to_half
from .tree import INLINE_BYTES, below, leaf_size, leaf_spec
from .v1_read import FORMAT, OURS

_BUNDLE_HINT = "Export a bundle: `--format bundle` carries everything."
_FRAME_BYTES = 64 << 10  # of packed bytes: what is handed on at once


@dataclass(slots=True)
class Losses:
    """What a file does not carry: `changed` values by path, and layers that were left out, each with the reason."""

    changed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def write_v1(manifest: Manifest, read: ReadBlob, version: str, losses: Losses, *, strict: bool) -> Iterator[bytes]:
    """Yield the file of a backup; `losses` is complete when the last piece has been taken.

    Raises: UnsupportedState (strict only), InvalidManifest, BlobNotFound, BlobDamaged.
    """
    for name in manifest.present_layers():
        if name not in PLAIN_LAYERS:
            losses.left_out[name] = f"{FORMAT} has no place for it"
    if any(manifest.fingerprint.to_dict().values()):
        losses.left_out["fingerprint"] = (
            f"{FORMAT} has no place for it, so no model will take the embeddings for its own"
        )
    writer = _Writer(read, losses, strict)
    document = {name: manifest.layers.get(name, {}) for name in PLAIN_LAYERS}
    document["metadata"] = _metadata(manifest, version, losses, strict)
    return _framed(writer.node(document, "", top=True))


def _framed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    with lz4.frame.LZ4FrameCompressor(content_checksum=True) as packer:
        ready = bytearray(packer.begin())
        for piece in pieces:
            ready += packer.compress(piece)
            if len(ready) >= _FRAME_BYTES:
                yield bytes(ready)
                ready.clear()
        yield bytes(ready + packer.flush())


def _metadata(manifest: Manifest, version: str, losses: Losses, strict: bool) -> dict[str, Any]:
    """Return the metadata that v1 wants; what had to be added or replaced is noted, so that it can be undone."""
    saved = manifest.layers.get("metadata", {})
    plain = saved if _has_room(saved) else None
    wanted = {"model_name": "", "version": version, "timestamp": manifest.created_at}
    metadata = dict(plain or {})
    metadata |= {key: value for key, value in wanted.items() if key not in metadata} | {"format": FORMAT}
    if strict and plain is None:
        raise UnsupportedState(f"{FORMAT} wants metadata with text keys, none of them {OURS!r} nor those of a tensor")
    if strict:
        if plain and plain.get("format", FORMAT) != FORMAT:
            losses.changed["/metadata/format"] = f"became {FORMAT}"
        return metadata
    about: dict[str, Any] = {"session_id": manifest.session_id, "backup_id": manifest.id}
    about["created_at"] = manifest.created_at  # the user's own timestamp may be another
    about["layers"] = [name for name in PLAIN_LAYERS if name in manifest.layers]
    about["added"] = [key for key in metadata if key not in (plain or {})]
    about["replaced"] = {"format": plain["format"]} if plain and "format" in plain else {}
    if plain is None:
        about["metadata"] = saved
    return {**metadata, OURS: about}


def _has_room(metadata: Any) -> bool:
    """Tell whether `metadata` is a plain object to which our own key can be added."""
    if not isinstance(metadata, dict) or _like_a_tensor(metadata):
        return False
    return not next(iter(metadata), "").startswith("$") and OURS not in metadata


def _like_a_tensor(node: dict[str, Any]) -> bool:
    return node.keys() >= {"shape", "dtype", "data", "compressed"}


class _Writer:
    def __init__(self, read: ReadBlob, losses: Losses, strict: bool) -> None:
        self._read, self._losses, self._strict = read, losses, strict

    def node(self, node: Any, path: str, *, top: bool = False) -> Iterator[bytes]:
        if isinstance(node, list):
            return self._list(node, path)
        if not isinstance(node, dict):
            return iter((orjson.dumps(node),))
        tag = next(iter(node), "")
        if tag.startswith("$") and not top:
            return self._tag(tag, node[tag], path)
        if _like_a_tensor(node):  # and would be read as one
            if self._strict:
                raise _no_form(path, "dict that looks like a tensor")
            return self._map([[key, value] for key, value in node.items()], path)
        return self._object(node.items(), path)

    def _list(self, items: Iterable[Any], path: str) -> Iterator[bytes]:
        yield b"["
        for i, item in enumerate(items):
            if i:
                yield b","
            yield from self.node(item, below(path, f"/{i}"))
        yield b"]"

    def _object(self, items: Iterable[tuple[str, Any]], path: str) -> Iterator[bytes]:
        yield b"{"
        for i, (key, value) in enumerate(items):
            text = orjson.dumps(key)
            if len(text) > LIFT_BYTES:
                raise UnsupportedState(f"{path[:200]}: {FORMAT} has no form for a key this long", hint=_BUNDLE_HINT)
            yield (b"," if i else b"") + text + b":"
            yield from self.node(value, below(path, f"/{key}"))
        yield b"}"

    def _tag(self, tag: str, body: Any, path: str) -> Iterator[bytes]:
        if tag in ("$tensor", "$bytes"):
            return self._tensor(tag, body, path)
        if tag == "$text":
            return self._text(leaf_pieces(body, leaf_size(body), self._read))
        if self._strict:
            return self._strictly(tag, body, path)
        return self._object([(tag, body)], path) if tag != "$map" else self._map(body, path)

    def _map(self, pairs: list[Any], path: str) -> Iterator[bytes]:
        yield b'{"$map":'
        yield from self._list(pairs, path)
        yield b"}"

    def _strictly(self, tag: str, body: Any, path: str) -> Iterator[bytes]:
        if tag == "$tuple":
            self._losses.changed[path] = "a tuple became a list"
            return self._list(body, path)
        if tag == "$map":
            keys = [_text_key(key) for key, _ in body]
            if None not in keys and len(set(keys)) == len(keys):
                if not all(isinstance(key, str) for key, _ in body):
                    self._losses.changed[path] = "keys that are no text became text"
                return self._object([(str(key), value) for key, (_, value) in zip(keys, body, strict=True)], path)
        raise _no_form(path, tag)

    def _text(self, pieces: Iterable[memoryview]) -> Iterator[bytes]:
        yield b'"'
        rest = b""
        for piece in _cut(pieces):
            data = rest + bytes(piece)
            cut = _character_end(data)
            data, rest = data[:cut], data[cut:]
            yield orjson.dumps(data.decode())[1:-1]
        yield b'"'

    def _tensor(self, tag: str, body: dict[str, Any], path: str) -> Iterator[bytes]:
        if tag == "$bytes":
            spec, kind = TensorSpec((leaf_size(body),), "uint8"), "bytes"
        else:
            spec, kind = leaf_spec(body), str(body.get("kind"))
        pieces = leaf_pieces(body, spec.size_bytes, self._read)
        if self._strict:
            if kind == "bytes":
                raise _no_form(path, tag)
            return self._half(spec, kind, pieces, path)
        name = spec.dtype if kind != "torch" else f"torch.{spec.dtype}"
        extra = b"" if kind == "torch" else b',"kind":' + orjson.dumps(kind)
        return self._tensor_text(spec, name, pieces, extra)

    def _half(self, spec: TensorSpec, kind: str, pieces: Iterable[memoryview], path: str) -> Iterator[bytes]:
        became = [] if kind == "torch" else [f"a {kind} value became a tensor"]
        counts = [0, 0]

        def halved() -> Iterator[memoryview]:
            for piece in pieces:
                data, changed, infinite = to_half(piece, spec.dtype, path)
                counts[0], counts[1] = counts[0] + changed, counts[1] + infinite
                yield data

        half = TensorSpec(spec.shape, "float16")
        yield from self._tensor_text(half, "torch.float16", halved(), b"")
        if spec.dtype != "float16":
            total = half.size_bytes // 2
            infinite = f", {counts[1]} became infinite" if counts[1] else ""
            became.append(f"{spec.dtype} became float16: {counts[0]} of {total} values changed{infinite}")
        if became:
            self._losses.changed[path] = ", ".join(became)

    def _tensor_text(self, spec: TensorSpec, dtype: str, pieces: Iterable[memoryview], extra: bytes) -> Iterator[bytes]:
        yield b'{"shape":' + orjson.dumps(spec.shape) + b',"dtype":' + orjson.dumps(dtype) + b',"data":'
        yield from _one_text(pieces) if self._strict or spec.size_bytes <= INLINE_BYTES else _texts(pieces)
        yield b',"compressed":true' + extra + b"}"


def _texts(pieces: Iterable[memoryview]) -> Iterator[bytes]:
    yield b"["
    for i, piece in enumerate(_cut(pieces)):
        yield (b',"' if i else b'"') + base64.b64encode(lz4.frame.compress(piece)) + b'"'
    yield b"]"


def _one_text(pieces: Iterable[memoryview]) -> Iterator[bytes]:
    """Yield one base64 text of one LZ4 frame, whatever its length: bytes are handed on three at a time."""
    yield b'"'
    rest = b""
    for packed in _framed_data(pieces):
        data = rest + packed
        cut = len(data) - len(data) % 3
        yield base64.b64encode(data[:cut])
        rest = data[cut:]
    yield base64.b64encode(rest) + b'"'


def _framed_data(pieces: Iterable[memoryview]) -> Iterator[bytes]:
    with lz4.frame.LZ4FrameCompressor() as packer:
        yield packer.begin()
        for piece in _cut(pieces):
            yield packer.compress(piece)
        yield packer.flush()


def _cut(pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """Cut pieces up: each is held as itself, packed, as base64 and packed again."""
    for piece in pieces:
        for at in range(0, piece.nbytes, PIECE_BYTES):
            yield piece[at : at + PIECE_BYTES]


def _no_form(path: str, what: str) -> UnsupportedState:
    return UnsupportedState(f"{path}: strict {FORMAT} has no form for a {what}", hint="Export without --v1-strict.")


def _text_key(node: Any) -> str | None:
    if isinstance(node, bool) or node is None:
        return None
    return str(node) if isinstance(node, (str, int)) else None


def _character_end(data: bytes) -> int:
    """Return where the last whole UTF-8 character ends."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte >= 0xC0:
            return len(data) - back if back < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4) else len(data)
        if byte < 0x80:
            break
    return len(data)
