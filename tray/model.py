"""What the tray knows: how the daemon says that all is, and what can be done about it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..state.summary import Summary

Link = Literal["connecting", "there", "away"]
SHOWN_SESSIONS = 8


@dataclass(frozen=True, slots=True)
class Session:
    """A session that can be woken."""

    id: str
    title: str | None
    newest: str  # backup


@dataclass(frozen=True, slots=True)
class Asking:
    """A web page that asks for access, and the code that it shows."""

    code: str
    origin: str
    label: str
    scopes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """Everything that the icon and its menu are made of.

    `doing` are deeds that were asked for and have not ended; `at_login` is None where that cannot be had; `ours` is
    whether the daemon runs on this machine, as this user. `trouble` says why the daemon cannot be spoken with, where it
    is not simply away.
    """

    link: Link = "connecting"
    trouble: str | None = None
    summary: Summary | None = None
    sessions: tuple[Session, ...] = ()
    asking: tuple[Asking, ...] = ()
    attached: int = 0
    doing: frozenset[str] = field(default_factory=frozenset)
    at_login: bool | None = False
    ours: bool = True
    pid: int | None = None
    version: str | None = None
    home: str | None = None
    panel: str = "auto"


def read_sessions(answer: Mapping[str, Any]) -> tuple[Session, ...]:
    """Read what `/v1/sessions` answered."""
    rows = answer["sessions"][:SHOWN_SESSIONS]
    return tuple(Session(row["session_id"], row["title"], row["newest"]["id"]) for row in rows)


def read_asking(answer: Mapping[str, Any]) -> tuple[Asking, ...]:
    """Read what `/v1/pair/requests` answered: those that nobody decided on yet."""
    return tuple(
        Asking(each["code"], each["origin"], each["label"], tuple(each["scopes"]))
        for each in answer["requests"]
        if each["state"] == "pending"
    )
