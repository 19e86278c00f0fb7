"""What an inference process tells of its sessions, so that others can have them saved and woken: the port."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, runtime_checkable

from ..state.errors import SessionNotFound
from .capture import Restored, RestoreTarget, SessionSource


class Provider(Protocol):
    """The sessions of a process. Called from threads of the SDK."""

    def sessions(self) -> Sequence[str]:
        """Return the ids of the sessions that are awake."""
        ...

    def hold(self, session_id: str) -> AbstractContextManager[SessionSource]:
        """Lend a session while nothing changes it. Raises: SessionNotFound."""
        ...

    def pause(self) -> AbstractContextManager[Any]:
        """Let nothing use the model meanwhile: a session is being woken in it."""
        ...

    def target(self) -> RestoreTarget[Any]:
        """Return what sessions are woken in: the model that is loaded now."""
        ...

    def woken(self, session_id: str, restored: Restored[Any]) -> None:
        """Take a session that was woken, in place of the one of this id. Called while `pause` is held."""
        ...


@runtime_checkable
class Conversing(Protocol):
    """A provider that can tell what is said in a session without holding it."""

    def conversation(self, session_id: str) -> Sequence[Any] | None:
        """Return the messages of a session that is awake, None of any other."""
        ...


@runtime_checkable
class Busy(Protocol):
    """A provider that can tell whether `hold` would have to wait."""

    def busy(self) -> bool:
        """Tell whether something is being generated or woken right now."""
        ...


@runtime_checkable
class Named(Protocol):
    """A provider that can name its model for people."""

    def model_name(self) -> str:
        """Return the model's name."""
        ...


class SessionTable(MutableMapping[str, Any]):
    """A provider: sessions by their id, one model, and one lock that whoever uses the model holds.

    `make_target` is asked each time, so that another model may be loaded meanwhile. What generates does so with
    `table.lock` held; saves and restores wait for it then.
    """

    def __init__(self, make_target: Callable[[], RestoreTarget[Any]], lock: Any = None) -> None:
        self._make_target, self._sessions = make_target, dict[str, Any]()
        self.lock = lock if lock is not None else threading.RLock()

    def __getitem__(self, session_id: str) -> Any:
        return self._sessions[session_id]

    def __setitem__(self, session_id: str, session: Any) -> None:
        self._sessions[session_id] = session

    def __delitem__(self, session_id: str) -> None:
        del self._sessions[session_id]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._sessions))

    def __len__(self) -> int:
        return len(self._sessions)

    def sessions(self) -> Sequence[str]:
        """Return the ids of the sessions that are awake."""
        return list(self._sessions)

    @contextmanager
    def hold(self, session_id: str) -> Iterator[SessionSource]:
        """Lend a session while the lock is held. Raises: SessionNotFound."""
        with self.lock:
            if session_id not in self._sessions:
                raise SessionNotFound(f"session {session_id} is not awake in this process")
            yield self._sessions[session_id]

    def busy(self) -> bool:
        """Tell whether another thread has the lock."""
        free = self.lock.acquire(blocking=False)
        if free:
            self.lock.release()
        return not free

    def pause(self) -> AbstractContextManager[Any]:
        """Return the lock."""
        return self.lock

    def target(self) -> RestoreTarget[Any]:
        """Return what sessions are woken in."""
        return self._make_target()

    def woken(self, session_id: str, restored: Restored[Any]) -> None:
        """Take a session that was woken."""
        self._sessions[session_id] = restored.session

    def conversation(self, session_id: str) -> Sequence[Any] | None:
        """Return the messages of a session that can tell them."""
        told = getattr(self._sessions.get(session_id), "messages", None)
        return told() if callable(told) else None
