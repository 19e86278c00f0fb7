"""Read `qwen-state/v1`: one LZ4 frame of JSON with the four plain layers, tensors as base64 of LZ4 frames.

The file is read twice and never held: first its structure (codec/json_scan.py), then its long strings in their order.
Everything that the structure says is checked before the first tensor is stored.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

from ..state.errors import FileDamaged, InvalidFile, InvalidManifest, NewerFormat, TooLarge, UnknownFormat
from ..state.manifest import LayerName
from ..state.tensors import TensorSpec
from . import tree
from .json_scan import Skeleton, read_spans, scan, unescape
from .leaves import Leaves
from .lz4_stream import inflate, inflate_file
from .state_file import check_tree, leaf_fits, plain_layers, session_in, time_in

FORMAT = "qwen-state/v1"
# Key of `metadata` in files that Torpor wrote: what v1 itself has no words for.
OURS = "torpor.v1"
MAX_TEXT_BYTES = 1 << 30  # of all long strings that are no tensors: hundreds of pictures inside a conversation
# A tensor's text is at most this much longer than the tensor: base64, LZ4's worst case, and a frame a chunk. A file
# compresses 255 times, so what is allowed beside it can be had for nothing, once a tensor.
_MOST_PER_BYTE, _MOST_BESIDE = 2, 64 << 10

_TENSOR_KEYS = {"shape", "dtype", "data", "compressed"}
_KNOWN_KEYS = {*_TENSOR_KEYS, "kind"}
_KINDS = ("torch", "numpy", "numpy-scalar", "bytes")


@dataclass(slots=True)
class _Tensor:
    """A tensor in the structure; `strings` are its base64 texts, or the numbers of their spans."""

    path: str
    spec: TensorSpec
    kind: str
    compressed: bool
    strings: list[str | int]
    node: Any = None


@dataclass(slots=True)
class _Text:
    span: int
    node: Any = None


class V1File:
    """A file whose structure has been read and checked.

    Its own time is in seconds since the epoch. Raises: UnknownFormat, NewerFormat, FileDamaged, InvalidFile, TooLarge.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._skeleton = file, scan(inflate_file(file))
        document = self._skeleton.value
        check_format(document)
        metadata = document["metadata"]
        self._about = metadata.pop(OURS) if isinstance(metadata.get(OURS), dict) else None
        self._found = _Structure(self._skeleton, self._about is not None)
        self._found.check_keys(document, "the document")
        self._layers = {name: self._found.walk(value, f"/{name}") for name, value in document.items()}
        if self._about is not None:
            self._about = self._found.walk(self._about, f"/metadata/{OURS}")
            if not isinstance(self._about, dict):
                raise InvalidFile(f"/metadata/{OURS} is not what Torpor writes")
        self._found.check_text()
        self.created_at = time_in(metadata.get("timestamp") if self._about is None else self._about.get("created_at"))
        self.session_id = session_in((metadata if self._about is None else self._about).get("session_id"))

    @property
    def ours(self) -> bool:
        """Whether Torpor wrote the file."""
        return self._about is not None

    def layers(self, leaves: Leaves) -> dict[LayerName, Any]:
        """Return the layers, their leaves stored. May be called once.

        Raises: FileDamaged, InvalidFile, TooLarge, UnsupportedState, and what storing raises.
        """
        _read_strings(self._file, self._skeleton, self._found.leaves, leaves)
        tagged = self._about is not None
        named = plain_layers(self._layers)
        self._layers.clear()
        made = {name: _encode(named.pop(name), tagged) for name in list(named)}
        return made if self._about is None else _as_saved(made, self._about)


def check_format(document: Any) -> None:
    """Make sure that a document says it is of this format. Raises: InvalidFile, UnknownFormat, NewerFormat."""
    if not isinstance(document, dict):
        raise InvalidFile(f"the document is a {type(document).__name__}, not an object")
    metadata = document.get("metadata")
    named = metadata.get("format") if isinstance(metadata, dict) else None
    if named == FORMAT:
        return
    if named is None and str(document.get("format", "")).startswith("qwen-state/v"):
        raise UnknownFormat(
            "this is the manifest of a backup, without its blobs",
            hint="Export the backup as a bundle: `torpor export ID --format bundle -o FILE`.",
        )
    version = re.fullmatch(r"qwen-state/v([0-9]{1,6})", named) if isinstance(named, str) else None
    if version and int(version[1]) > 2:
        raise NewerFormat(f"the file is {named}, and this version reads up to qwen-state/v2")
    raise UnknownFormat(f"the format is {named!r:.60}, not {FORMAT!r}")


