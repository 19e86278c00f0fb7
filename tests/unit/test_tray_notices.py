"""What is worth a notification: what got worse, once, and never so many that nobody reads them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from torpor.state.summary import Facts, summarise
from torpor.tray.model import Asking, Model, Session
from torpor.tray.notices import AGAIN_S, AT_ONCE, OWN_S, Notice, Notices

NOW = 1_800_000_000.0
WELL = Facts(sessions=3, last_backup_at=NOW, sync="idle")


class Clock:
    """A steady clock that the test moves."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def clock() -> Clock:
    return Clock()


def model(asking: tuple[Asking, ...] = (), **facts: Any) -> Model:
    named = tuple(page.origin for page in asking)
    return Model(link="there", summary=summarise(replace(WELL, asking=named, **facts)), asking=asking)


def told(notices: Notices, *models: Model) -> list[str]:
    return [notice.key for each in models for notice in notices.of(each, NOW)]


@pytest.mark.parametrize(
    ("facts", "title", "urgency", "place"),
    [
        ({"damaged": 2}, "Backups are damaged", "critical", "/health"),
        ({"given_up": 1}, "Something for the bucket was given up", "normal", "/sync"),
        ({"disk_full": True, "disk_free_bytes": 1 << 30}, "The disk is nearly full", "critical", "/storage"),
        ({"quota_full": True}, "The quota is used up", "normal", "/storage"),
        ({"sync": "denied"}, "The second copy needs you", "normal", "/sync"),
        ({"watch_trouble": "gone"}, "A watched folder cannot be read", "normal", "/settings"),
    ],
)
def test_trouble_is_told_with_the_sentence_and_a_way_to_it(
    clock: Clock, facts: dict[str, Any], title: str, urgency: str, place: str
) -> None:
    (notice,) = Notices(clock).of(model(**facts), NOW)
    assert (notice.title, notice.urgency) == (title, urgency)
    assert notice.body.endswith(".")
    assert notice.actions == (("Look at it", ("open", place)),)


def test_what_is_well_or_away_is_not_told(clock: Clock) -> None:
    notices = Notices(clock)
    offline, paused = model(sync="offline", waiting=3), model(sync="paused")
    assert told(notices, model(), offline, paused, Model(link="away"), Model()) == []


def test_the_same_is_told_once_and_worse_again_after_an_hour(clock: Clock) -> None:
    notices = Notices(clock)
    assert told(notices, model(damaged=1), model(damaged=1), model(damaged=2)) == ["damaged"]
    clock.at += AGAIN_S
    assert told(notices, model(damaged=2), model(damaged=2)) == ["damaged"]
    clock.at += AGAIN_S
    assert told(notices, model(damaged=2), model(damaged=1), model(damaged=1)) == []
    assert told(notices, model(damaged=2)) == ["damaged"]


def test_a_disk_that_fills_and_empties_does_not_chatter(clock: Clock) -> None:
    notices = Notices(clock)
    assert told(notices, *[model(disk_full=bool(n % 2)) for n in range(20)]) == ["disk-full"]


def test_another_refusal_is_another_trouble(clock: Clock) -> None:
    notices = Notices(clock)
    assert told(notices, model(sync="denied"), model(sync="key-missing"), model(sync="denied")) == ["refused"] * 2


def test_pages_are_told_with_their_code_and_cannot_be_approved_in_passing(clock: Clock) -> None:
    page = Asking("482-193", "https://chat.example", "Chat", ("save",))
    notices = Notices(clock)
    (notice,) = notices.of(model((page,)), NOW)
    assert notice.key == "page:482-193"
    assert "https://chat.example" in notice.body
    assert "482-193" in notice.body
    assert [deed for _, deed in notice.actions] == [("open", "/access"), ("deny", "482-193")]
    assert notices.of(model((page,)), NOW) == []


def test_many_pages_are_told_few_at_a_time(clock: Clock) -> None:
    pages = tuple(Asking(f"000-{n:03}", "https://a", "A", ("save",)) for n in range(8))
    notices = Notices(clock)
    assert len(notices.of(model(pages), NOW)) == AT_ONCE
    assert notices.of(model(pages), NOW) == []
    clock.at += 130.0
    assert [each.key for each in notices.of(model(pages), NOW)] == ["page:000-004", "page:000-005"]


def test_a_restore_by_somebody_else_is_told_and_ours_is_not(clock: Clock) -> None:
    notices = Notices(clock)
    here = replace(model(), sessions=(Session("chat", "Hiking", "01B"),))
    event = {"kind": "restored", "backup_id": "01B", "detail": "full in 0.20 s"}
    found = notices.heard(event, here)
    assert isinstance(found, Notice)
    assert (found.key, found.urgency) == ("restored", "low")
    assert "Hiking was woken (full in 0.20 s)" in found.body
    assert notices.heard(event, here) is None  # within the minute
    assert notices.heard({"kind": "saved"}, here) is None
    clock.at += 60.0
    notices.own_restore(float("inf"))
    assert notices.heard(event, here) is None
    notices.own_restore()
    clock.at += OWN_S - 1
    assert notices.heard(event, here) is None
    clock.at += 1
    unknown = notices.heard(event | {"backup_id": None}, here)
    assert unknown is not None
    assert "A session was woken" in unknown.body
