"""`torpor rm` can be taken back by `torpor undo`."""

from __future__ import annotations

from support.commands import as_json, run
from support.daemon import Daemon
from torpor.adapters.plain import PlainSession


def test_what_rm_removed_undo_brings_back(shared_daemon: Daemon) -> None:
    home = shared_daemon.home
    with shared_daemon.keeper() as keeper:
        made = [keeper.save("undone", PlainSession({"metadata": {"n": n}})).wait(30).id for n in range(2)]
    run(home, "pin", made[0])
    run(home, "rename", "undone", "the title")
    assert f"torpor undo {made[1]}" in " ".join(run(home, "rm", made[1]).split())
    removed = as_json(home, "rm", "--session", "undone", "--force", "--json")["removed"]
    assert removed == [made[0]]
    back = as_json(home, "undo", *made, "--json")["brought_back"]
    assert [(each["id"], each["pinned"], each["title"]) for each in back] == [
        (made[0], True, "the title"),
        (made[1], False, "the title"),
    ]
    assert "is back" in run(home, "undo", made[0])
    as_json(home, "rm", "--purge", made[1], "--json")
    run(home, "undo", made[1], status=3)
