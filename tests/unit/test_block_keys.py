"""Keys of blocks are equal exactly when everything up to the end of the block is."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torpor.state.block_keys import Medium, Run, TokenRow, block_keys, pack_ids, runs_of, usable_tokens
from torpor.state.fingerprint import KV_PARTS, VISION_PARTS, Fingerprint

FULL = Fingerprint(*(["same"] * 12))
BLOCK = 4
PLACE = 9  # the placeholder's id

GRIDS = ((1, 2, 4), (1, 4, 2), (1, 4, 6), (2, 2, 4))  # 2, 2, 6 and 4 placeholders
IMAGES = st.builds(Medium, st.sampled_from(["a" * 64, "b" * 64]), st.sampled_from(GRIDS), st.booleans())
PARTS = st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=5) | IMAGES, max_size=6)
MODELS = st.sampled_from([FULL, replace(FULL, adapters="lora"), replace(FULL, vision_weights="other tower")])


def row_of(parts: list[list[int] | Medium]) -> TokenRow:
    """Lay parts out, with a separator around each image."""
    ids: list[int] = []
    runs = []
    for part in parts:
        if isinstance(part, list):
            ids += part
            continue
        size = part.grid[0] * part.grid[1] * part.grid[2] // 4
        runs.append(Run(len(ids) + 1, len(ids) + 1 + size, part))
        ids += [7, *[PLACE] * size, 8]
    return TokenRow(pack_ids(ids), tuple(runs))


def meaning(row: TokenRow, model: Fingerprint, end: int) -> object:
    """Everything that the first `end` positions of the KV depend on, spelled out."""
    stands = [
        (at, run.medium, at - run.start) for run in row.runs for at in range(run.start, run.stop) if run.start < end
    ]
    seen = [entry for entry in stands if entry[0] < end]
    parts = KV_PARTS + (VISION_PARTS if seen else ())
    return row.ids[: end * 8], tuple(seen), tuple(model.part(part) for part in parts)


@given(PARTS, PARTS, PARTS, MODELS, MODELS)
def test_keys_are_equal_exactly_when_the_beginnings_are(
    common: list[list[int] | Medium],
    left: list[list[int] | Medium],
    right: list[list[int] | Medium],
    one: Fingerprint,
    other: Fingerprint,
) -> None:
    a, b = row_of(common + left), row_of(common + right)
    keys_a, keys_b = block_keys(a, one, len(a), BLOCK), block_keys(b, other, len(b), BLOCK)
    assert len(keys_a) == len(a) // BLOCK
    assert len(set(keys_a)) == len(keys_a)
    for i, (x, y) in enumerate(zip(keys_a, keys_b, strict=False)):
        end = (i + 1) * BLOCK
        assert (x == y) == (meaning(a, one, end) == meaning(b, other, end))


@given(PARTS, st.integers(0, 60))
def test_a_shorter_cache_has_the_first_of_the_keys(parts: list[list[int] | Medium], tokens: int) -> None:
    row = row_of(parts)
    whole = block_keys(row, FULL, len(row), BLOCK)
    assert block_keys(row, FULL, tokens, BLOCK) == whole[: tokens // BLOCK]


IMAGE = Medium("a" * 64, (1, 4, 4))
ROW = row_of([[0] * 5, IMAGE, [1] * 20])  # the image's placeholders are 6 to 10


@pytest.mark.parametrize("part", KV_PARTS)
def test_an_unknown_model_has_no_keys(part: str) -> None:
    assert block_keys(ROW, replace(FULL, **{part: None}), 30, BLOCK) == ()


@pytest.mark.parametrize("part", VISION_PARTS)
def test_an_unknown_encoder_ends_the_chain_at_the_first_image(part: str) -> None:
    assert block_keys(ROW, replace(FULL, **{part: None}), 30, BLOCK) == block_keys(ROW, FULL, 4, BLOCK)


def test_an_unknown_image_ends_the_chain() -> None:
    unknown = TokenRow(ROW.ids, (replace(ROW.runs[0], medium=None),))
    assert block_keys(unknown, FULL, 30, BLOCK) == block_keys(ROW, FULL, 4, BLOCK)


def test_an_unknown_image_ends_the_chain_behind_a_known_one_in_its_block() -> None:
    small = Medium("d" * 64, (1, 2, 2))
    row = row_of([small, [0] * 13])
    both = TokenRow(row.ids, (*row.runs, Run(2, 3)))
    assert block_keys(both, FULL, 16, BLOCK) == ()


@pytest.mark.parametrize("change", [{"offset": 4}, {"medium": replace(IMAGE, is_video=True)}], ids=["frame", "video"])
def test_another_frame_of_a_film_is_another_picture(change: Any) -> None:
    other = TokenRow(ROW.ids, (replace(ROW.runs[0], **change),))
    assert [x == y for x, y in zip(block_keys(other, FULL, 30, BLOCK), block_keys(ROW, FULL, 30, BLOCK), strict=True)] == [
        True, *[False] * 6,
    ]  # fmt: skip


def test_another_encoder_changes_only_what_comes_after_an_image() -> None:
    other = block_keys(ROW, replace(FULL, vision_weights="other"), 30, BLOCK)
    assert [x == y for x, y in zip(other, block_keys(ROW, FULL, 30, BLOCK), strict=True)] == [True] + [False] * 6


def test_the_encoding() -> None:
    """It is on disk: it may not change without a new version. Written out here once more, by hand."""

    def framed(*fields: bytes) -> bytes:
        return b"".join(len(field).to_bytes(8, "little") + field for field in fields)

    def numbers(*values: int) -> bytes:
        return b"".join(value.to_bytes(8, "little") for value in values)

    model, encoder = FULL.key(KV_PARTS), FULL.key(VISION_PARTS)
    assert model is not None
    assert encoder is not None
    version = b"torpor-block-key-v1"
    first = sha256(framed(version, model.encode(), b"", b"", numbers(0, 0, 0, 0)))
    run = framed(b"a" * 64, numbers(1, 4, 4), numbers(0) + b"\0")
    ids = numbers(0, 7, PLACE, PLACE)
    second = sha256(framed(version, model.encode(), encoder.encode(), first.digest(), ids) + run)
    assert block_keys(ROW, FULL, 8, BLOCK) == (first.hexdigest(), second.hexdigest())


def test_media_are_paired_with_runs_in_their_order() -> None:
    second = Medium("b" * 64, (1, 2, 2))
    assert runs_of([(2, 6), (9, 10)], [False, False], [IMAGE, second], 2) == (Run(2, 6, IMAGE), Run(9, 10, second))


def test_a_video_takes_a_run_for_each_frame() -> None:
    film = Medium("c" * 64, (2, 2, 4), is_video=True)
    runs = runs_of([(0, 4), (6, 8), (10, 12)], [False, True, True], [IMAGE, film], 2)
    assert runs == (Run(0, 4, IMAGE), Run(6, 8, film, 0), Run(10, 12, film, 2))


@pytest.mark.parametrize(
    ("videos", "media"),
    [
        ([False, False], [IMAGE]),
        ([False, False], [IMAGE, IMAGE, IMAGE]),
        ([False, False], [IMAGE, replace(IMAGE, grid=(1, 4, 6))]),
        ([False, True], [IMAGE, IMAGE]),
        ([False, False], [replace(IMAGE, grid=(1, 4, 6))]),
        ([False, False], [IMAGE, replace(IMAGE, grid=(0, 0, 0)), IMAGE]),
        ([False, False], []),
    ],
    ids=["too few", "too many", "another size", "another kind", "more than wanted", "an empty one", "none"],
)
def test_media_that_do_not_fit_are_all_unknown(videos: list[bool], media: list[Medium]) -> None:
    assert runs_of([(0, 4), (6, 10)], videos, media, 2) == (Run(0, 4), Run(6, 10))


@pytest.mark.parametrize(
    ("cached", "usable"), [(0, 0), (5, 5), (6, 6), (7, 6), (9, 6), (10, 10), (30, 30), (31, 30), (99, 30)]
)
def test_an_image_is_taken_whole_and_one_id_is_left(cached: int, usable: int) -> None:
    assert len(ROW) == 31
    assert usable_tokens(ROW, cached) == usable


def test_a_row_that_is_too_short_for_anything() -> None:
    assert usable_tokens(TokenRow(b""), 64) == 0
    assert usable_tokens(TokenRow(pack_ids([1])), 64) == 0
