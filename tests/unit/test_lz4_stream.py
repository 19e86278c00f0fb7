"""LZ4 frames in pieces: whole or refused, and never more than a piece at once."""

from __future__ import annotations

import io

import lz4.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torpor.codec.lz4_stream import MOST_TINY_FRAMES, PIECE_BYTES, inflate, inflate_file
from torpor.state.errors import FileDamaged, TooLarge, TorporError, UnknownFormat

DATA = st.binary(max_size=300) | st.builds(
    lambda part, n: part * n, st.binary(min_size=1, max_size=40), st.integers(1, 9000)
)
OPTIONS = st.fixed_dictionaries(
    {
        "content_checksum": st.booleans(),
        "block_checksum": st.booleans(),
        "block_linked": st.booleans(),
        "store_size": st.booleans(),
        "block_size": st.sampled_from([0, lz4.frame.BLOCKSIZE_MAX64KB, lz4.frame.BLOCKSIZE_MAX4MB]),
        "compression_level": st.sampled_from([0, 9, -5]),
    }
)


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(DATA, OPTIONS, st.integers(1, 5000))
def test_any_frame_in_any_pieces(data: bytes, options: dict[str, int], size: int) -> None:
    packed = lz4.frame.compress(data, **options)
    assert b"".join(inflate(pieces(packed, size), "it")) == data
    assert b"".join(inflate_file(io.BytesIO(packed))) == data


@given(st.lists(DATA, min_size=1, max_size=5), OPTIONS, st.integers(1, 5000))
def test_frames_one_after_the_other(parts: list[bytes], options: dict[str, int], size: int) -> None:
    packed = pieces(b"".join(lz4.frame.compress(part, **options) for part in parts), size)
    assert b"".join(inflate(packed, "it", frames=True)) == b"".join(parts)
    if len(parts) > 1:
        with pytest.raises(FileDamaged):
            list(inflate(packed, "it"))


@given(DATA, st.integers(1, 5000), st.data())
def test_a_frame_that_was_cut_short_is_noticed(data: bytes, size: int, draw: st.DataObject) -> None:
    packed = lz4.frame.compress(data, content_checksum=True)
    cut = packed[: draw.draw(st.integers(0, len(packed) - 1))]
    with pytest.raises(FileDamaged):
        list(inflate(pieces(cut, size), "it"))
    with pytest.raises(FileDamaged):
        list(inflate(pieces(packed + cut, size), "it", frames=True) if cut else inflate([], "it"))


@given(st.binary(min_size=1, max_size=300), st.data())
def test_a_flipped_bit_is_noticed_or_changes_nothing(data: bytes, draw: st.DataObject) -> None:
    packed = bytearray(lz4.frame.compress(data, content_checksum=True))
    packed[draw.draw(st.integers(0, len(packed) - 1))] ^= 1 << draw.draw(st.integers(0, 7))
    try:
        assert b"".join(inflate_file(io.BytesIO(packed))) == data
    except TorporError:
        return


def test_a_bomb_comes_in_bounded_pieces() -> None:
    packed = lz4.frame.compress(bytes(40 << 20))
    sizes = [len(piece) for piece in inflate([packed], "it")]
    assert max(sizes) <= PIECE_BYTES
    assert sum(sizes) == 40 << 20


def test_a_skippable_frame_between_frames_is_skipped() -> None:
    skippable = (0x184D2A51).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    packed = lz4.frame.compress(b"one") + skippable + lz4.frame.compress(b"two")
    assert b"".join(inflate([packed], "it", frames=True)) == b"onetwo"


def test_a_great_many_frames_of_nothing_are_refused() -> None:
    few = [lz4.frame.compress(b"")] * (MOST_TINY_FRAMES - 1) + [lz4.frame.compress(b"x" * 5000)] * 1000
    assert sum(map(len, inflate(few, "it", frames=True))) == 5_000_000
    with pytest.raises(TooLarge):
        list(inflate([lz4.frame.compress(b"") * 100_000], "it", frames=True))


@pytest.mark.parametrize("head", [b"PK\x03\x04", b"\x02\x21\x4c\x18", b"\x50\x2a\x4d\x18", b"{}", b"\x04\x22\x4d\x19"])
def test_a_file_that_is_no_frame_is_of_another_format(head: bytes) -> None:
    with pytest.raises(UnknownFormat):
        list(inflate_file(io.BytesIO(head + bytes(50))))
