"""An inference process, attached to the daemon of a home folder (its argument); what it is asked to save it never ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import Any

from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.client import connect
from torpor.client.provider import SessionTable


class Stuck(SessionTable):
    """Lends its sessions to nobody."""

    @contextmanager
    def hold(self, session_id: str) -> Iterator[Any]:
        """Say that it was asked, and wait for ever."""
        if session_id in self:
            print("holding", flush=True)
            Event().wait()
        with super().hold(session_id) as session:
            yield session


def main() -> None:
    table = Stuck(PlainTarget)
    table["stuck"] = PlainSession({"metadata": {}})
    with connect(home=sys.argv[1]) as keeper, keeper.attach(table, name="worker") as attachment:
        attachment.wait_connected(30)
        print("attached", flush=True)
        Event().wait()
