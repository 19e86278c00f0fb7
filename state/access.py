"""Who may do what: scopes of tokens, origins of web pages, and how often somebody may be wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from .errors import BadInput

ScopeName = Literal["read", "save", "restore", "manage", "approve", "metrics"]
PageScopeName = Literal["read", "save", "restore"]

# What each scope opens. `owner` is not among them: keys and new tokens take the token of the home folder.
SCOPES: dict[ScopeName, str] = {
    "read": "lists, titles, sizes and status",
    "save": "add backups",
    "restore": "read the content of backups",
    "manage": "pin, remove, rename, import, watch folders, steer the second copy",
    "approve": "let web pages in that ask for it, and throw them out",
    "metrics": "read /metrics",
}
PAGE_SCOPES: tuple[PageScopeName, ...] = get_args(PageScopeName)  # of what a web page may ask for
DASHBOARD_SCOPES: tuple[ScopeName, ...] = ("read", "save", "restore", "manage", "approve")
OWNER = frozenset({"owner"})
MAX_LABEL_CHARS = 80
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::([1-9][0-9]{0,4}))?\Z")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller may do. One with an `origin` is the page of that origin and nobody else."""

    name: str
    scopes: frozenset[str]
    origin: str | None = None

    @property
    def owner(self) -> bool:
        """Tell whether it is whoever can read the home folder."""
        return self.scopes == OWNER

    def may(self, any_of: frozenset[str]) -> bool:
        """Tell whether one of these scopes is among its own; the owner may do everything."""
        return self.owner or bool(self.scopes & any_of)


def parse_scopes(names: Iterable[str], allowed: Iterable[str] = tuple(SCOPES)) -> frozenset[str]:
    """Check names of scopes; at least one. Raises: BadInput."""
    found, known = frozenset(names), tuple(allowed)
    if not found:
        raise BadInput("a token without a scope opens nothing", hint=f"Scopes are {', '.join(known)}.")
    if unknown := sorted(found - set(known)):
        raise BadInput(f"{unknown[0][:40]!r} is not a scope that can be given", hint=f"Scopes are {', '.join(known)}.")
    return found


def parse_origin(text: str) -> str:
    """Check the origin of a page as browsers write it. Raises: BadInput.

    Plain http is taken from this machine only: from elsewhere anybody on the way can speak for it. `null`, which every
    sandboxed frame and local file has, is nobody's.
    """
    found = _ORIGIN.match(text) if len(text) <= 255 else None
    if found is None:
        raise BadInput(f"{text[:80]!r} is not the origin of a web page", hint="An origin looks like https://host:port.")
    scheme, host, _ = found.groups()
    if scheme == "http" and host not in _LOOPBACK and not host.endswith(".localhost"):
        raise BadInput(f"{text[:80]} is not safe on its way here", hint="Serve the page by https, or on this machine.")
    return text


def parse_label(text: str) -> str:
    """Check the name that a token is listed by: one line. Raises: BadInput."""
    label = text.strip()
    if not label or len(label) > MAX_LABEL_CHARS or not label.isprintable():
        raise BadInput(
            f"{label[:80]!r} is not a label", hint=f"A label is one line of 1 to {MAX_LABEL_CHARS} characters."
        )
    return label


class Allowance:
    """So many times at once, and then one in so many seconds. Not safe for several threads."""

    def __init__(self, times: int, refill_s: float, steady: Callable[[], float]) -> None:
        self._times, self._refill_s, self._steady = times, refill_s, steady
        self._left, self._at = float(times), steady()

    def take(self) -> bool:
        """Use one; False when none is left."""
        now = self._steady()
        self._left = min(self._left + (now - self._at) / self._refill_s, float(self._times))
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
