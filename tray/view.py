"""What the tray shows: icon, sentence and menu, as data made of what it knows. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..state.summary import Kind, sentence
from .drawing import State
from .model import Asking, Model, Session

LONGEST_NAME = 44  # characters, in a menu
MINUTE_S, HOUR_S = 60.0, 3600.0
# Where the dashboard shows what the sentence is about.
PLACES: dict[Kind, str] = {
    "damaged": "/health",
    "given-up": "/sync",
    "refused": "/sync",
    "disk-full": "/storage",
    "quota-full": "/storage",
    "watch": "/settings",
    "pairing": "/access",
}
SCOPE_WORDS = {"read": "see lists and sizes", "save": "add backups", "restore": "read sessions"}

Deed = tuple[str, ...]  # what an entry does (deeds.py), and to what


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of the menu. Without a text it is a line between others; without deed and entries it only tells.

    `name` is what one is known by whose text changes, and that has no deed.
    """

    text: str = ""
    deed: Deed | None = None
    entries: tuple[Entry, ...] = ()
    name: str = ""
    enabled: bool = True
    checked: bool | None = None
    default: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """What is shown. Two that are equal look the same: nothing is to be drawn again."""

    state: State
    title: str
    attention: bool
    menu: tuple[Entry, ...]


LINE = Entry()


def view(model: Model, now: float) -> View:
    """Say what is shown of a model, read at `now`."""
    said = said_of(model, now)
    state = state_of(model)
    return View(state, f"Torpor: {said}", state == "attention", tuple(_menu(model, said)))


def state_of(model: Model) -> State:
    """Choose the icon: how the daemon says that all is; what this tray is at is work, too."""
    if model.link != "there" or model.summary is None:
        return "away"
    level = model.summary.level
    return "busy" if level == "ok" and model.doing & {"back-up", "restore"} else level


def said_of(model: Model, now: float) -> str:
    """Return the one sentence."""
    if model.link == "there" and model.summary is not None:
        return sentence(model.summary, now)
    if "start" in model.doing:
        return "The daemon is being started"
    return "Connecting…" if model.link == "connecting" else model.trouble or "The daemon does not run"


def stays_true_s(model: Model, now: float) -> float | None:
    """Return for how many seconds the sentence is worth no second look; None where only news change it."""
    if model.link != "there" or model.summary is None:
        return None
    if model.asking:  # requests end by themselves
        return MINUTE_S
    last = model.summary.facts.last_backup_at
    if last is None or model.summary.kind not in ("safe", "local"):
        return None
    return MINUTE_S if now - last < 90 * MINUTE_S else HOUR_S / 2


def _menu(model: Model, said: str) -> Iterator[Entry]:
    there = model.link == "there" and model.summary is not None
    yield Entry(said, name="status", enabled=False)
    if there and model.summary is not None and model.summary.kind in PLACES:
        yield Entry("Look at it…", ("open", PLACES[model.summary.kind]))
    if model.asking:
        yield Entry(_pages(len(model.asking)), entries=tuple(map(_asking, model.asking)), name="pages")
    yield LINE
    if there:
        yield _back_up(model)
        yield from _pause(model)
        yield _recent(model)
        yield LINE
    elif "start" not in model.doing and model.ours and model.link == "away" and model.trouble is None:
        yield Entry("Start the daemon", ("start",))
        yield LINE
    yield Entry("Open dashboard", ("open", "/"), enabled=there, default=there)
    yield Entry("Settings", ("open", "/settings"), enabled=there)
    if model.at_login is not None:
        yield Entry("Start at login", ("at-login", "off" if model.at_login else "on"), checked=model.at_login)
    yield Entry("About Torpor", ("about",))
    yield LINE
    if there and model.ours:
        yield Entry("Stop the daemon", ("stop",), enabled="stop" not in model.doing)
    yield Entry("Quit tray", ("quit",))


def _back_up(model: Model) -> Entry:
    if "back-up" in model.doing:
        return Entry("Backing up…", name="back-up", enabled=False)
    if not model.attached:
        return Entry("Back up now (no model is attached)", name="back-up", enabled=False)
    return Entry("Back up now", ("back-up",))


def _pause(model: Model) -> Iterator[Entry]:
    assert model.summary is not None
    sync = model.summary.facts.sync
    if sync == "paused":
        yield Entry("Resume sync", ("resume",))
    elif sync != "off":
        spans = (("For 30 minutes", "1800"), ("For 1 hour", "3600"), ("Until resumed", "resumed"))
        yield Entry("Pause sync", entries=tuple(Entry(text, ("pause", span)) for text, span in spans))


def _recent(model: Model) -> Entry:
    entries = tuple(_session(session, bool(model.attached)) for session in model.sessions)
    return Entry("Recent sessions", entries=entries) if entries else Entry("Recent sessions", enabled=False)


def _session(session: Session, can_restore: bool) -> Entry:
    restore = Entry("Restore", ("restore", session.id))
    lacking = Entry("Restore (no model is attached)", enabled=False)
    show = Entry("Open in the dashboard", ("open", f"/sessions/{session.id}"))
    return Entry(name_of(session), entries=(restore if can_restore else lacking, show), name=session.id)


def name_of(session: Session) -> str:
    """Return how a session is called, in one short line: a title is whatever somebody wrote."""
    title = "".join(char if char.isprintable() else " " for char in session.title or session.id)
    name = " ".join(title.split()) or session.id
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1].rstrip() + "…"


def _asking(page: Asking) -> Entry:
    wants = ", ".join(SCOPE_WORDS.get(scope, scope) for scope in page.scopes)
    return Entry(
        f"{page.origin}   {page.code}",
        entries=(
            Entry(f"Compare: the page must show {page.code}", enabled=False),
            Entry(f"It wants to {wants}", enabled=False),
            LINE,
            Entry(f"It shows {page.code}: approve", ("approve", page.code)),
            Entry("Deny", ("deny", page.code)),
        ),
        name=page.code,
    )


def _pages(count: int) -> str:
    return "Approve pending page…" if count == 1 else f"Approve pending pages ({count})…"
