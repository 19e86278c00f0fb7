"""What the tray shows of what it knows: icon, sentence, menu; as data, without a screen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
from torpor.state.summary import Facts, summarise
from torpor.tray.deeds import World
from torpor.tray.model import Asking, Model, Session, read_asking, read_sessions
from torpor.tray.view import LONGEST_NAME, Entry, name_of, said_of, stays_true_s, view

NOW = 1_800_000_000.0
WELL = Facts(sessions=14, last_backup_at=NOW - 120, sync="idle")
SESSIONS = (Session("chat-1", "Hiking in Yunnan", "01B"), Session("chat-2", None, "01A"))
THERE = Model(link="there", summary=summarise(WELL), sessions=SESSIONS, attached=1, pid=7, version="1.0", home="/h")
PAGE = Asking("482-193", "https://chat.example", "Chat", ("restore", "save"))


def every(entries: Iterable[Entry]) -> list[Entry]:
    return [each for entry in entries for each in (entry, *every(entry.entries))]


def find(model: Model, text: str) -> Entry | None:
    return next((each for each in every(view(model, NOW).menu) if each.text == text), None)


def deeds(model: Model) -> dict[str, tuple[str, ...] | None]:
    return {each.text: each.deed for each in every(view(model, NOW).menu) if each.text and each.enabled}


def test_what_is_well() -> None:
    shown = view(THERE, NOW)
    assert (shown.state, shown.attention) == ("ok", False)
    assert shown.title == "Torpor: All 14 sessions are safe, last 2 min ago"
    first = shown.menu[0]
    assert (first.text, first.enabled, first.deed) == ("All 14 sessions are safe, last 2 min ago", False, None)
    assert [each.text for each in shown.menu if each.default] == ["Open dashboard"]
    assert deeds(THERE) == {
        "Back up now": ("back-up",),
        "Pause sync": None,
        "For 30 minutes": ("pause", "1800"),
        "For 1 hour": ("pause", "3600"),
        "Until resumed": ("pause", "resumed"),
        "Recent sessions": None,
        "Hiking in Yunnan": None,
        "chat-2": None,
        "Restore": ("restore", "chat-2"),
        "Open in the dashboard": ("open", "/sessions/chat-2"),
        "Open dashboard": ("open", "/"),
        "Settings": ("open", "/settings"),
        "Start at login": ("at-login", "on"),
        "About Torpor": ("about",),
        "Stop the daemon": ("stop",),
        "Quit tray": ("quit",),
    }


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"sync": "busy", "waiting": 2}, "busy"),
        ({"sync": "paused"}, "paused"),
        ({"sync": "offline"}, "offline"),
        ({"damaged": 1}, "attention"),
        ({"asking": ("https://a",)}, "attention"),
    ],
)
def test_the_icon_follows_the_daemons_level(change: dict[str, object], state: str) -> None:
    shown = view(replace(THERE, summary=summarise(replace(WELL, **change))), NOW)  # type: ignore[arg-type]
    assert (shown.state, shown.attention) == (state, state == "attention")


def test_without_a_daemon_there_is_one_thing_to_do() -> None:
    away = Model(link="away")
    assert (view(away, NOW).state, said_of(away, NOW)) == ("away", "The daemon does not run")
    assert {"Start the daemon", "Start at login", "About Torpor", "Quit tray"} == set(deeds(away))
    refused = replace(away, trouble="The token is wrong")  # it runs: starting it mends nothing
    assert said_of(refused, NOW) == "The token is wrong"
    assert find(refused, "Start the daemon") is None
    starting = replace(away, doing=frozenset({"start"}))
    assert said_of(starting, NOW) == "The daemon is being started"
    assert find(starting, "Start the daemon") is None
    elsewhere = replace(away, ours=False)
    assert find(elsewhere, "Start the daemon") is None
    assert find(replace(THERE, ours=False), "Stop the daemon") is None
    connecting = Model()
    assert said_of(connecting, NOW) == "Connecting…"
    assert find(connecting, "Start the daemon") is None


def test_what_cannot_be_done_says_why() -> None:
    alone = replace(THERE, attached=0)
    lacking = find(alone, "Back up now (no model is attached)")
    assert lacking is not None
    assert not lacking.enabled
    assert find(alone, "Restore") is None
    assert not find(alone, "Restore (no model is attached)").enabled  # type: ignore[union-attr]
    assert find(replace(THERE, sessions=()), "Recent sessions") == Entry("Recent sessions", enabled=False)
    at_it = replace(THERE, doing=frozenset({"back-up"}))
    assert view(at_it, NOW).state == "busy"
    assert find(at_it, "Backing up…") is not None
    local = replace(THERE, summary=summarise(replace(WELL, sync="off")))
    assert find(local, "Pause sync") is None
    paused = replace(THERE, summary=summarise(replace(WELL, sync="paused")))
    assert find(paused, "Pause sync") is None
    assert find(paused, "Resume sync") == Entry("Resume sync", ("resume",))


def test_a_page_is_approved_by_the_code_that_it_shows() -> None:
    model = replace(THERE, summary=summarise(replace(WELL, asking=(PAGE.origin,))), asking=(PAGE,))
    entry = find(model, "https://chat.example   482-193")
    assert entry is not None
    assert [each.text for each in entry.entries if each.text] == [
        "Compare: the page must show 482-193",
        "It wants to read sessions, add backups",
        "It shows 482-193: approve",
        "Deny",
    ]
    assert [each.deed for each in entry.entries if each.deed] == [("approve", "482-193"), ("deny", "482-193")]
    assert find(model, "Approve pending page…") is not None
    assert find(model, "Look at it…") == Entry("Look at it…", ("open", "/access"))
    both = replace(model, asking=(PAGE, replace(PAGE, code="000-001")))
    assert find(both, "Approve pending pages (2)…") is not None


def test_where_desktops_do_not_read_the_file_it_is_not_offered() -> None:
    assert find(replace(THERE, at_login=None), "Start at login") is None
    assert [World({}, print, lambda: lambda: None, print, name).at_login() for name in ("win32", "darwin")] == [
        None,
        None,
    ]
    assert World({"XDG_CONFIG_HOME": "/nonexistent"}, print, lambda: lambda: None, print, "linux").at_login() is False


def test_titles_are_what_somebody_wrote() -> None:
    assert name_of(Session("a", "  two\n\tlines \u202e", "01")) == "two lines"
    assert name_of(Session("a", " \n ", "01")) == "a"
    long = name_of(Session("a", "word " * 40, "01"))
    assert len(long) <= LONGEST_NAME
    assert long.endswith("…")


def test_the_clock_is_looked_at_only_while_it_is_said() -> None:
    assert stays_true_s(THERE, NOW) == 60
    assert stays_true_s(THERE, NOW + 7200) == 1800
    assert stays_true_s(replace(THERE, summary=summarise(replace(WELL, sync="offline"))), NOW) is None
    assert stays_true_s(replace(THERE, summary=summarise(Facts())), NOW) is None
    assert stays_true_s(replace(THERE, asking=(PAGE,)), NOW) == 60  # requests end by themselves
    assert stays_true_s(Model(link="away"), NOW) is None


def test_answers_are_read() -> None:
    rows = [{"session_id": f"s{n}", "title": None, "newest": {"id": f"0{n}"}, "more": 1} for n in range(20)]
    assert [each.id for each in read_sessions({"sessions": rows})] == [f"s{n}" for n in range(8)]
    asked = {"code": "1", "origin": "https://a", "label": "A", "scopes": ["save"], "asked_at": 1.0}
    answer = {"requests": [asked | {"state": "approved"}, asked | {"state": "pending", "code": "2"}]}
    assert read_asking(answer) == (Asking("2", "https://a", "A", ("save",)),)
