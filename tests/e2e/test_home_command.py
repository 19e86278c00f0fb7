"""`torpor home move` with a daemon that runs, and what leads from the old place to the new one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from support.caches import CacheSession, CacheTarget
from support.commands import as_json, run
from support.daemon import Daemon


def test_a_home_moves_with_all_that_is_in_it(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    session = CacheSession(note={"said": "yes"})
    session.grow(300, 1)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        far = Path(other) / "home"
        with Daemon(old) as daemon:
            keeper = daemon.keeper()
            backup = keeper.save("s", session).wait(60)
            refused = as_json(old, "home", "move", far, status=4)
            assert str(os.getpid()) in refused["detail"]  # this process has the store open
            keeper.close()
        with Daemon(old) as daemon:
            run(old, "pin", "s")
            moved = as_json(old, "home", "move", far)
            assert daemon.join() == 0  # it was asked to end
            assert (moved["home"], moved["way"], moved["daemon_stopped"]) == (str(far), "copied", True)
            assert as_json(old, "status", status=8)["code"] == "daemon-not-running"
        assert as_json(old, "home", "where")["home"] == str(far)
        with Daemon(old) as daemon, daemon.keeper() as keeper:  # the old name leads to it
            assert as_json(old, "status")["home"] == str(far)
            restored = keeper.restore("s", CacheTarget(), require="full")
            assert (restored.backup.id, restored.session.digest()) == (backup.id, session.digest())
            assert keeper.api.backup(backup.id).pinned
        assert "is the home already" in run(old, "home", "move", far, status=2)
        assert "lie in each other" in run(old, "home", "move", far / "in", status=2)
        # Back to the first disk, and there to another folder: renamed, not copied.
        assert as_json(old, "home", "move", new)["way"] == "copied"
    third = tmp_path / "third"
    assert "renamed" in run(old, "home", "move", third)
    with Daemon(third) as daemon, daemon.keeper() as keeper:
        assert keeper.restore("s", CacheTarget(), require="full").session.digest() == session.digest()
