"""The cold form: every byte comes back, whatever the splits; what is hostile is refused before it takes memory."""

from __future__ import annotations

import io
import os
import random
import struct
import tracemalloc

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from torpor.codec.cold import CHUNK_BYTES, EXCHANGED, MAGIC, PACKED_BYTES, Unpacker, pack, plane_bytes
from torpor.state.errors import NewerFormat, ObjectDamaged

HEAD = MAGIC + b"\x01"
HEAD_2 = MAGIC + b"\x02"
BORDERS = [at + more for at in (PACKED_BYTES, CHUNK_BYTES) for more in (-1, 0, 1, at, at + 3)]


def cold(raw: bytes, *, compress: bool = True) -> bytes:
    return b"".join(pack(io.BytesIO(raw), compress=compress))


def warm(stored: bytes, splits: list[int] | None = None) -> bytes:
    reader, found, at = Unpacker(), b"", 0
    for size in [*(splits or []), len(stored)]:
        found += b"".join(reader.feed(stored[at : at + size]))
        at += size
    reader.finish()
    return found


def floats(count: int, width: int, seed: int = 7) -> bytes:
    """Numbers whose high bytes are alike: bf16 (2) or float32 (4)."""
    chance = random.Random(seed)
    made = b"".join(struct.pack("<f", chance.gauss(0.0, 3.0)) for _ in range(count))
    return made if width == 4 else b"".join(made[i + 2 : i + 4] for i in range(0, len(made), 4))


@given(
    st.one_of(
        st.binary(max_size=4000),
        st.builds(lambda b, n: (b * n)[:5000], st.binary(min_size=1, max_size=9), st.integers(1, 2000)),
        st.builds(
            lambda n, w, cut: floats(n, w)[cut:], st.integers(0, 900), st.sampled_from([2, 4]), st.integers(0, 3)
        ),
    ),
    st.lists(st.integers(0, 70), max_size=40),
    st.booleans(),
)
def test_every_byte_comes_back(raw: bytes, splits: list[int], compress: bool) -> None:
    assert warm(cold(raw, compress=compress), splits) == raw


@pytest.mark.parametrize("size", BORDERS)
@pytest.mark.parametrize("kind", ["noise", "floats", "zeros"])
def test_sizes_at_the_border_of_a_chunk(size: int, kind: str) -> None:
    block = {"noise": os.urandom(40_000), "floats": floats(40_000, 2), "zeros": bytes(40_000)}[kind]
    raw = (block * (size // len(block) + 1))[:size]
    assert warm(cold(raw), [1, 7, 70_000, 3, 1_200_000]) == raw


@pytest.mark.parametrize(("width", "ratio"), [(2, 1.3), (4, 1.1)])
def test_planes_of_floats_lie_together(width: int, ratio: float) -> None:
    raw = floats(120_000, width)
    stored = cold(raw)
    assert stored[len(HEAD)] & ~EXCHANGED == width
    assert len(raw) > ratio * len(stored)


@pytest.mark.parametrize("width", [2, 4])
def test_an_exponent_whose_lowest_bit_says_little_lies_in_one_byte(width: int) -> None:
    chance = random.Random(2)
    made = [struct.pack("<f", chance.choice((-1, 1)) * chance.uniform(1, 2))[4 - width :] for _ in range(60_000)]
    stored = cold(b"".join(made))
    assert stored[: len(HEAD) + 1] == HEAD_2 + bytes([width | EXCHANGED])
    assert warm(stored) == b"".join(made)


@given(st.binary(min_size=1, max_size=300), st.sampled_from([2, 4]))
def test_exchanged_bits_come_back(raw: bytes, width: int) -> None:
    """Made here bit by bit, as the format says, and read."""
    planes = [bytearray(raw[i::width]) for i in range(width)]
    for at in range(len(planes[-1])):
        low, high = planes[-2][at], planes[-1][at]
        planes[-2][at], planes[-1][at] = low & 0x7F | high & 0x80, high & 0x7F | low & 0x80
    stored = HEAD_2 + chunk(width | EXCHANGED, 0, len(raw), *planes) + end(len(raw))
    assert warm(stored) == raw


def test_numbers_without_an_exponent_of_eight_bits_keep_to_version_1() -> None:
    """So an older program reads float16, text and documents; sign and exponent lie in one byte of float16 as it is."""
    chance = random.Random(5)
    for raw in (
        b"".join(struct.pack("<e", chance.gauss(0.0, 1.0)) for _ in range(60_000)),
        b'{"a": [1, 2, 3]}' * 900,
        b"",
    ):
        stored = cold(raw)
        assert stored.startswith(HEAD)
        assert warm(stored) == raw


def test_the_kind_of_a_chunk_follows_what_comes() -> None:
    """Numbers behind text behind numbers: each is packed well, but for the chunk behind a change."""
    text = (b"the quick brown fox jumps over the lazy dog; " * 70_000)[: 4 * PACKED_BYTES]
    numbers = (floats(40_000, 2) * 14)[: 4 * PACKED_BYTES]
    raw = numbers + text + os.urandom(2 * PACKED_BYTES) + numbers
    stored = cold(raw)
    assert warm(stored) == raw
    assert len(stored) < 2 * len(cold(numbers)) + len(cold(text)) + 4 * PACKED_BYTES


def test_text_is_packed_as_it_is() -> None:
    chance = random.Random(3)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(900)]
    raw = " ".join(chance.choices(words, k=20_000)).encode()
    stored = cold(raw)
    assert stored[len(HEAD) : len(HEAD) + 2] == b"\x01\x01"
    assert len(stored) < len(raw) / 2


def test_what_does_not_pack_costs_next_to_nothing() -> None:
    raw = os.urandom(3 * CHUNK_BYTES + 17)
    assert len(cold(raw)) <= len(raw) * 1.001
    assert len(cold(bytes(len(raw)), compress=False)) <= len(raw) * 1.001


class Dribble(io.RawIOBase):
    """A source that gives a few bytes at a time, as a pipe does."""

    def __init__(self, raw: bytes) -> None:
        self._file = io.BytesIO(raw)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 70_001))


