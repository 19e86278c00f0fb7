"""What leaves when the room gets short: what the bucket has first, then what can be made again, least recently used."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from torpor.state.eviction import KINDS, NEWEST, ORDINARY, PINNED, Standing, place, plan_eviction


def test_what_the_bucket_has_goes_first_and_the_oldest_of_it_before_the_rest() -> None:
    rows = [
        Standing("a", ORDINARY, 3.0, fetchable_bytes=10, rebuildable_bytes=100),
        Standing("b", ORDINARY, 1.0, rebuildable_bytes=100),
        Standing("c", NEWEST, 0.0, fetchable_bytes=10),
        Standing("d", PINNED, 0.0, fetchable_bytes=10, rebuildable_bytes=100),
        Standing("e", NEWEST, 9.0, leftover_bytes=1),
    ]
    found = [(each.kind, each.backup_id) for each in plan_eviction(rows, 1 << 40)]
    assert found == [
        ("leftover", "e"),
        ("fetchable", "a"),
        ("fetchable", "c"),
        ("fetchable", "d"),
        ("rebuildable", "b"),
        ("rebuildable", "a"),
        ("rebuildable", "d"),
    ]
    assert [each.backup_id for each in plan_eviction(rows, 21)] == ["e", "a", "c"]


def test_what_cannot_be_reached_costs_nothing() -> None:
    rows = [Standing("a", ORDINARY, 0.0, fetchable_bytes=10)]
    assert plan_eviction(rows, 11, whole=True) == []
    assert len(plan_eviction(rows, 11)) == 1
    assert len(plan_eviction(rows, 10, whole=True)) == 1
    assert plan_eviction(rows, 0) == []


standings = st.lists(
    st.builds(
        Standing,
        st.uuids().map(str),
        st.integers(0, 2),
        st.floats(0, 10),
        *[st.integers(0, 5) for _ in KINDS],
    ),
    max_size=12,
    unique_by=lambda each: each.backup_id,
)


@given(standings, st.integers(0, 60), st.booleans(), st.randoms())
def test_it_frees_what_is_asked_for_and_no_more_than_its_last_step(
    rows: list[Standing], excess: int, whole: bool, random: object
) -> None:
    found = plan_eviction(rows, excess, whole=whole)
    freed, total = sum(each.size_bytes for each in found), sum(row.of(kind) for row in rows for kind in KINDS)
    if found:
        assert freed - found[-1].size_bytes < excess
    assert freed >= excess or freed == (0 if whole else total)
    by_id = {row.backup_id: row for row in rows}
    keys = [(KINDS.index(each.kind), place(by_id[each.backup_id])) for each in found]
    assert keys == sorted(set(keys))
    shuffled = list(rows)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert plan_eviction(shuffled, excess, whole=whole) == found
