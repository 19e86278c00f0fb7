"""JSON documents of any size with bounded memory: long strings are lifted out, the rest is parsed as usual.

A state file is a few kilobytes of structure around strings of many megabytes (tensors as base64). One pass over the
text cuts every long string out and notes where it stands; what is left is small. A second pass reads the strings.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..state.errors import InvalidFile, TooLarge
from .tree import MAX_DEPTH

LIFT_BYTES = 1 << 10  # longer strings are lifted: a thousand of these are a megabyte
# What is left without them. A full context of 262,144 tokens is about 2 MB of text; a character beyond the BMP in every
# string makes Python take four bytes for each of theirs, and the text is there twice for a moment: 80 MB at the worst.
MAX_SKELETON_BYTES = 8 << 20
# What a document may weigh once it is parsed, in units of 64 bytes (an object takes 184 to 232, a list 64 to 88, an
# entry the rest): 32 MiB, and a copy of it. A full context is 262,144 units as a list of ids, and 29,000 messages of
# nine tokens with their parts in lists fit.
MAX_WEIGHT = 1 << 19
_SPAN_WEIGHT = 24  # of a lifted string: it becomes a leaf with a blob of its own; 21,845 of them are 22 MB of text

_ESCAPES = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")
_CONTROL = re.compile(rb"[\x00-\x1f]")
# Characters and whole escapes, a surrogate pair being one; it stops where the rest has to wait for the next piece.
_WHOLE = re.compile(
    rb"(?:[^\\]++|\\[^u]|\\u(?![dD][89abAB])[0-9a-fA-F]{4}|\\u[dD][89abAB][0-9a-fA-F]{2}\\u[0-9a-fA-F]{4})*+", re.DOTALL
)
_LONGEST_ESCAPE = 12
_HINT = "A conversation of a full context is far below this; the file was not made by saving one."


@dataclass(frozen=True, slots=True)
class Span:
    """Where the content of a lifted string stands: positions between its quotes, in the inflated text."""

    start: int
    stop: int


@dataclass(slots=True)
class Skeleton:
    """A parsed document whose long strings are placeholders, `mark` followed by the number of a span."""

    value: Any
    spans: list[Span]
    mark: str

    def lifted(self, text: Any) -> int | None:
        """Return the number of the span that a string stands for, None for any other value."""
        return int(text[len(self.mark) :]) if isinstance(text, str) and text.startswith(self.mark) else None


@dataclass(slots=True)
class _Scan:
    mark: str
    out: bytearray = field(default_factory=bytearray)
    spans: list[Span] = field(default_factory=list)
    depth: int = 0
    weight: int = 0
    string_at: int | None = None  # where the string that is being read starts, in the text
    kept_at: int = 0  # where it starts in `out`
    lifting: bool = False

    def structure(self, text: bytes) -> None:
        self.add(weight_of(text))
        for bracket in _BRACKETS.finditer(text):
            self.depth += 1 if bracket[0] in b"[{" else -1
            if self.depth > MAX_DEPTH:
                raise TooLarge(f"a document nested more than {MAX_DEPTH} deep", hint=_HINT)
        self.keep(text)

    def add(self, weight: int) -> None:
        self.weight += weight
        if self.weight > MAX_WEIGHT:
            raise TooLarge(f"a document of more values than {MAX_WEIGHT >> 14} MiB hold", hint=_HINT)

    def keep(self, text: bytes) -> None:
        self.out += text
        if len(self.out) > MAX_SKELETON_BYTES:
            raise TooLarge(f"a document of more than {MAX_SKELETON_BYTES} bytes beside its long strings", hint=_HINT)

    def open(self, at: int) -> None:
        self.keep(b'"')
        self.string_at, self.kept_at, self.lifting = at, len(self.out), False

    def inside(self, text: bytes) -> None:
        if not self.lifting:
            self.keep(text)
            if len(self.out) - self.kept_at > LIFT_BYTES:
                del self.out[self.kept_at :]
                self.lifting = True

    def close(self, at: int) -> None:
        assert self.string_at is not None
        if self.lifting:
            self.add(_SPAN_WEIGHT)
            self.keep(f"{self.mark}{len(self.spans)}".encode())
            self.spans.append(Span(self.string_at, at))
        self.keep(b'"')
        self.string_at = None


def weight_of(text: bytes) -> int:
    """Return about what a JSON text without strings weighs once it is parsed."""
    return 4 * text.count(b"{") + 2 * text.count(b"[") + text.count(b",") + text.count(b":")


def scan(pieces: Iterable[bytes]) -> Skeleton:
    """Read a JSON text. Raises: InvalidFile, TooLarge, and what reading the pieces raises."""
    found, base, carry = _Scan(f"{secrets.token_hex(16)}:"), 0, b""
    for piece in pieces:
        data = carry + piece
        used = _scan_piece(found, data, base)
        base, carry = base + used, data[used:]
    if found.string_at is not None or carry:
        raise InvalidFile("the JSON ends inside a string")
    try:
        text = found.out.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidFile(f"the file is not UTF-8: {error!s:.120}") from error
    found.out.clear()
    return Skeleton(_parse(text), found.spans, found.mark)


def _scan_piece(found: _Scan, data: bytes, base: int) -> int:
    at = 0
    while at < len(data):
        quote = data.find(b'"', at)
        stop = len(data) if quote < 0 else quote
        if found.string_at is None:
            found.structure(data[at:stop])
            if quote >= 0:
                found.open(base + quote + 1)
            at = stop + 1
            continue
        if data.find(b"\\", at, stop) >= 0:
            match = _ESCAPES.match(data, at)
            stop = match.end() if match else at
        found.inside(data[at:stop])
        if stop < len(data) and data[stop : stop + 1] == b"\\":
            return stop  # the other half of an escape comes with the next piece
        if stop < len(data):
            found.close(base + stop)
        at = stop + 1
    return len(data)


def _parse(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_float=_float, parse_constant=float)
    except RecursionError:
        raise TooLarge("the JSON is nested too deep", hint=_HINT) from None
    except ValueError as error:
        raise InvalidFile(f"the file holds no sound JSON: {error!s:.200}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise InvalidFile("an object names a key twice")
    return made


def _float(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise InvalidFile(f"the number {text[:40]} is beyond what a float can hold")
    return value


def read_spans(pieces: Iterable[bytes], spans: list[Span]) -> Iterator[Iterator[bytes]]:
    """Yield, for each span in its order, its bytes in pieces; whatever a reader leaves is skipped."""
    source, state = iter(pieces), [0, b""]  # the position of the piece in hand, and the piece

    def pieces_of(span: Span) -> Iterator[bytes]:
        at = span.start
        while at < span.stop:
            base, piece = state
            assert isinstance(base, int)
            assert isinstance(piece, bytes)
            if at >= base + len(piece):
                state[0], state[1] = base + len(piece), next(source, b"")
                if not state[1]:
                    raise InvalidFile("the file became shorter while it was read")
                continue
            part = piece[at - base : span.stop - base]
            at += len(part)
            yield part

    for span in spans:
        yield pieces_of(span)


def unescape(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the UTF-8 of a JSON string's content, in pieces. Raises: InvalidFile."""
    rest = b""
    for piece in pieces:
        data = rest + piece
        cut = _whole(data)
        rest = data[cut:]
        if len(rest) > _LONGEST_ESCAPE:
            raise InvalidFile("a string holds an unsound escape")
        yield _unescape(data[:cut])
    yield _unescape(rest)


def _whole(data: bytes) -> int:
    """Return how much of some text can be read without what comes after it."""
    match = _WHOLE.match(data)
    stop = match.end() if match else 0
    for back in range(1, min(3, stop) + 1):  # half a character in UTF-8
        byte = data[stop - back]
        if byte >= 0xC0:
            width = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return stop - back if back < width and stop == len(data) else stop
        if byte < 0x80:
            break
    return stop


def _unescape(data: bytes) -> bytes:
    try:
        if b"\\" not in data:
            if _CONTROL.search(data):
                raise InvalidFile("a string holds a bare control character")
            data.decode()
            return data
        text: str = json.loads(b'"' + data + b'"')
        return text.encode()
    except ValueError as error:
        raise InvalidFile(f"a string is not sound JSON: {error!s:.120}") from error
