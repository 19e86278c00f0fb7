"""Notifications: one that says the same thing replaces the older one, and its buttons come back to us.

On Linux they go straight to org.freedesktop.Notifications, over the icon's own connection; elsewhere pystray shows
them.
Source: the Desktop Notifications Specification 1.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Literal, Protocol

from .menu_lines import sayable

Urgency = Literal["low", "normal", "critical"]
MOST_WAITING = 16


@dataclass(frozen=True, slots=True)
class Notice:
    """One thing to say."""

    key: str  # a later one of this key replaces it
    title: str
    body: str = ""
    urgency: Urgency = "normal"
    actions: Mapping[str, str] = field(default_factory=dict)  # what comes back -> what the button says
    on_action: Callable[[str], None] | None = None


class Shows(Protocol):
    """What is needed of a pystray icon."""

    HAS_NOTIFICATION: bool

    def notify(self, message: str, title: str | None = None) -> None:
        """Show a notification without buttons."""


class Notifications:
    """Posts notices in whatever way the platform has. From any thread; nothing is waited for."""

    def __init__(self, icon: Shows) -> None:
        self._icon = icon

    def post(
        self,
        key: str,
        title: str,
        body: str = "",
        urgency: Urgency = "normal",
        actions: Mapping[str, str] | None = None,
        on_action: Callable[[str], None] | None = None,
    ) -> None:
        """Show a notice in place of the older one of that key; `on_action` is called in the thread of the clicks."""
        post: Callable[[Notice], None] | None = getattr(self._icon, "post", None)
        if post is not None:
            post(Notice(key, title, body, urgency, dict(actions or {}), on_action))
        elif self._icon.HAS_NOTIFICATION:
            self._icon.notify(body or title, title)


def spoken(notice: Notice, capabilities: frozenset[str]) -> tuple[str, str, list[str]]:
    """Return summary, body and actions as a server of these capabilities takes them."""
    body = sayable(notice.body)
    actions = [word for pair in notice.actions.items() for word in pair] if "actions" in capabilities else []
    return (
        sayable(notice.title),
        escape(body, quote=False) if "body-markup" in capabilities else body,
        [sayable(word) for word in actions],
    )
