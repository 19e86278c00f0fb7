"""A keeper for a server that may start before the daemon does, or without it: there as soon as the daemon is."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ..state.errors import TorporError
from .attach import Attachment
from .backup_desk import BackupDesk
from .keeper import Keeper, connect

if TYPE_CHECKING:
    from .provider import Provider


class LateKeeper:
    """Connects whenever a keeper is needed, until one is there. Safe to use from several threads.

    `backup_app` and `backup_blueprint` take it in place of a keeper; the arguments are those of `connect`.
    """

    def __init__(self, *, home: str | Path | None = None, url: str | None = None, token: str | None = None) -> None:
        self._home, self._url, self._token = home, url, token
        self._lock, self._closed = threading.Lock(), False
        self._keeper: Keeper | None = None
        self._attached = set[Attachment]()

    def __call__(self) -> Keeper:
        """Return the keeper. Raises: DaemonNotRunning, Unauthorized, VersionMismatch."""
        with self._lock:
            if self._closed:
                raise TorporError("the keeper is closed")
            if self._keeper is None:
                self._keeper = connect(home=self._home, url=self._url, token=self._token)
            return self._keeper

    def attach(self, provider: Provider, *, name: str | None = None) -> Attachment:
        """Attach as `Keeper.attach` does, as soon as the daemon is there."""
        made = Attachment(BackupDesk(self, provider), name, self._attached.discard)
        self._attached.add(made)
        return made

    def close(self) -> None:
        """Detach, finish the saves that were started, and free everything."""
        for attachment in list(self._attached):
            attachment.close()
        with self._lock:
            self._closed, keeper = True, self._keeper
        if keeper is not None:
            keeper.close()

    def __enter__(self) -> LateKeeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