class _Structure:
    """Finds tensors and lifted texts in a parsed document, in the order in which they stand in the file."""

    def __init__(self, skeleton: Skeleton, tagged: bool) -> None:
        self._skeleton, self._tagged = skeleton, tagged
        self.leaves: list[_Tensor | _Text] = []

    def walk(self, node: Any, path: str) -> Any:
        if isinstance(node, dict):
            if node.keys() >= _TENSOR_KEYS:
                return self._note(self._tensor(node, path))
            self.check_keys(node, path)
            for key, value in node.items():
                node[key] = self.walk(value, tree.below(path, f"/{key}"))
            return node
        if isinstance(node, list):
            for i, value in enumerate(node):
                node[i] = self.walk(value, tree.below(path, f"/{i}"))
            return node
        span = self._skeleton.lifted(node)
        return node if span is None else self._note(_Text(span))

    def check_keys(self, node: dict[str, Any], path: str) -> None:
        """Refuse keys that were lifted, and tags that only the writer may make."""
        for key in node:
            if self._skeleton.lifted(key) is not None:
                raise TooLarge(f"{path} has a key of more than a thousand bytes", hint="")
            if self._tagged and key in ("$tensor", "$bytes", "$text"):
                raise InvalidFile(f"{path}: a {key} does not stand in a v1 file")

    def _note(self, leaf: _Tensor | _Text) -> _Tensor | _Text:
        self.leaves.append(leaf)
        return leaf

    def _tensor(self, node: dict[str, Any], path: str) -> _Tensor:
        unknown = node.keys() - _KNOWN_KEYS
        dtype, shape, data, kind = node["dtype"], node["shape"], node["data"], node.get("kind", "torch")
        if unknown or kind not in _KINDS or not isinstance(node["compressed"], bool):
            raise InvalidFile(f"{path}: a tensor with {sorted(unknown) or 'an odd kind or flag'!r:.80}")
        if not isinstance(dtype, str) or not isinstance(shape, list):
            raise InvalidFile(f"{path}: a tensor without a dtype or shape")
        try:
            spec = TensorSpec(tuple(shape), dtype.removeprefix("torch."))
        except InvalidManifest as error:
            raise InvalidFile(f"{path}: {error.detail}") from error
        if not leaf_fits(spec, kind):
            raise InvalidFile(f"{path}: {kind} has no {spec.dtype} of shape {list(spec.shape)!r:.60}")
        parts = data if isinstance(data, list) else [data]
        if not all(isinstance(part, str) for part in parts):
            raise InvalidFile(f"{path}: `data` is neither text nor a list of texts")
        strings = [part if (span := self._skeleton.lifted(part)) is None else span for part in parts]
        self._check_length(path, spec, strings)
        return _Tensor(path, spec, kind, node["compressed"], strings)

    def _check_length(self, path: str, spec: TensorSpec, strings: list[str | int]) -> None:
        length = sum(self._length(s) if isinstance(s, int) else len(s) for s in strings)
        if length > _MOST_PER_BYTE * spec.size_bytes + _MOST_BESIDE:
            raise TooLarge(f"{path}: {length} characters for a tensor of {spec.size_bytes} bytes", hint="")

    def _length(self, span: int) -> int:
        return self._skeleton.spans[span].stop - self._skeleton.spans[span].start

    def check_text(self) -> None:
        total = sum(self._length(leaf.span) for leaf in self.leaves if isinstance(leaf, _Text))
        if total > MAX_TEXT_BYTES:
            raise TooLarge(f"{total} bytes of text (at most {MAX_TEXT_BYTES})", hint="")


def _read_strings(file: BinaryIO, skeleton: Skeleton, found: list[_Tensor | _Text], leaves: Leaves) -> None:
    spans = _Spans(file, skeleton)
    for leaf in sorted(found, key=_first_span):
        if isinstance(leaf, _Text):
            leaf.node = leaves.text(unescape(spans.pieces(leaf.span)))
            continue
        raw = _exactly(leaf.spec.size_bytes, _tensor_bytes(leaf, spans), leaf.path)
        leaf.node = leaves.data(raw) if leaf.kind == "bytes" else leaves.tensor(leaf.spec, leaf.kind, raw)


def _first_span(leaf: _Tensor | _Text) -> int:
    if isinstance(leaf, _Text):
        return leaf.span
    return min((text for text in leaf.strings if isinstance(text, int)), default=-1)


class _Spans:
    """The lifted strings, each asked for once and in the order of the file."""

    def __init__(self, file: BinaryIO, skeleton: Skeleton) -> None:
        self._next, self._source = 0, read_spans(inflate_file(file), skeleton.spans)

    def pieces(self, number: int) -> Iterator[bytes]:
        while self._next < number:
            next(self._source)
            self._next += 1
        self._next += 1
        return next(self._source)


