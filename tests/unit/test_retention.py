"""What may go when a TTL is over: pins never, the newest text never, and nothing that waits for S3."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from torpor.state.retention import USED_S, Action, Policy, Tenure, newest_needed, plan_retention

NOW = 1_790_000_000.0
DAY_S = 86_400.0
WEEK_S = 7 * DAY_S


def tenure(name: str = "a", session: str = "s", age_s: float = WEEK_S + 60, **changes: object) -> Tenure:
    created = NOW - age_s
    made = Tenure(name, session, created, created + WEEK_S, created, False, True, False, "off")
    return replace(made, **changes)  # type: ignore[arg-type]


def plan(*backups: Tenure, keep: int = 0, now: float = NOW) -> list[tuple[str, str]]:
    return [(each.verb, each.backup_id) for each in plan_retention(backups, Policy(keep), now)]


NEW = tenure("z", age_s=60)


def test_nothing_goes_before_its_time() -> None:
    assert plan(tenure(age_s=WEEK_S - 60), NEW) == []
    assert plan(tenure(expires_at=None), NEW) == []


def test_what_is_over_goes_and_the_newest_keeps_its_text() -> None:
    assert plan(tenure("a"), tenure("b", age_s=WEEK_S + 1)) == [("remove", "a"), ("drop", "b")]
    assert plan(tenure("b", dropped=True)) == []
    assert plan(tenure("b", rebuildable=False)) == []


def test_text_waits_for_s3_and_the_kv_cache_does_not() -> None:
    assert plan(tenure("a", second_copy="waits"), NEW) == [("drop", "a")]
    assert plan(tenure("a", second_copy="waits", dropped=True), NEW) == []
    assert plan(tenure("a", second_copy="checked"), NEW) == [("remove", "a")]


def test_pins_and_the_newest_that_are_to_be_kept_stay() -> None:
    three = [tenure(name, age_s=WEEK_S + 100 - n) for n, name in enumerate("abc")]
    assert plan(replace(three[0], pinned=True), NEW) == []
    assert plan(*three, keep=2) == [("remove", "a")]
    assert plan(*(replace(each, keep_newest=3) for each in three)) == []
    assert plan(*(replace(each, keep_newest=0) for each in three), keep=3) == [
        ("remove", "a"),
        ("remove", "b"),
        ("drop", "c"),
    ]


def test_what_was_restored_lately_is_left_alone() -> None:
    assert plan(tenure("a", used_at=NOW - USED_S + 60), NEW) == []
    assert plan(tenure("a", used_at=NOW - USED_S - 60), NEW) == [("remove", "a")]
    assert plan(tenure("a", used_at=NOW + 10 * USED_S), NEW) == [("remove", "a")]  # as a wrong clock had it


def test_a_backup_from_the_future_does_not_stand_for_the_newest() -> None:
    ahead = tenure("y", age_s=-3650 * DAY_S)
    assert plan(tenure("a"), tenure("b", age_s=WEEK_S + 1), ahead) == [("remove", "a"), ("drop", "b")]


ages = st.floats(-10 * DAY_S, 30 * DAY_S)
tenures = st.lists(
    st.builds(
        lambda session, age_s, ttl_s, used_s, pinned, rebuildable, dropped, copy: tenure(
            session=session,
            age_s=age_s,
            expires_at=None if ttl_s is None else NOW - age_s + ttl_s,
            used_at=NOW - used_s,
            pinned=pinned,
            rebuildable=rebuildable,
            dropped=dropped,
            second_copy=copy,
        ),
        st.sampled_from("st"),
        ages,
        st.none() | st.sampled_from([3600.0, DAY_S, WEEK_S]),
        st.floats(0, 20 * DAY_S),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["off", "waits", "checked"]),
    ),
    max_size=9,
).map(lambda found: [replace(each, id=f"{n:02}") for n, each in enumerate(found)])
keeps = st.dictionaries(st.sampled_from("st"), st.integers(0, 3))


def with_keeps(backups: list[Tenure], kept: dict[str, int]) -> list[Tenure]:
    return [replace(each, keep_newest=kept.get(each.session_id)) for each in backups]


def newest_first(backups: list[Tenure], session: str) -> list[Tenure]:
    mine = [each for each in backups if each.session_id == session]
    return sorted(mine, key=lambda each: (each.created_at, each.id), reverse=True)


@given(tenures, keeps, st.integers(0, 3))
def test_what_must_stay_stays(backups: list[Tenure], kept: dict[str, int], keep: int) -> None:
    backups = with_keeps(backups, kept)
    actions = plan_retention(backups, Policy(keep), NOW)
    by_id = {each.id: each for each in backups}
    removed = {each.backup_id for each in actions if each.verb == "remove"}
    for session in "st":
        mine = newest_first(backups, session)
        count = kept.get(session, keep)
        assert not removed & {each.id for each in mine[: max(count, 1)]}
        assert not {each.backup_id for each in actions} & {each.id for each in mine[:count]}
    for action in actions:
        each = by_id[action.backup_id]
        assert not each.pinned
        assert each.expires_at is not None
        assert each.expires_at <= NOW
        assert action.verb != "remove" or each.second_copy != "waits"
        assert action.verb != "drop" or (each.rebuildable and not each.dropped)
    assert len({each.backup_id for each in actions}) == len(actions)


@given(tenures, keeps, st.randoms())
def test_the_order_of_the_rows_says_nothing_and_a_second_time_nothing_goes(
    backups: list[Tenure], kept: dict[str, int], random: object
) -> None:
    backups = with_keeps(backups, kept)
    first = plan_retention(backups, Policy(), NOW)
    shuffled = list(backups)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert set(plan_retention(shuffled, Policy(), NOW)) == set(first)
    assert plan_retention(applied(backups, first), Policy(), NOW) == []


def applied(backups: list[Tenure], actions: list[Action]) -> list[Tenure]:
    verbs = {each.backup_id: each.verb for each in actions}
    left = [each for each in backups if verbs.get(each.id) != "remove"]
    return [replace(each, dropped=each.dropped or verbs.get(each.id) == "drop") for each in left]


@given(tenures, keeps, st.integers(0, 3))
def test_the_newest_few_decide_on_each_backup(backups: list[Tenure], kept: dict[str, int], keep: int) -> None:
    """Before a removal only these are looked at again."""
    backups, policy = with_keeps(backups, kept), Policy(keep)
    whole = plan_retention(backups, policy, NOW)
    for each in backups:
        mine = newest_first(backups, each.session_id)
        few = newest_needed(each.keep_newest, policy)
        today = [other for other in mine if other.created_at <= NOW + DAY_S]
        some = {other.id: other for other in (each, *mine[:few], *today[:few])}
        again = plan_retention(some.values(), policy, NOW)
        assert [a for a in again if a.backup_id == each.id] == [a for a in whole if a.backup_id == each.id]
