"""A keeper for a server that may start before the daemon does, or without it: there as soon as the daemon is."""

from __future__ import annotations

import os
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


class _Connected:
    """What one process has of a keeper that may come late."""

    def __init__(self) -> None:
        self.lock, self.closed = threading.Lock(), False
        self.keeper: Keeper | None = None
        self.attached = set[Attachment]()


class LateKeeper:
    """Connects whenever a keeper is needed, until one is there. Safe to use from several threads.

    `backup_app` and `backup_blueprint` take it in place of a keeper; the arguments are those of `connect`. A process
    that is forked connects anew: it may be made before a server forks its workers.
    """

    def __init__(self, *, home: str | Path | None = None, url: str | None = None, token: str | None = None) -> None:
        self._home, self._url, self._token = home, url, token
        self._by_process: dict[int, _Connected] = {}

    @property
    def _here(self) -> _Connected:
        return self._by_process.setdefault(os.getpid(), _Connected())

    def __call__(self) -> Keeper:
        """Return the keeper. Raises: DaemonNotRunning, Unauthorized, VersionMismatch."""
        here = self._here
        with here.lock:
            if here.closed:
                raise TorporError("the keeper is closed")
            if here.keeper is None:
                here.keeper = connect(home=self._home, url=self._url, token=self._token)
            return here.keeper

    def attach(self, provider: Provider, *, name: str | None = None) -> Attachment:
        """Attach as `Keeper.attach` does, as soon as the daemon is there."""
        attached = self._here.attached
        made = Attachment(BackupDesk(self, provider), name, attached.discard)
        attached.add(made)
        return made

    def close(self) -> None:
        """Detach, finish the saves that were started, and free everything."""
        here = self._here
        for attachment in list(here.attached):
            attachment.close()
        with here.lock:
            here.closed, keeper = True, here.keeper
        if keeper is not None:
            keeper.close()

    def __enter__(self) -> LateKeeper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
