"""JSON of any size in pieces: what comes out is what `json.loads` makes of it, or a typed error."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torpor.codec.json_scan import LIFT_BYTES, MAX_SKELETON_BYTES, MAX_WEIGHT, read_spans, scan, unescape
from torpor.codec.tree import MAX_DEPTH
from torpor.state.errors import InvalidFile, TooLarge, TorporError

CHARACTERS = st.characters(codec="utf-8") | st.sampled_from('"\\/\0\r\n\x7f\ufeff\u2028é🙂')
TEXTS = st.text(CHARACTERS, max_size=20) | st.builds(
    lambda part, times: part * times, st.text(CHARACTERS, min_size=1, max_size=5), st.integers(200, 1500)
)
KEYS = st.text(CHARACTERS, max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Yield the pieces of some bytes, their sizes over and over."""
    at = 0
    while at < len(data):
        for size in sizes:
            yield data[at : at + size]
            at += size


def whole(data: bytes, sizes: list[int]) -> Any:
    """Read a document with its long strings put back."""
    skeleton = scan(cut(data, sizes))
    spans = read_spans(cut(data, sizes[::-1]), skeleton.spans)
    texts = [b"".join(unescape(pieces)).decode() for pieces in spans]

    def filled(node: Any) -> Any:
        if isinstance(node, list):
            return [filled(item) for item in node]
        if isinstance(node, dict):
            return {key: filled(item) for key, item in node.items()}
        number = skeleton.lifted(node)
        return node if number is None else texts[number]

    return filled(skeleton.value)


def same(a: Any, b: Any) -> bool:
    return repr(a) == repr(b)  # tells -0.0 from 0, keeps the order of keys, and takes NaN for itself


SIZES = st.lists(st.integers(1, 40) | st.integers(500, 3000), min_size=1, max_size=4)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]), SIZES)
def test_any_document_in_any_pieces_reads_as_json_does(
    value: Any, ensure_ascii: bool, indent: int | None, sizes: list[int]
) -> None:
    data = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent).encode()
    assert same(whole(data, sizes), value)
    assert same(whole(b"\xef\xbb\xbf" + data, sizes), value)


@given(TEXTS.filter(lambda text: len(text.encode()) > LIFT_BYTES), st.booleans(), SIZES)
def test_long_strings_are_lifted_and_nothing_else(text: str, ensure_ascii: bool, sizes: list[int]) -> None:
    data = json.dumps({"a": [text, "short"], "b": text}, ensure_ascii=ensure_ascii).encode()
    skeleton = scan(cut(data, sizes))
    assert len(skeleton.spans) == 2
    assert [skeleton.lifted(node) for node in (*skeleton.value["a"], skeleton.value["b"])] == [0, None, 1]
    assert whole(data, sizes) == {"a": [text, "short"], "b": text}


@given(VALUES, st.integers(0, 5000), st.sampled_from([b'"', b"\\", b"{", b"\x00", b"\xff", b",", b"\\ud800"]), SIZES)
def test_a_damaged_document_reads_as_json_does_or_is_refused(
    value: Any, at: int, damage: bytes, sizes: list[int]
) -> None:
    data = json.dumps(value).encode()
    data = data[: at % (len(data) + 1)] + damage + data[at % (len(data) + 1) :]
    try:
        found = whole(data, sizes)
    except TorporError:
        return
    assert same(found, json.loads(data))


