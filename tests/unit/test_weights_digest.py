"""The canonical digest of weights, by lines alone."""

from __future__ import annotations

from itertools import permutations

import pytest
from torpor.codec.weights import WeightLine, lines_digest, weight_digests, without_ties

TIES = {"lm_head.weight": "embed.weight"}


def line(name: str, digest: str = "a", dtype: str = "bfloat16", shape: tuple[int, ...] = (2, 3)) -> WeightLine:
    return WeightLine(name, dtype, shape, digest)


def test_the_order_of_tensors_does_not_matter() -> None:
    lines = [line("a"), line("b", "b"), line("visual.c")]
    assert len({weight_digests(order, {}) for order in permutations(lines)}) == 1


@pytest.mark.parametrize(
    "other",
    [line("b"), line("a", "b"), line("a", dtype="float16"), line("a", shape=(3, 2)), line("a", shape=(6,))],
    ids=str,
)
def test_everything_about_a_tensor_counts(other: WeightLine) -> None:
    assert lines_digest([line("a")]) != lines_digest([other])


def test_contents_that_change_places_are_seen() -> None:
    assert lines_digest([line("a", "x"), line("b", "y")]) != lines_digest([line("a", "y"), line("b", "x")])
    assert lines_digest([line("a", "x"), line("b", "y"), line("c", "x")]) != lines_digest(
        [line("a", "x"), line("b", "y"), line("c", "y")]
    )


def test_a_name_cannot_pass_for_two_lines() -> None:
    forged = line('a","bfloat16",[2,3],"a"]\n["b')
    assert lines_digest([forged]) != lines_digest([line("a"), line("b")])


def test_language_and_vision_are_apart() -> None:
    both = weight_digests([line("model.layers.0.w"), line("model.visual.blocks.0.w", "v")], {})
    assert both.language == weight_digests([line("model.layers.0.w")], {}).language
    assert (
        both.language == weight_digests([line("model.layers.0.w"), line("model.visual.blocks.0.w", "w")], {}).language
    )
    assert weight_digests([line("model.layers.0.w")], {}).vision == "none"


def test_a_tie_counts_once_whether_it_is_there_or_not() -> None:
    source, tied = line("embed.weight"), line("lm_head.weight")
    expected = weight_digests([source], TIES)
    assert weight_digests([source, tied], TIES) == expected
    assert weight_digests([tied], TIES) == expected  # a writer that kept the other name
    assert weight_digests([source, line("lm_head.weight", "b")], TIES) != expected
    assert weight_digests([source, tied, line("norm.weight")], TIES) != expected  # equal bytes alone are no tie


def test_chains_and_rings_of_ties_end() -> None:
    lines = {name: line(name) for name in ("a", "b", "c")}
    assert set(without_ties(lines, {"a": "b", "b": "c"})) == {"c"}
    assert set(without_ties({"a": line("a")}, {"a": "b", "b": "c"})) == {"c"}
    assert without_ties(lines, {"a": "b", "b": "a"})
