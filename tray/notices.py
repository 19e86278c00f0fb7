"""What is worth a notification, and how often. Decides purely: model, events and time come in, notices go out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..state.access import Allowance
from ..state.summary import REFUSED, Facts, Kind, Level, Summary, sentence
from .model import Asking, Model
from .view import PLACES, Deed, name_of

Urgency = Literal["low", "normal", "critical"]
AGAIN_S = 3600.0  # the same trouble is told once in that time, however often it comes and goes
AT_ONCE, REFILL_S = 4, 60.0  # notifications of all kinds together
OWN_S = 3.0  # how long the word of a restore that this tray asked for may be on its way

_TITLES: dict[Kind, tuple[str, Urgency]] = {
    "damaged": ("Backups are damaged", "critical"),
    "given-up": ("Something for the bucket was given up", "normal"),
    "refused": ("The second copy needs you", "normal"),
    "disk-full": ("The disk is nearly full", "critical"),
    "quota-full": ("The quota is used up", "normal"),
    "watch": ("A watched folder cannot be read", "normal"),
}
_HINTS: dict[Kind, str] = {
    "damaged": "The dashboard says what of them comes back, and tries to mend them.",
    "given-up": "The dashboard says why, and tries them again.",
    "refused": "Until then nothing is sent; everything is safe on this machine.",
    "disk-full": "Backups of KV caches make room; free some space to keep more.",
    "quota-full": "Raise it, or remove backups that nobody needs.",
    "watch": "Files in it are not imported until it can be.",
}


@dataclass(frozen=True, slots=True)
class Notice:
    """One notification; a later one of its key takes its place. `actions` are deeds, by what stands on the button."""

    key: str
    title: str
    body: str
    urgency: Urgency = "normal"
    actions: tuple[tuple[str, Deed], ...] = ()


class Notices:
    """Remembers what was told. Not safe for several threads."""

    def __init__(self, steady: Callable[[], float]) -> None:
        self._steady, self._allowance = steady, Allowance(AT_ONCE, REFILL_S, steady)
        self._told: dict[str, int] = {}
        self._told_at: dict[str, float] = {}
        self._codes: frozenset[str] = frozenset()
        self._own_until = float("-inf")

    def of(self, model: Model, now: float) -> list[Notice]:
        """Return what is to be told of a model, read at `now`: what got worse since it was told."""
        if model.link != "there" or model.summary is None:
            return []
        amounts = dict(_amounts(model.summary.facts))
        self._told = {key: min(told, amounts.get(key, 0)) for key, told in self._told.items()}
        found = []
        for key, amount in amounts.items():
            if amount > self._told.get(key, 0) and self._may(key):
                self._told[key] = amount
                found.append(_trouble(key, model.summary.facts, now))
        return found + list(self._pages(model.asking))

    def heard(self, event: Mapping[str, Any], model: Model) -> Notice | None:
        """Return what is to be told of an event of the daemon: that somebody else woke a session."""
        if event.get("kind") != "restored" or self._steady() < self._own_until or not self._may("restored", REFILL_S):
            return None
        known = next((each for each in model.sessions if each.newest == event.get("backup_id")), None)
        body = f"{name_of(known)} was woken" if known else "A session was woken"
        return Notice("restored", "Restored elsewhere", f"{body} ({event.get('detail')}), not by this menu.", "low")

    def own_restore(self, longest_s: float = OWN_S) -> None:
        """Note that a restore which this tray asked for is going on, or has just ended."""
        self._own_until = self._steady() + longest_s

    def _pages(self, asking: tuple[Asking, ...]) -> Iterator[Notice]:
        new = [page for page in asking if page.code not in self._codes]
        self._codes &= {page.code for page in asking}
        for page in new:
            if self._allowance.take():
                self._codes |= {page.code}
                yield _page(page)

    def _may(self, key: str, again_s: float = AGAIN_S) -> bool:
        now = self._steady()
        if now - self._told_at.get(key, float("-inf")) < again_s or not self._allowance.take():
            return False
        self._told_at[key] = now
        return True


def _amounts(facts: Facts) -> Iterator[tuple[str, int]]:
    """Say how bad each trouble is: told again when it gets worse."""
    yield "damaged", facts.damaged
    yield "given-up", facts.given_up + facts.removals_given_up
    yield "disk-full", int(facts.disk_full)
    yield "quota-full", int(facts.quota_full)
    yield "watch", int(facts.watch_trouble is not None)
    if facts.sync in REFUSED:
        yield f"refused:{facts.sync}", 1


def _trouble(key: str, facts: Facts, now: float) -> Notice:
    kind: Any = key.partition(":")[0]
    title, urgency = _TITLES[kind]
    level: Level = "attention"
    said = sentence(Summary(level, kind, facts), now)
    return Notice(kind, title, f"{said}. {_HINTS[kind]}", urgency, (("Look at it", ("open", PLACES[kind])),))


def _page(page: Asking) -> Notice:
    """Tell of a page. It cannot be approved here: a page knows when this pops up, and would have it clicked."""
    body = (
        f"{page.origin} ({page.label}) shows the code {page.code}. Approve it in the menu if you see that code there."
    )
    actions: tuple[tuple[str, Deed], ...] = (("Look at it", ("open", PLACES["pairing"])), ("Deny", ("deny", page.code)))
    return Notice(f"page:{page.code}", "A web page asks for access", body, "normal", actions)