LONG = b"x" * (2 * LIFT_BYTES)
REFUSED = {
    "nothing": b"", "open string": b'"abc', "open long string": b'"' + LONG, "lone backslash": b'"\\', "two documents": b"1 2",
    "key twice": b'{"a":1,"a":2}', "key twice, once escaped": b'{"a":1,"\\u0061":2}', "1e999": b"[1e999]", "-1e999": b"-1e999",
    "single quotes": b"{'a':1}", "bare word": b"nil", "trailing comma": b"[1,]", "UTF-16": '"é"'.encode("utf-16"),
    "control character": b'"\x01"', "tab": b'"\t"', "bad escape": b'"\\x41"', "half an escape": b'"\\u12"',
    "not UTF-8": b'"\xff"', "overlong UTF-8": b'"\xc0\x80"', "surrogate in UTF-8": b'["' + LONG + b'\xed\xa0\x80"]',
    "too many digits": b"1" * 5000, "bracket too many": b"[]]",
}  # fmt: skip
REFUSED_LONG = {
    "control character": b"\x01", "newline": b"\n", "bad escape": b"\\x41", "half an escape": b"\\u12", "lone surrogate": b"\\ud800",
    "lone low surrogate": b"\\udc00", "surrogates the wrong way round": b"\\udc00\\ud800", "two high ones": b"\\ud800\\ud800",
    "not UTF-8": b"\xff", "half a character": b"\xf0\x9f", "control character beside an escape": b"\\n\x01",
}  # fmt: skip


@pytest.mark.parametrize("sizes", [[1], [1 << 20]], ids=["bytes", "one piece"])
@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_unsound_documents_are_refused(data: bytes, sizes: list[int]) -> None:
    with pytest.raises(InvalidFile):
        whole(data, sizes)


@pytest.mark.parametrize("sizes", [[1], [7], [1 << 20]], ids=["bytes", "sevens", "one piece"])
@pytest.mark.parametrize("head", [b"", LONG], ids=["first", "last"])
@pytest.mark.parametrize("data", REFUSED_LONG.values(), ids=REFUSED_LONG.keys())
def test_unsound_long_strings_are_refused(data: bytes, head: bytes, sizes: list[int]) -> None:
    tail = LONG if not head else b""
    with pytest.raises(InvalidFile):
        whole(b'["' + head + data + tail + b'"]', sizes)


def test_numbers_that_json_has_no_words_for_survive() -> None:
    nan, *others = whole(b"[NaN, Infinity, -Infinity, -0.0, 18446744073709551616, 5e-324]", [3])
    assert math.isnan(nan)
    assert repr(others) == "[inf, -inf, -0.0, 18446744073709551616, 5e-324]"


@pytest.mark.parametrize(
    "data",
    [
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b'{"":' * 100_000,
        b"[" + b"0," * MAX_WEIGHT + b"0]",
        b"[" + b"{}," * (MAX_WEIGHT // 4) + b"0]",
        b'["' + b'","'.join([b"x" * 1000] * (MAX_SKELETON_BYTES // 1000)) + b'"]',
        b"[" + b" " * MAX_SKELETON_BYTES + b"]",
    ],
    ids=["deep", "very deep", "many numbers", "many objects", "many short strings", "white space"],
)
def test_what_would_take_too_much_memory_is_refused_before_it_is_parsed(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("torpor.codec.json_scan._parse")
    with pytest.raises(TooLarge):
        scan(cut(data, [1 << 16]))


def test_many_long_strings_are_refused_before_they_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("torpor.codec.json_scan._parse")
    piece = b'"' + b"x" * (LIFT_BYTES + 1) + b'",'
    with pytest.raises(TooLarge):
        scan(piece for _ in range(MAX_WEIGHT // 24))


def test_the_deepest_document_is_taken() -> None:
    data = b"[" * MAX_DEPTH + b"]" * MAX_DEPTH
    assert whole(data, [64]) == json.loads(data)


def test_a_reader_may_leave_a_string_in_the_middle() -> None:
    data = json.dumps(["a" * 5000, "b" * 5000, "c" * 5000]).encode()
    spans = read_spans(cut(data, [100]), scan([data]).spans)
    assert next(next(spans))[:1] == b"a"
    next(spans)
    assert b"".join(next(spans)) == b"c" * 5000


def test_a_file_that_became_shorter_is_noticed() -> None:
    data = json.dumps(["a" * 5000]).encode()
    spans = read_spans([data[:2000]], scan([data]).spans)
    with pytest.raises(InvalidFile):
        list(next(spans))
