"""Which backup a live session was last saved as or restored from: the parent of its next one."""

from __future__ import annotations

import weakref

from ..state.errors import UnsupportedState


class Lineage:
    """Backup ids of living sessions, by the session object itself (it need not be hashable)."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[object], str]] = {}

    @staticmethod
    def check(session: object) -> None:
        """Make sure that a session can be followed. Raises: UnsupportedState."""
        try:
            weakref.ref(session)
        except TypeError:
            raise UnsupportedState(
                f"a {type(session).__name__} cannot be saved: it takes no weak references",
                hint="Hand over a session object of an adapter, e.g. PlainSession(state).",
            ) from None

    def of(self, session: object) -> str | None:
        """Return the backup that a session comes from."""
        known = self._known.get(id(session))
        return known[1] if known is not None and known[0]() is session else None

    def note(self, session: object, backup_id: str) -> None:
        """Note that a session is now saved as a backup. Raises: UnsupportedState."""
        self.check(session)
        key = id(session)
        self._known[key] = weakref.ref(session, lambda _: self._known.pop(key, None)), backup_id