def test_short_reads_make_the_same_object() -> None:
    raw = floats(400_000, 2) + os.urandom(CHUNK_BYTES)
    assert b"".join(pack(Dribble(raw))) == cold(raw)  # type: ignore[arg-type]


def test_every_cut_is_noticed() -> None:
    stored = cold(floats(500, 2))
    for length in range(len(stored)):
        with pytest.raises(ObjectDamaged):
            warm(stored[:length])


def test_a_flipped_byte_is_noticed_or_changes_raw_bytes_alone() -> None:
    raw = floats(300, 2)
    stored = cold(raw)
    for at in range(len(stored)):
        for mask in (0x01, 0x80, 0xFF):
            altered = bytearray(stored)
            altered[at] ^= mask
            try:
                found = warm(bytes(altered))
            except (ObjectDamaged, NewerFormat):
                continue
            assert len(found) == len(raw)  # the digest of the blob tells the rest


def chunk(width: int, packed: int, raw_bytes: int, *planes: bytes) -> bytes:
    sizes = b"".join(struct.pack("<I", len(p)) for i, p in enumerate(planes) if packed >> i & 1)
    return struct.pack("<BBI", width, packed, raw_bytes) + sizes + b"".join(planes)


def end(total: int) -> bytes:
    return bytes(6) + struct.pack("<Q", total)


BOMB = zstandard.ZstdCompressor().compress(bytes(64 << 20))
PACKED = zstandard.ZstdCompressor().compress(bytes(100))


def raw_of(frame: bytes) -> bytes:
    return HEAD + chunk(1, 1, 100, frame) + end(100)


