"""What to import from a watched folder, when, and what is remembered: without files and without a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torpor.state.errors import BadInput, StoreFull, TorporError
from torpor.state.problems import to_problem
from torpor.state.watching import (
    RETRY_AT_MOST_S,
    Answer,
    Found,
    Look,
    Plan,
    Signature,
    WatchedFile,
    answer_of,
    is_utf8,
    is_watched_name,
    later,
    matches,
    plan,
    printable,
    remember,
    says_the_same,
    signed,
)

OLD_NS = 1_000_000_000_000  # long before WALL_S
WALL_S = 5_000.0


def found(size: int = 1, mtime_ns: int = OLD_NS, inode: int = 7, ctime_ns: int = 1) -> Found:
    return Found(Signature(size, mtime_ns, inode), ctime_ns)


def row(state: str = "ok", seen: Found | None = None, **other: object) -> WatchedFile:
    seen = seen or found()
    error = None if state == "ok" else BadInput("no")
    return remember("/f/a.pt", "/f", seen, Answer("failed" if error else "known", error=error), at=1.0)


def decide(
    listing: dict[str, Found],
    known: dict[str, WatchedFile],
    looks: dict[str, Look],
    now_s: float,
    wall_s: float = WALL_S,
) -> Plan:
    return plan(listing, known, looks, now_s=now_s, wall_s=wall_s, settle_s=1.0)


def test_a_file_is_ready_on_the_second_look_a_settle_time_later() -> None:
    listing = {"a": found()}
    first = decide(listing, {}, {}, 10.0)
    assert first.ready == ()
    assert first.looks["a"].due_s == 11.0
    early = decide(listing, {}, first.looks, 10.9)
    assert early.ready == ()
    assert decide(listing, {}, early.looks, 11.0).ready == ("a",)


def test_a_look_that_is_called_for_early_does_not_make_a_file_settled() -> None:
    look = Look(found().signature, since_s=10.0, due_s=0.0)
    made = decide({"a": found()}, {}, {"a": look}, 10.5)
    assert made.ready == ()
    assert made.looks["a"].due_s == 11.0


@pytest.mark.parametrize(
    "changed", [found(size=2), found(mtime_ns=OLD_NS + 1), found(inode=8)], ids=["size", "mtime", "inode"]
)
def test_a_change_between_two_looks_starts_again(changed: Found) -> None:
    first = decide({"a": found()}, {}, {}, 10.0)
    second = decide({"a": changed}, {}, first.looks, 11.0)
    assert second.ready == ()
    assert decide({"a": changed}, {}, second.looks, 12.0).ready == ("a",)


@pytest.mark.parametrize(
    ("age_s", "ready"), [(0.0, False), (0.4, False), (0.999, False), (1.0, True), (60.0, True), (-60.0, True)]
)
def test_a_file_that_was_just_modified_waits_and_one_from_the_future_does_not(age_s: float, ready: bool) -> None:
    listing = {"a": found(mtime_ns=round((WALL_S - age_s) * 1e9))}
    made = decide(listing, {}, decide(listing, {}, {}, 10.0).looks, 20.0)
    assert (made.ready == ("a",)) is ready
    if not ready:
        assert made.looks["a"].due_s == pytest.approx(20.0 + 1.0 - age_s, abs=1e-6)


def test_what_is_known_is_left_alone_until_it_changes() -> None:
    assert decide({"a": found()}, {"a": row()}, {}, 10.0) == Plan((), {}, ())
    assert decide({"a": found(ctime_ns=2)}, {"a": row()}, {}, 10.0).looks == {}
    assert "a" in decide({"a": found(size=2)}, {"a": row()}, {}, 10.0).looks


def test_a_failed_file_is_new_with_its_permissions() -> None:
    assert matches(row("failed"), found())
    assert not matches(row("failed"), found(ctime_ns=2))
    assert "a" in decide({"a": found(ctime_ns=2)}, {"a": row("failed")}, {}, 10.0).looks


def test_what_is_gone_is_forgotten() -> None:
    looks = {"b": Look(found().signature, 0.0, 0.0)}
    assert decide({}, {"a": row()}, looks, 10.0) == Plan((), {}, ("a",))


def test_the_oldest_goes_first() -> None:
    listing = {"new": found(mtime_ns=OLD_NS + 5), "old": found(mtime_ns=OLD_NS - 5), "b": found(), "a": found()}
    looks = decide(listing, {}, {}, 0.0).looks
    assert decide(listing, {}, looks, 2.0).ready == ("old", "a", "b", "new")


def test_delays_grow_to_a_limit() -> None:
    look, delays = Look(found().signature, 0.0, 0.0), []
    for _ in range(40):
        look = later(look, now_s=0.0, busy=False)
        delays.append(look.due_s)
    assert delays[:4] == [1.0, 2.0, 4.0, 8.0]
    assert delays == sorted(delays)
    assert delays[-1] == RETRY_AT_MOST_S


def test_what_happens_in_the_folder_wakes_a_busy_file_and_no_other() -> None:
    listing = {"a": found()}
    for busy in (True, False):
        look = later(Look(found().signature, 0.0, 0.0, attempts=9), now_s=10.0, busy=busy)
        assert decide(listing, {}, {"a": look}, 20.0).ready == ()
        made = plan(listing, {}, {"a": look}, now_s=20.0, wall_s=WALL_S, announced=True)
        assert made.ready == (("a",) if busy else ())


def test_what_was_read_is_remembered_not_what_was_listed() -> None:
    read = Signature(5, 6, 7)
    kept = remember("/f/a.pt", "/f", found(), Answer("imported", read, "id", "s"), at=3.0)
    assert (kept.signature, kept.state, kept.backup_id, kept.at) == (read, "ok", "id", 3.0)
    assert (
        remember("/f/a.pt", "/f", found(), Answer("failed", error=BadInput("x")), at=3.0).signature == found().signature
    )


def test_made_up_inodes_are_not_remembered() -> None:
    kept = remember("/f/a.pt", "/f", found(inode=0), Answer("known", Signature(1, OLD_NS, 99)), at=3.0)
    assert matches(kept, found(inode=0))


def test_a_failure_is_told_once_for_the_same_content_and_reason() -> None:
    old = row("failed")
    assert says_the_same(old, row("failed", found(ctime_ns=2)))
    assert not says_the_same(None, old)
    assert not says_the_same(old, row("failed", found(size=2)))
    assert not says_the_same(row(), old)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("a.qwnbak", True), ("a.pt", True), ("a b.pt", True), (".a.pt", False), (".pt", False), ("a.pt.part", False),
        ("a.pth", False), ("pt", False), ("", False), ("\udcff.pt", True),
    ],
)  # fmt: skip
def test_names(name: str, wanted: bool) -> None:
    assert is_watched_name(name) is wanted


def test_names_that_are_not_utf8_can_be_shown() -> None:
    assert printable("/f/\udcff.pt") == "/f/\\xff.pt"
    assert not is_utf8("/f/\udcff.pt")
    assert printable("/f/ä\x1b[31m\n.pt") == "/f/ä\\x1b[31m\\n.pt"
    assert is_utf8("/f/ä.pt")


@given(st.integers(-(1 << 80), 1 << 80))
def test_every_number_fits_the_index(number: int) -> None:
    assert -(1 << 63) <= signed(number) < 1 << 63
    assert (signed(number) - number) % (1 << 64) == 0


SEEN = {"size_bytes": 1, "mtime_ns": 2, "inode": 3}


def test_answers_of_the_worker() -> None:
    backup = {"id": "b", "session_id": "s", "tokens": 3}
    assert answer_of({"outcome": "imported", "backup": backup, "seen": SEEN}) == Answer(
        "imported", Signature(1, 2, 3), "b", "s"
    )
    full = answer_of({"outcome": "failed", "problem": to_problem(StoreFull("x")), "seen": None})
    assert full.transient
    assert isinstance(full.error, StoreFull)
    assert not answer_of({"outcome": "failed", "problem": to_problem(BadInput("x")), "seen": SEEN}).transient
    unknown = answer_of({"outcome": "failed", "problem": {"code": "from-the-future", "detail": "d"}, "seen": None})
    assert type(unknown.error) is TorporError
    assert "from-the-future" in unknown.error.detail
    assert answer_of({"outcome": "busy", "detail": "open"}) == Answer("busy")


@pytest.mark.parametrize(
    "value",
    [None, [], {}, "x", {"outcome": "imported"}, {"outcome": "grand"}, {"outcome": "failed", "problem": None},
     {"outcome": "failed", "problem": {"detail": "no code"}}, {"outcome": "busy", "seen": 3},
     {"outcome": "busy", "seen": {"size_bytes": 1}}, {"outcome": "imported", "backup": {"id": "b"}, "seen": SEEN}],
    ids=str,
)  # fmt: skip
def test_an_answer_that_makes_no_sense_is_a_typed_error(value: object) -> None:
    with pytest.raises(BadInput):
        answer_of(value)


# A life of one file: at each step some time passes and perhaps somebody writes.
steps = st.lists(st.tuples(st.floats(0.01, 3.0), st.sampled_from(["quiet", "quiet", "write", "remove"])), max_size=40)


@given(steps)
def test_over_any_life_of_a_file(life: list[tuple[float, str]]) -> None:
    """It is imported only settled, once for each content, and in the end what is there is what is known."""
    now, wall, size = 0.0, WALL_S, 0
    listing: dict[str, Found] = {}
    known: dict[str, WatchedFile] = {}
    looks: dict[str, Look] = {}
    changed_at, imported = now, set[int]()
    for passed_s, action in [*life, *[(1.5, "quiet")] * 3]:
        now, wall = now + passed_s, wall + passed_s
        if action == "write":
            size += 1
            listing, changed_at = {"a": found(size, round(wall * 1e9))}, now
        elif action == "remove":
            listing = {}
        made = decide(listing, known, looks, now, wall)
        looks = made.looks
        for path in made.gone:
            del known[path]
        for path in made.ready:
            assert now - changed_at >= 1.0 - 1e-6
            assert size not in imported
            imported.add(size)
            known[path] = remember(path, "/f", listing[path], Answer("imported"), at=wall)
            del looks[path]
        assert looks.keys() <= listing.keys()
    assert looks == {}
    assert {path: r.signature for path, r in known.items()} == {path: f.signature for path, f in listing.items()}
