"""Sealed objects: nothing can be altered, cut, added, moved, swapped or put under another name."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torpor.codec import cold, seal
from torpor.codec.keys import KeyRing, new_ring, ring_of, rotated
from torpor.codec.objects import Decoder, encode, open_document, seal_document
from torpor.state.errors import KeyMissing, NewerFormat, ObjectDamaged

NOW = 1_800_000_000.0
RING = new_ring(NOW)
NAME = bytes(range(32))
CHUNK = seal.CHUNK_BYTES


def stored(raw: bytes, ring: KeyRing | None = RING, associated: bytes = NAME, *, compress: bool = True) -> bytes:
    target = io.BytesIO()
    size = encode(io.BytesIO(raw), target, associated=associated, ring=ring, compress=compress)
    assert size == len(target.getvalue())
    return target.getvalue()


def read(data: bytes, ring: KeyRing | None = RING, associated: bytes = NAME, splits: list[int] | None = None) -> bytes:
    decoder, found, at = Decoder(associated, ring), b"", 0
    for size in [*(splits or []), len(data)]:
        found += b"".join(decoder.feed(data[at : at + size]))
        at += size
    decoder.finish()
    return found


def chunks(data: bytes) -> tuple[bytes, list[bytes]]:
    """Take a sealed object apart."""
    header, at, found = data[: seal.HEAD_BYTES], seal.HEAD_BYTES, []
    while at < len(data):
        length = struct.unpack_from("<I", data, at)[0] & 0x7FFFFFFF
        found.append(data[at : at + 4 + length])
        at += 4 + length
    return header, found


@given(st.binary(max_size=3000), st.lists(st.integers(0, 90), max_size=40), st.booleans(), st.booleans())
def test_every_byte_comes_back(raw: bytes, splits: list[int], compress: bool, sealed: bool) -> None:
    ring = RING if sealed else None
    assert read(stored(raw, ring, compress=compress), ring, splits=splits) == raw


@pytest.mark.parametrize("size", [CHUNK - 30, CHUNK - 28, CHUNK - 22, CHUNK, 2 * CHUNK + 1, 3 * CHUNK])
def test_sizes_at_the_border_of_a_chunk(size: int) -> None:
    raw = os.urandom(size)
    assert read(stored(raw), splits=[1, 63, 2, 500_000, 1]) == raw


def test_the_final_chunk_may_be_full() -> None:
    """The cold form of this many bytes fills its chunks to the last byte."""
    raw = os.urandom(CHUNK - 8 - 6 * (CHUNK // cold.PACKED_BYTES) - 14)
    _, found = chunks(stored(raw))
    assert [len(c) for c in found] == [4 + CHUNK + 16]
    assert read(stored(raw)) == raw


def test_every_flipped_byte_is_noticed() -> None:
    data = stored(os.urandom(60))
    for at in range(len(data)):
        for mask in (0x01, 0x80):
            altered = bytearray(data)
            altered[at] ^= mask
            with pytest.raises((ObjectDamaged, NewerFormat)):
                read(bytes(altered))


def test_every_cut_is_noticed() -> None:
    data = stored(os.urandom(60))
    for length in range(len(data)):
        with pytest.raises(ObjectDamaged):
            read(data[:length])


def sealed(raw: bytes) -> bytes:
    """Seal bytes as they are: nothing but the cipher can notice what is done to them."""
    return b"".join(seal.seal([raw], NAME, RING))


def opened(data: bytes) -> bytes:
    opener = seal.Opener(NAME, RING)
    found = b"".join(opener.feed(data))
    opener.finish()
    return found


HEADER, PARTS = chunks(sealed(bytes(4 * CHUNK)))
OTHER_HEADER, OTHER = chunks(sealed(bytes(4 * CHUNK)))


def flagged(part: bytes, final: bool) -> bytes:
    length = struct.unpack_from("<I", part)[0] & 0x7FFFFFFF
    return struct.pack("<I", length | final << 31) + part[4:]


@pytest.mark.parametrize(
    ("what", "parts"),
    [
        ("cut at the border of a chunk", PARTS[:-1]),
        ("cut there, and marked as final", [*PARTS[:2], flagged(PARTS[2], True)]),
        ("two swapped", [PARTS[1], PARTS[0], *PARTS[2:]]),
        ("one left out", [PARTS[0], *PARTS[2:]]),
        ("one twice", [PARTS[0], *PARTS]),
        ("one of another object", [OTHER[0], *PARTS[1:]]),
        ("the header of another object", [OTHER_HEADER, *PARTS]),
        ("one appended", [*PARTS, PARTS[0]]),
        ("the final one twice", [*PARTS, PARTS[-1]]),
        ("a byte appended", [*PARTS, b"x"]),
        ("the final one no longer final", [*PARTS[:-1], flagged(PARTS[-1], False)]),
        ("nothing but the header", []),
        ("a chunk of 2 GiB", [struct.pack("<I", 0x7FFFFFFF), bytes(4096)]),
        ("a chunk of no bytes", [struct.pack("<I", 1 << 31)]),
    ],
)
def test_chunks_cannot_be_moved(what: str, parts: list[bytes]) -> None:
    assert opened(HEADER + b"".join(PARTS)) == bytes(4 * CHUNK)
    header = b"" if OTHER_HEADER in parts else HEADER
    with pytest.raises(ObjectDamaged):
        opened(header + b"".join(parts))


def test_another_name_does_not_open_it() -> None:
    with pytest.raises(ObjectDamaged, match="not the one"):
        read(stored(b"text"), associated=bytes(32))


def test_a_missing_key_is_not_damage() -> None:
    other = new_ring(NOW)
    for ring in (other, None):
        with pytest.raises(KeyMissing, match=RING.current.id):
            read(stored(b"text"), ring)


def test_a_damaged_key_id_is_damage() -> None:
    data = bytearray(stored(b"text"))
    data[9] ^= 1
    with pytest.raises(ObjectDamaged, match="header"):
        read(bytes(data))


def test_old_keys_read_what_they_wrote() -> None:
    newer = rotated(RING, NOW + 5)
    assert read(stored(b"old"), newer) == b"old"
    data = stored(b"new", newer)
    assert data[8:16].hex() == newer.current.id != RING.current.id
    with pytest.raises(KeyMissing):
        read(data, RING)


def test_an_unencrypted_object_is_a_forgery_unless_there_were_some_before() -> None:
    plain = stored(b"text", None)
    with pytest.raises(ObjectDamaged, match="not encrypted"):
        read(plain, RING)
    assert read(plain, ring_of([RING.current], takes_plain=True)) == b"text"


def test_two_objects_of_the_same_bytes_share_none() -> None:
    first, second = stored(b"same" * 100), stored(b"same" * 100)
    assert first[16:48] != second[16:48]
    assert first[68:-16] != second[68:-16]  # the ciphertexts, without length and tag


def test_nothing_of_the_content_shows() -> None:
    text = b"a very private sentence " * 40
    for compress in (False, True):
        assert b"private" not in stored(text, compress=compress)


def test_randomness_is_taken_from_the_caller() -> None:
    assert seal_document(b"x", b"n", RING, bytes) == seal_document(b"x", b"n", RING, bytes)


@pytest.mark.parametrize("ring", [None, RING])
@given(raw=st.binary(max_size=500))
def test_documents_come_back(ring: KeyRing | None, raw: bytes) -> None:
    assert open_document(seal_document(raw, b"name", ring), b"name", ring) == raw


@pytest.mark.parametrize("ring", [None, RING])
def test_every_flip_and_cut_of_a_document_is_noticed(ring: KeyRing | None) -> None:
    data = seal_document(b'{"a": 1}' * 20, b"name", ring)
    for at in range(len(data)):
        altered = bytearray(data)
        altered[at] ^= 0x40
        for bad in (bytes(altered), data[:at]):
            with pytest.raises((ObjectDamaged, NewerFormat)):
                open_document(bad, b"name", ring)


def test_a_document_inflates_no_further_than_it_may() -> None:
    data = seal_document(bytes(32 << 20), b"name", None)
    assert len(data) < 32 << 10
    tracemalloc.start()
    try:
        with pytest.raises(ObjectDamaged, match="more than"):
            open_document(data, b"name", None, 1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 12 << 20
    finally:
        tracemalloc.stop()


class Repeated(io.RawIOBase):
    """A file of 256 MiB that takes no memory."""

    def __init__(self, piece: bytes, count: int) -> None:
        self._piece, self._left = piece, count

    def read(self, size: int = -1) -> bytes:
        assert size >= len(self._piece)
        self._left -= 1
        return self._piece if self._left >= 0 else b""


class Reading(io.RawIOBase):
    """Hands what is written to a decoder at once."""

    def __init__(self) -> None:
        self.decoder, self.found = Decoder(NAME, RING), 0

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.found += sum(len(piece) for piece in self.decoder.feed(data))
        return len(data)


def test_memory_is_flat_for_256_mib_in_and_out() -> None:
    piece, target = os.urandom(cold.PACKED_BYTES), Reading()
    tracemalloc.start()
    try:
        encode(Repeated(piece, (256 << 20) // len(piece)), target, associated=NAME, ring=RING)  # type: ignore[arg-type]
        assert tracemalloc.get_traced_memory()[1] < 24 << 20
    finally:
        tracemalloc.stop()
    target.decoder.finish()
    assert target.found == 256 << 20
