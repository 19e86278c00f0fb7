"""A plan as the daemon tells it: by the process that has the model, and by itself when that is gone."""

from __future__ import annotations

from support.daemon import Daemon
from torpor.adapters.plain import PlainSession, PlainTarget
from torpor.client.provider import SessionTable

STATE = {"metadata": {"model_name": "m"}, "text_context": {"conversation": [{"role": "user", "content": "hello"}]}}


def test_the_process_that_has_the_model_is_asked(shared_daemon: Daemon) -> None:
    def told(**query: str) -> tuple[str, bool, str]:
        found = shared_daemon.request("GET", f"/v1/backups/{backup.id}/plan", params=query).json()
        return found["mode"], found["exact"], found["sentence"]

    sessions = SessionTable(PlainTarget)
    sessions["planned"] = PlainSession(STATE)
    with shared_daemon.keeper() as keeper:
        backup = keeper.save("planned", sessions["planned"]).wait(30)
        with keeper.attach(sessions, name="planner") as attachment:
            assert attachment.wait_connected(10)
            assert told()[:2] == ("full", True)
            assert "if the model is" not in told()[2]
            assert told(ask="false")[:2] == ("full", False)
    mode, exact, sentence = told()
    assert (mode, exact) == ("full", False)
    assert sentence.endswith("if the model is the one that it was saved from")