def _tensor_bytes(tensor: _Tensor, spans: _Spans) -> Iterator[bytes]:
    texts = (spans.pieces(t) if isinstance(t, int) else [t.encode("ascii", "replace")] for t in tensor.strings)
    packed = (part for text in texts for part in _unbase64(text, tensor.path))
    if not tensor.compressed:
        return packed
    return inflate(packed, tensor.path, frames=True)


def _unbase64(pieces: Iterable[bytes], path: str) -> Iterator[bytes]:
    """Decode one base64 text, which may have its slashes escaped as JSON allows."""
    rest, ended = b"", False
    for piece in pieces:
        text = (rest + piece).replace(b"\\/", b"/") if b"\\" in rest + piece else rest + piece
        cut = len(text) - len(text) % 4 if not text.endswith(b"\\") else (len(text) - 1) // 4 * 4
        text, rest = text[:cut], text[cut:]
        if not text:
            continue
        if ended:
            raise InvalidFile(f"{path}: `data` is not base64")
        ended = text.endswith(b"=")
        yield _a2b(text, path)
    if rest:
        raise InvalidFile(f"{path}: `data` is not base64")


def _a2b(text: bytes, path: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        raise InvalidFile(f"{path}: `data` is not base64") from None


def _exactly(size_bytes: int, pieces: Iterable[bytes], path: str) -> Iterator[bytes]:
    """Pass pieces on, at most and at least as many bytes as declared."""
    seen = 0
    try:
        for piece in pieces:
            seen += len(piece)
            if seen > size_bytes:
                raise TooLarge(f"{path}: the data inflates beyond the declared {size_bytes} bytes", hint="")
            yield piece
    except FileDamaged as error:
        if size_bytes or seen:  # an empty tensor may come without a frame
            raise InvalidFile(error.detail) from error
    if seen != size_bytes:
        raise InvalidFile(f"{path}: the shape says {size_bytes} bytes, the data holds {seen}")


def _encode(value: Any, tagged: bool) -> Any:
    """Make the encoded tree of a layer. What Torpor wrote is one already, but for its leaves."""
    if not tagged:
        return tree.encode(value, _ready).value
    check_tree(_with_nodes(value, dummy=True))
    return _with_nodes(value)


def _ready(value: Any) -> tree.Encoded | None:
    return tree.Encoded(value.node) if isinstance(value, (_Tensor, _Text)) else None


def _with_nodes(value: Any, *, dummy: bool = False) -> Any:
    """Put the stored leaves into a structure; with `dummy`, anything in their place."""
    if isinstance(value, (_Tensor, _Text)):
        return None if dummy and not isinstance(value.node, str) else value.node  # a long `$int` is text
    if isinstance(value, dict):
        value = _unescaped(value)
        return {_encoded(key): _with_nodes(item, dummy=dummy) for key, item in value.items()}
    return [_with_nodes(item, dummy=dummy) for item in value] if isinstance(value, list) else _encoded(value)


def _encoded(value: Any) -> Any:
    """Return a scalar as a manifest can carry it: a bare NaN would become a null. Raises: UnsupportedState."""
    return tree.encode(value, _ready).value


def _unescaped(value: dict[str, Any]) -> dict[str, Any]:
    """Take back the escape of a dict that v1 would have taken for a tensor. Raises: InvalidFile."""
    pairs = value.get("$map")
    if len(value) != 1 or not isinstance(pairs, list) or not all(_is_text_pair(pair) for pair in pairs):
        return value
    made = dict(pairs)
    if len(made) != len(pairs):
        raise InvalidFile("a `$map` names a key twice")
    return made


def _is_text_pair(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) and not pair[0].startswith("$")


def _as_saved(layers: dict[LayerName, Any], about: dict[str, Any]) -> dict[LayerName, Any]:
    """Undo what the writer had to add: keys of `metadata` that v1 wants, and layers that were not there."""
    present, added, replaced = about.get("layers"), about.get("added"), about.get("replaced")
    if not isinstance(present, list) or not isinstance(added, list) or not isinstance(replaced, dict):
        raise InvalidFile(f"/metadata/{OURS} is not what Torpor writes")
    if "metadata" in about:
        layers["metadata"] = _encode(about["metadata"], tagged=True)
    else:
        theirs = _encode(replaced, tagged=True)
        kept = {key: value for key, value in layers["metadata"].items() if key not in added}
        layers["metadata"] = {key: theirs.get(key, value) for key, value in kept.items()}
    return {name: value for name, value in layers.items() if name in present}