@pytest.mark.parametrize(
    ("what", "stored"),
    [
        ("nothing", b""),
        ("another file", b"\x89PNG\r\n\x1a\n" + bytes(100)),
        ("version 0", MAGIC + b"\x00" + end(0)),
        ("a frame that inflates to 64 MiB", raw_of(BOMB[:99])),
        ("a chunk larger than any", HEAD + chunk(1, 0, CHUNK_BYTES + 1, bytes(CHUNK_BYTES + 1)) + end(CHUNK_BYTES + 1)),
        ("a chunk of 4 GiB", HEAD + struct.pack("<BBI", 1, 0, 0xFFFFFFFF)),
        ("an empty chunk", HEAD + struct.pack("<BBI", 1, 0, 0) + end(0)),
        ("a width of 3", HEAD + chunk(3, 0, 3, b"abc") + end(3)),
        ("a width of 255", HEAD + chunk(255, 0, 3, b"abc") + end(3)),
        ("an exchange in version 1", HEAD + chunk(0x82, 0, 2, b"a", b"b") + end(2)),
        ("an exchange of one plane", HEAD_2 + chunk(0x81, 0, 2, b"ab") + end(2)),
        ("an exchange of no plane", HEAD_2 + chunk(0x80, 0, 0) + end(0)),
        ("an exchange of three planes", HEAD_2 + chunk(0x83, 0, 3, b"a", b"b", b"c") + end(3)),
        ("a plane that is not there is packed", HEAD + chunk(1, 2, 100, PACKED) + end(100)),
        ("a packed plane larger than what it holds", HEAD + chunk(1, 1, len(PACKED) - 1, PACKED) + end(9)),
        ("a packed plane of no bytes", HEAD + chunk(1, 1, 100, b"") + end(100)),
        ("bytes behind the frame", raw_of(PACKED + b"x")),
        ("two frames", raw_of(PACKED + PACKED)),
        ("a frame cut short", raw_of(PACKED[:-1])),
        ("no frame", raw_of(b"no frame at all")),
        ("another size than the chunk says", HEAD + chunk(1, 1, 101, PACKED) + end(101)),
        ("bytes behind the end", HEAD + chunk(1, 0, 3, b"abc") + end(3) + b"x"),
        ("a chunk too few", HEAD + chunk(1, 0, 3, b"abc") + end(6)),
        ("a chunk too many", HEAD + chunk(1, 0, 3, b"abc") * 2 + end(3)),
        ("an end with a size", HEAD + chunk(1, 0, 3, b"abc") + struct.pack("<BBI", 0, 0, 1) + bytes(8)),
    ],
)
def test_hostile_objects(what: str, stored: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ObjectDamaged):
            warm(stored)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20, what
    finally:
        tracemalloc.stop()


def test_nobody_waits_for_a_plane_of_4_gib() -> None:
    for width, sizes in ((1, [0xFFFFFFFF]), (2, [0xFFFFFFFF, 7]), (1, [CHUNK_BYTES])):
        head = struct.pack("<BBI", width, (1 << width) - 1, CHUNK_BYTES) + struct.pack(f"<{width}I", *sizes)
        with pytest.raises(ObjectDamaged, match="not smaller"):
            list(Unpacker().feed(HEAD + head))


def test_a_newer_version_is_named() -> None:
    with pytest.raises(NewerFormat, match="version 3"):
        warm(MAGIC + b"\x03" + bytes(50))


def test_no_memory_is_taken_for_the_window_that_a_frame_asks_for() -> None:
    """A frame by hand (RFC 8878): a window of 128 MiB, 300 bytes, and a block of as many equal ones; then cut short."""
    frame = zstandard.MAGIC_NUMBER.to_bytes(4, "little") + bytes([0x40, (27 - 10) << 3])
    frame += struct.pack("<H", 300 - 256) + (300 << 3 | 0b011).to_bytes(3, "little") + b"x"
    assert warm(HEAD + chunk(1, 1, 300, frame) + end(300)) == b"x" * 300
    with pytest.raises(ObjectDamaged) as caught:
        warm(HEAD + chunk(1, 1, 300, frame[:-1]) + end(300))
    assert "too much memory" in str(caught.value.__cause__)


def test_memory_is_flat_for_a_bomb_that_is_read_piece_by_piece() -> None:
    stored = cold(bytes(64 << 20))
    assert len(stored) < 64 << 10
    tracemalloc.start()
    try:
        reader = Unpacker()
        assert sum(len(piece) for piece in reader.feed(stored)) == 64 << 20
        reader.finish()
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_what_is_not_taken_comes_with_the_next_feed() -> None:
    raw = os.urandom(2 * CHUNK_BYTES + 5)
    reader, stored = Unpacker(), cold(raw)
    first = next(iter(reader.feed(stored[:-1])))
    rest = b"".join(reader.feed(stored[-1:]))
    reader.finish()
    assert first + rest == raw


@given(st.integers(1, 5000), st.sampled_from([1, 2, 4]))
def test_the_planes_of_a_chunk(size: int, width: int) -> None:
    assert plane_bytes(size, width) == [len(bytes(size)[i::width]) for i in range(width)]
