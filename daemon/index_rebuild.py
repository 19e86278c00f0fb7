"""`torpor index rebuild`: the index is made again from the files, while no daemon runs."""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack
from dataclasses import asdict

from ..db.soundness import log_of
from ..store.home import Home
from .compose import compose
from .index_care import Rebuilt, SetAside, set_aside, settle_index
from .instance import InstanceLock
from .reconcile import reconcile
from .settings import Settings

log = logging.getLogger("torpor.index")


def rebuild_index(home: Home, settings: Settings, now: float) -> Rebuilt:
    """Make the index again from the files, whatever it is like.

    Raises: DaemonAlreadyRunning, StoreFull, StoreFailed.
    """
    os.umask(0o077)
    home.create()
    with ExitStack() as stack:
        stack.callback(InstanceLock(home).close)
        there = os.path.lexists(home.index) or os.path.lexists(log_of(home.index))
        aside = set_aside(home, "a rebuild was asked for", now) if there else SetAside("it was gone", None)
        catalog = compose(home, settings, stack)
        found = reconcile(catalog)
        log.info("reconciled: %s", asdict(found))
        made = settle_index(catalog, aside, found)
        assert made is not None
        return made
